"""Decoding: from the bytes of an image file to upright pixels of 8 bits."""

import numpy as np
from PIL import Image, ImageOps

from tasks.opening import open_image

SIXTEEN_BITS = 257  # 65535 / 255


def decode(data: bytes, channels: int, at_least: int | None = None) -> np.ndarray:
    """Decode to uint8 (height, width, channels): upright, on white where it is see-through.

    The first frame of an animation; 16 bits scaled to 8. With `at_least`, a JPEG may be decoded
    smaller, to no side below that. Raises whatever Pillow raises on bad bytes.
    """
    with open_image(data) as opened:
        if at_least is not None:
            opened.draft(None, (at_least, at_least))
        opened.load()
        image = upright(opened)
        if image.mode == "F" or image.mode.startswith("I"):
            image = Image.fromarray(_eight_bits(np.asarray(image)))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        mode = "L" if channels == 1 else "RGB"
        # Only "1" and "L" go straight to grey: the palette and CMYK have no way there but RGB.
        if image.mode not in ("1", "L", "LA", "RGB", "RGBA"):
            image = image.convert("RGB")
        array = np.asarray(image if image.mode == mode else image.convert(mode))
    return array.reshape(*array.shape[:2], channels)


def upright(image: Image.Image) -> Image.Image:
    """Turn as EXIF says. Reading EXIF is slow, so it is read only where there is some."""
    if "exif" not in image.info and "Raw profile type exif" not in image.info:
        return image
    try:
        return ImageOps.exif_transpose(image)
    # Its EXIF block is broken, not the image: show it as it lies.
    except Exception:
        return image


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Grey of 16 bits, or of floats in [0, 1] or [0, 255], to uint8."""
    if values.dtype.kind == "f":
        values = np.nan_to_num(values)
        values = values * (255 if values.max(initial=0) <= 1 else 1)
    else:
        values = np.clip(values, 0, 65_535) / SIXTEEN_BITS
    return np.clip(np.round(values), 0, 255).astype(np.uint8)
