"""Masks: from the pixels of an image's partner to a map, each pixel of which is the id of what it shows."""

import numpy as np

from tasks.decoding import decode, upright
from tasks.opening import open_image
from tasks.params.values import Mask

NAMED = 3  # unknown values, at most, of which a reason tells


class Unmapped(ValueError):
    """A mask that `preprocess.mask` does not map; `reason` is what it is rejected by."""

    def __init__(self, reason: str, found: str) -> None:
        super().__init__(found)
        self.reason = reason


def read(data: bytes, mask: Mask) -> np.ndarray:
    """The pixels of a mask, upright, as its rule looks at them: (H, W, 1) values, or (H, W, 3) colours.

    Of a palette PNG the values are its indices, unless the rule is of greys or colours. Raises whatever
    Pillow raises on bad bytes.
    """
    if mask.threshold is not None or mask.colours is not None:
        return decode(data, 1 if mask.colours is None else 3)
    with open_image(data) as opened:
        opened.load()
        image = upright(opened)
        if image.mode not in ("1", "L", "P", "F") and not image.mode.startswith("I"):
            image = image.convert("RGB")
        pixels = np.asarray(image)
    return pixels.reshape(*pixels.shape[:2], -1)


def mapped(pixels_HWC: np.ndarray, mask: Mask) -> np.ndarray:
    """The map of ids of what `read` gave, uint8 (H, W, 1).

    Raises Unmapped if a pixel is none of those that the rule names.
    """
    if mask.threshold is not None:
        return (pixels_HWC >= mask.threshold).astype(np.uint8)
    if mask.colours is not None:
        known = [int(colour.removeprefix("#"), 16) for colour in mask.colours]
        pixels_HWC = pixels_HWC.astype(np.int32) @ np.array([[1 << 16], [1 << 8], [1]])
    else:
        known = list(range(mask.ids)) if mask.ids is not None else list(mask.values or ())
        if (pixels_HWC != pixels_HWC[..., :1]).any():
            raise Unmapped("unknown_id", "the mask is in colour: name its colours in preprocess.mask.colours")
        pixels_HWC = pixels_HWC[..., :1]
    id_of = {value: n for n, value in enumerate(known)}
    found, place_HWC = np.unique(pixels_HWC, return_inverse=True)
    unknown = [value for value in found.tolist() if value not in id_of]
    if unknown:
        names = [format(value, "06x" if mask.colours else "g") for value in unknown]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise Unmapped(
            "unknown_colour" if mask.colours else "unknown_id",
            f"the mask holds {', '.join(names[:NAMED])}{more}, which preprocess.mask does not name",
        )
    return np.array([id_of[value] for value in found.tolist()], np.uint8)[place_HWC].reshape(pixels_HWC.shape)
