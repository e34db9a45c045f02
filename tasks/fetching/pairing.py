"""Pairs of files: which one is the image, and which one comes with it as its condition."""

from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

from tasks.errors import UserError
from tasks.fetching.source import Reject

LOSSY = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"}
TWO_FILES = {
    "stem": "a photograph (.jpg) and a mask of another format (.png) with one stem in one folder",
    "a_to_b": "an image in a folder b/ and its condition at the same place in a folder a/",
    "b_to_a": "an image in a folder a/ and its condition at the same place in a folder b/",
}


def match(paths: list[str], pairs: str) -> tuple[dict[int, int], dict[str, Reject]]:
    """Pair files by their paths, as `ingest.pairs` says.

    Returns the place of each image's condition by the place of the image, and by path what has no partner
    or more than one.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for place, path in enumerate(paths):
        groups[_key(path, pairs)].append(place)
    found: dict[int, int] = {}
    alone: dict[str, Reject] = {}
    for places in groups.values():
        images = [n for n in places if _is_image(paths[n], pairs)]
        others = [n for n in places if n not in images]
        if len(images) == len(others) == 1:
            found[images[0]] = others[0]
            continue
        for n in places:
            if len(places) == 1:
                alone[paths[n]] = Reject(
                    paths[n], "no_pair", f"nothing pairs with it by ingest.pairs: {pairs}"
                )
            else:
                names = ", ".join(PurePosixPath(paths[m]).name for m in places[:3])
                alone[paths[n]] = Reject(paths[n], "unclear_pair", f"which is the image of {names}?")
    return found, alone


def refuse_none(root: Path, paths: list[str], pairs: str) -> UserError:
    """What is said where not one image has a partner."""
    return UserError(
        f"ingest.source: {root}: no image has a partner; of {len(paths):,} files the first is {paths[0]!r}.\n"
        f"ingest.pairs: {pairs} takes {TWO_FILES[pairs]}. Rename them, or set it to null."
    )


def unpaired(path: str, pairs: str | None) -> str:
    """An image's path without the folder that only says which half of a pair it is."""
    parts = path.split("/")
    sides = [n for n, part in enumerate(parts[:-1]) if part.lower() in ("a", "b")]
    if pairs in ("a_to_b", "b_to_a") and sides:
        del parts[sides[0]]
    return "/".join(parts)


def _key(path: str, pairs: str) -> str:
    whole = unpaired(path, pairs)
    return whole[: len(whole) - len(PurePosixPath(whole).suffix)]


def _is_image(path: str, pairs: str) -> bool:
    if pairs == "stem":
        return PurePosixPath(path).suffix.lower() in LOSSY
    side = next((part.lower() for part in path.split("/")[:-1] if part.lower() in ("a", "b")), None)
    return side == pairs[-1]


def differ(image: Any, partner: Any) -> str | None:
    """How the sizes of two opened images differ, upright, in words; None if they are the same."""
    sizes = [_upright_size(each) for each in (image, partner)]
    if sizes[0] == sizes[1]:
        return None
    return "the image has {} x {} pixels, its pair {} x {}".format(*sizes[0], *sizes[1])


def _upright_size(image: Any) -> tuple[int, int]:
    width, height = image.size
    return (height, width) if image.getexif().get(0x0112, 1) >= 5 else (width, height)
