"""The names of evaluate's arms: what a probe is trained on, and which arms are held against each other.

`synthetic@3` is a kind of arm with a ratio: three times as many synthetic images as real ones.
"""

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass

KINDS = (
    "real",
    "real_augmented",
    "unfiltered",
    "random_drop",
    "synthetic",
    "synthetic_soft",
    "real_synthetic",
)
MOST = 1e6
RATED = ("synthetic", "synthetic_soft", "real_synthetic")
PAIRS = (
    ("synthetic", "real"),
    ("real_synthetic", "real"),
    ("real_augmented", "real"),
    ("real_synthetic", "real_augmented"),
    ("synthetic", "random_drop"),
    ("synthetic", "unfiltered"),
    ("synthetic_soft", "synthetic"),
)


@dataclass(frozen=True)
class Arm:
    """A kind of training set, and how many synthetic images it has for each real one; None: all kept."""

    kind: str
    ratio: float | None = None


def parse(name: str) -> Arm:
    """Read an arm's name. Raises ValueError that says what is wrong with it and what to write instead."""
    kind, at, ratio = name.partition("@")
    if kind not in KINDS:
        near, known = difflib.get_close_matches(kind, KINDS, 1), ", ".join(KINDS)
        raise ValueError(f"no such arm; {f'try {near[0]!r}' if near else f'there are: {known}'}")
    if not at:
        return Arm(kind)
    if kind not in RATED:
        raise ValueError(f"{kind} has no ratio; write {kind!r}, or a ratio on {', '.join(RATED)}")
    try:
        number = float(ratio)
    except ValueError:
        number = math.nan
    if not 0 < number <= MOST:
        raise ValueError(f"a ratio is a number above 0, at most {MOST:g}; write it as in '{kind}@3'")
    return Arm(kind, number)


def checked(names: list[str]) -> list[str]:
    """The names as they are. Raises ValueError if one is no arm, or if two name the same arm."""
    seen: dict[Arm, str] = {}
    for name in names:
        try:
            arm = parse(name)
        except ValueError as error:
            raise ValueError(f"{name!r}: {error}") from None
        if arm in seen:
            raise ValueError(f"{seen[arm]!r} and {name!r} are the same arm; name it once")
        seen[arm] = name
    return names


def pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """Which of the named arms are held against each other, in the order of PAIRS.

    A rival of synthetic images alone stands for a number of images, so both must have the same ratio.
    """
    arms = {name: parse(name) for name in names}
    return [
        (a, b)
        for kind, rival in PAIRS
        for a in arms
        for b in arms
        if (arms[a].kind, arms[b].kind) == (kind, rival)
        and (rival in ("real", "real_augmented") or arms[a].ratio == arms[b].ratio)
    ]
