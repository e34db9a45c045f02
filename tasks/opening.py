"""Opening image bytes that nobody vouches for: which formats, and nothing that runs another program."""

import io
import warnings

from PIL import Image

# Pillow's own decoders only. EPS would start Ghostscript; PSD, WMF, FITS and the like are not
# what training images come in, and each more decoder is one more to trust.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif"}
    | {".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".avif"}
)
# Pictures to a user, yet none of ours: they are rejected by name, where a text file is ignored.
FOREIGN = frozenset(
    {".eps", ".ps", ".ai", ".svg", ".psd", ".wmf", ".emf", ".heic", ".heif", ".ico", ".icns", ".tga"}
    | {".dds", ".xcf", ".exr", ".hdr", ".cr2", ".nef", ".arw", ".dng", ".jxl", ".dcm", ".pcx", ".fits"}
)


def open_image(data: bytes) -> Image.Image:
    """Read an image's header. Raises whatever Pillow raises, which is more than OSError."""
    # Each caller holds the size in the header against a limit of its own; Pillow's two are fixed.
    Image.MAX_IMAGE_PIXELS = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(io.BytesIO(data), formats=FORMATS)
