"""What every kind of source becomes: a list of images to read, with their classes and splits."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "calibrate",
    "valid": "calibrate",
    "validation": "calibrate",
    "dev": "calibrate",
    "calibrate": "calibrate",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Item:
    """One image of a source. `data` is its bytes, the file to read them from, or why there are none.

    `partner`: the same of the image that comes with it as its condition; None if none does.
    """

    source: str
    data: bytes | Path | Exception
    size: int
    label: int | None
    split: str | None
    partner: bytes | Path | Exception | None = None


@dataclass(frozen=True)
class Reject:
    """One image that is not kept: a word that says why, and what was found."""

    source: str
    reason: str
    detail: str = ""
    sha256: str | None = None


@dataclass(frozen=True)
class Source:
    """A source that has been listed, but not read; `paired`: whether it was asked for pairs of files."""

    description: str
    classes: list[str]
    total: int
    items: Callable[[], Iterator[Item]]
    rejects: list[Reject] = field(default_factory=list)
    ignored: int = 0
    paired: bool = False


@dataclass(frozen=True)
class Place:
    """What an image's path says of it: its path without leading folders, its class and its split."""

    source: str
    name: str | None
    split: str | None


def class_order(name: str) -> tuple[int, int, str]:
    """The sort key of a class name: numbers as numbers, before words."""
    return (0, int(name), name) if re.fullmatch(r"-?\d{1,18}", name) else (1, 0, name)


def in_order(names: Iterable[str]) -> list[str]:
    """Each class name once, in label order."""
    return sorted(set(names), key=class_order)


def arrange(paths: list[str]) -> list[Place]:
    """Tell class and split of each image from all images' paths, `/` between their parts.

    Folders that all images share are dropped. If all of the first folders then have names of
    splits, they are splits. The next folder is the class, however deep the images lie in it, as
    a class's images are often kept in folders of their own: a video, a patient, a camera.
    """
    parts = [tuple(p.split("/")) for p in paths]
    shared = _shared(parts)
    parts = [p[shared:] for p in parts]
    sources = ["/".join(p) for p in parts]
    splits: list[str | None] = [None] * len(parts)
    first = {p[0].lower() for p in parts if len(p) > 1}
    if first and first <= SPLITS.keys():
        splits = [SPLITS[p[0].lower()] if len(p) > 1 else None for p in parts]
        parts = [p[1:] if len(p) > 1 else p for p in parts]
        shared = _shared(parts)
        parts = [p[shared:] for p in parts]
    names = [unicodedata.normalize("NFC", p[0]) if len(p) > 1 else None for p in parts]
    return [Place(*each) for each in zip(sources, names, splits, strict=True)]


def _shared(parts: list[tuple[str, ...]]) -> int:
    """How many leading folders all images share that can't be a class or a split."""
    depth = 0
    while (
        min(map(len, parts)) > depth + 2
        and len({p[depth] for p in parts}) == 1
        and parts[0][depth].lower() not in SPLITS
    ):
        depth += 1
    return depth
