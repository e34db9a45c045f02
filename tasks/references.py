"""Images of reference, which a family is given beside those that it is trained on: styles, for one.

They lie in a folder that the user names (`train.references`), or nowhere: then a tracked file says so,
since DVC watches nothing that has no path.
"""

import hashlib
from pathlib import Path

import numpy as np

from tasks.errors import UserError
from tasks.layout import NO_REFERENCES
from tasks.opening import SUFFIXES

MOST = 256  # a few are meant; the checkpoint keeps something of each


def files(path: Path) -> list[Path]:
    """The images of a folder, at any depth, in the order of their paths; none of NO_REFERENCES.

    Raises UserError if it is missing, no folder, without an image, or holds too many.
    """
    key = "params.yaml: train.references"
    if path == NO_REFERENCES:
        return []
    if not path.is_dir():
        found = "is no folder" if path.exists() else "not found"
        raise UserError(f"{key}: {path}: {found}. Give a folder of images, or {NO_REFERENCES} for none.")
    images = sorted(each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES and each.is_file())
    if not images:
        raise UserError(f"{key}: {path}: holds no image. Put some there, or give {NO_REFERENCES} for none.")
    if len(images) > MOST:
        raise UserError(f"{key}: {path}: holds {len(images):,} images, and {MOST} at most are taken.")
    return images


def part(path: Path) -> dict[str, str]:
    """The part of a recipe that the images of a folder are. Raises UserError as `files`."""
    return {"input.references": digest(path)}


def digest(path: Path) -> str:
    """What stands for the images of a folder in a recipe. Raises UserError as `files`."""
    told = hashlib.sha256()
    for image in files(path):
        name = image.relative_to(path).as_posix()
        told.update(f"{name}\0{hashlib.sha256(image.read_bytes()).hexdigest()}\n".encode())
    return told.hexdigest()


def read(path: Path, channels: int, size: int) -> np.ndarray:
    """The images of a folder (R, channels, size, size) uint8, cut to their middle square.

    Raises UserError as `files`, and for an image that can't be decoded.
    """
    from PIL import Image, ImageOps

    from tasks.decoding import decode

    found = [np.empty((0, channels, size, size), np.uint8)]
    for image in files(path):
        try:
            decoded = decode(image.read_bytes(), channels, 2 * size)
        except Exception as error:  # Pillow raises whatever it likes
            raise UserError(
                f"params.yaml: train.references: {image}: not readable as an image ({error}). Take it away."
            ) from None
        square = ImageOps.fit(Image.fromarray(decoded[..., 0] if channels == 1 else decoded), (size, size))
        found.append(np.asarray(square).reshape(size, size, channels).transpose(2, 0, 1)[None])
    return np.concatenate(found)
