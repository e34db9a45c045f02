"""A set of images against real ones: every set measure, whole and per class, each with its interval.

What counts rows that lie somewhere has the interval of a bootstrap over rows. Distances between sets are
moved by rows drawn twice, so theirs come from random halves instead, drawn without replacement, whose
spread is that of the whole (the delete-half jackknife: Shao & Tu 1995, section 2.3).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models import measures
from tasks.judging import Reference

LEVEL = 1.96  # standard deviations that hold 95 %
REPLICATES, HALVES = 1000, 20
LEAST = 5  # rows, below which no measure that looks for neighbours is taken
MOST = 1000  # rows of a side in one draw of a kernel distance
SPREAD = 20_000  # rows of a side, drawn from larger ones, that are looked for among each other
NEIGHBOURHOOD = ("precision", "recall", "density", "coverage")
PAIRED = 1000  # rows of a class whose distances to each other tell its diversity


class Estimate(NamedTuple):
    """A measure and its 95 % interval; the bounds are None where it was counted, not estimated."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, eq=False)
class Crowd:
    """Images as the judge sees them: features (N, D), labels (N,), -1 where there is none.

    probabilities (N, K), and which images repeat another one or a train image (N,) bool, where known.
    """

    features_ND: Tensor
    labels_N: Tensor
    probabilities_NK: Tensor | None = None
    repeats_N: Tensor | None = None
    copies_N: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features_ND)

    def take(self, rows: Tensor) -> "Crowd":
        """The images at `rows`, or where `rows` is true."""
        known = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return replace(self, **{name: part[rows] for name, part in known.items() if part is not None})


def crowd(real: Reference, split: str) -> Crowd:
    """One of the real splits, as the judge saw it."""
    probabilities_NK = real.probabilities(split)
    return Crowd(
        torch.from_numpy(real.features(split)),
        torch.from_numpy(real.labels(split)),
        None if probabilities_NK is None else torch.from_numpy(probabilities_NK),
    )


def compare(fake: Crowd, real: Crowd, classes: list[str]) -> dict[str, Any]:
    """Measure `fake` against `real` held-out images.

    Returns `measures` (name to number or None), `interval` (name to low and high), `per_class` (the same
    two for each class), and `notes`: why a measure is None.
    """
    whole = against(fake, real)
    if classes:
        whole["diversity"] = _mean([_diversity(part) for part in _by_class(fake, len(classes))])
        whole["class_balance"] = Estimate(measures.balance(fake.labels_N.clamp(min=0), len(classes)))
    each = zip(_by_class(fake, len(classes)), _by_class(real, len(classes)), strict=True)
    per_class = {name: plain(_of_class(*pair)) for name, pair in zip(classes, each, strict=True)}
    return {**plain(whole), "per_class": per_class, "notes": _notes(len(fake), len(real), per_class, real)}


def against(fake: Crowd, real: Crowd) -> dict[str, Estimate | None]:
    """Every measure of a set as a whole, None where it has too few rows."""
    found: dict[str, Estimate | None] = dict.fromkeys(("frechet_distance", "kernel_distance"))
    found["inception_score"] = _inception_score(fake)
    found |= _neighbourhood(fake, real)
    if min(len(fake), len(real)) > LEAST:
        found["frechet_distance"] = _frechet(fake, real)
        found["kernel_distance"] = _kernel(fake, real, MOST)
    found["diversity"] = _diversity(fake)
    return found | _rates(fake)


def values(fake_ND: Tensor, real_MD: Tensor) -> dict[str, float | None]:
    """The measures of a set in any features, without intervals; None where a set has too few rows."""
    if min(len(fake_ND), len(real_MD)) <= LEAST:
        return dict.fromkeys(("frechet_distance", "kernel_distance", *NEIGHBOURHOOD))
    found = {
        "frechet_distance": measures.frechet_distance(fake_ND, real_MD),
        "kernel_distance": measures.kernel_distance(fake_ND, real_MD)[0],
        **{name: float(rows.mean()) for name, rows in _memberships(fake_ND, real_MD).items()},
    }
    return {name: round(value, 6) for name, value in found.items()}


def _of_class(fake: Crowd, real: Crowd) -> dict[str, Estimate | None]:
    """What can be told of one class, by little: a kernel distance takes half of the smaller set."""
    found: dict[str, Estimate | None] = dict.fromkeys(("frechet_distance", "kernel_distance"))
    least = min(len(fake), len(real))
    if least >= 2 * fake.features_ND.shape[1]:
        found["frechet_distance"] = _frechet(fake, real)
    if least > LEAST:
        found["kernel_distance"] = _kernel(fake, real, least // 2)
    return found | _neighbourhood(fake, real) | {"diversity": _diversity(fake)} | _rates(fake)


def _frechet(fake: Crowd, real: Crowd) -> Estimate:
    value = measures.frechet_distance(fake.features_ND, real.features_ND)
    return by_halves(value, measures.frechet_distance, fake.features_ND, real.features_ND)


def _kernel(fake: Crowd, real: Crowd, subset: int) -> Estimate:
    pair = fake.features_ND, real.features_ND
    value = measures.kernel_distance(*pair, subset)[0]
    spread = LEVEL * math.sqrt(_varied(*pair) + _varied(*pair[::-1]))
    return Estimate(value, value - spread, value + spread)


def _varied(a_ND: Tensor, b_MD: Tensor) -> float:
    """The variance of a kernel distance that comes from the rows of `a`, told by random halves of them."""
    random, n = torch.Generator().manual_seed(0), len(a_ND)
    a_ND, b_MD = a_ND[: 2 * MOST], b_MD[:MOST]
    shown, rows = len(a_ND), len(a_ND) // 2
    a_SR = torch.stack([torch.randperm(shown, generator=random)[:rows] for _ in range(HALVES)])
    # What the rows of `b` have in common does not vary.
    towards_N = measures.kernel(a_ND, b_MD).mean(1)
    found_S = measures.within(a_ND, a_SR) - 2 * towards_N[a_SR].mean(1)
    # Draws without replacement vary by 1 / rows - 1 / shown of what one row does, the whole set by 1 / n.
    return float(found_S.var()) / n / (1 / rows - 1 / shown)


def _inception_score(fake: Crowd) -> Estimate | None:
    if fake.probabilities_NK is None or not len(fake):
        return None
    return by_halves(
        measures.inception_score(fake.probabilities_NK), measures.inception_score, fake.probabilities_NK
    )


def _neighbourhood(fake: Crowd, real: Crowd) -> dict[str, Estimate | None]:
    if min(len(fake), len(real)) <= LEAST:
        return dict.fromkeys(NEIGHBOURHOOD)
    found = _memberships(fake.features_ND, real.features_ND)
    return {name: by_rows(rows) for name, rows in found.items()}


def _memberships(fake_ND: Tensor, real_MD: Tensor) -> dict[str, np.ndarray]:
    """What each row of one of the sets says, float64; a measure is the mean of its rows.

    Of larger sets SPREAD rows are drawn: recall and coverage rise with the number of samples, and the work
    with its square.
    """
    found = measures.neighbourhood(drawn(fake_ND), drawn(real_MD))
    return {name: rows.double().numpy() for name, rows in zip(NEIGHBOURHOOD, found, strict=True)}


def drawn(rows_ND: Tensor) -> Tensor:
    """The rows, or SPREAD of them in their order, drawn from a fixed seed."""
    if len(rows_ND) <= SPREAD:
        return rows_ND
    random = torch.Generator().manual_seed(0)
    return rows_ND[torch.randperm(len(rows_ND), generator=random)[:SPREAD].sort().values]


def _rates(fake: Crowd) -> dict[str, Estimate | None]:
    told = {"duplicate_rate": fake.repeats_N, "copied_rate": fake.copies_N}
    return {
        name: None if rows is None or not len(rows) else by_rows(rows.double().numpy())
        for name, rows in told.items()
    }


def _diversity(fake: Crowd) -> Estimate | None:
    if len(fake) < 2:
        return None
    rows_ND = fake.features_ND[:PAIRED].double()
    count = len(rows_ND)
    mean_N = torch.cdist(rows_ND, rows_ND).sum(1) / (count - 1)
    # A mean over pairs varies with its rows' own means, twice over (Hoeffding 1948).
    spread = LEVEL * 2 * float(mean_N.std()) / math.sqrt(count)
    value = float(mean_N.mean())
    return Estimate(value, value - spread, value + spread) if count > LEAST else Estimate(value)


def _mean(parts: list[Estimate | None]) -> Estimate | None:
    """The mean of those independent estimates that there are; None if there is none."""
    known = [(p.value, (p.high or p.value) - p.value) for p in parts if p is not None]
    if not known:
        return None
    value = sum(v for v, _ in known) / len(known)
    spread = math.sqrt(sum(s**2 for _, s in known)) / len(known)
    return Estimate(value, value - spread, value + spread)


def by_rows(values_N: np.ndarray) -> Estimate:
    """The mean of numbers (N,), with the 95 % percentile interval of a bootstrap over them."""
    found, count_U = np.unique(values_N, return_counts=True)
    rng = np.random.Generator(np.random.Philox(0))
    drawn = rng.multinomial(len(values_N), count_U / len(values_N), REPLICATES) @ found / len(values_N)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Estimate(float(values_N.mean()), float(low), float(high))


def by_halves(value: float, measure: Callable[..., float], *sets: Tensor) -> Estimate:
    """`value`, with the 95 % interval that `measure` of random halves tells; none for tiny sets."""
    if min(map(len, sets)) < 2 * LEAST:
        return Estimate(value)
    random = torch.Generator().manual_seed(0)
    found = []
    for _ in range(HALVES):
        rows = (torch.randperm(len(s), generator=random)[: len(s) // 2].sort().values for s in sets)
        found.append(measure(*(s[r] for s, r in zip(sets, rows, strict=True))))
    spread = LEVEL * float(np.std(found, ddof=1))
    return Estimate(value, max(0.0, value - spread), value + spread)


def plain(found: Mapping[str, Estimate | None]) -> dict[str, Any]:
    """Estimates as JSON: `measures`, and the `interval` of those that have one."""
    known = {name: each for name, each in found.items() if each is not None and each.low is not None}
    return {
        "measures": {name: None if each is None else round(each.value, 6) for name, each in found.items()},
        "interval": {
            name: {"low": round(each.low or 0.0, 6), "high": round(each.high or 0.0, 6)}
            for name, each in known.items()
        },
    }


def _by_class(crowd: Crowd, count: int) -> Iterator[Crowd]:
    """One class after the other, since all at once would hold every row twice."""
    for label in range(count):
        yield crowd.take(torch.nonzero(crowd.labels_N == label)[:, 0])


def _notes(fakes: int, reals: int, per_class: Mapping[str, Any], real: Crowd) -> list[str]:
    notes = []
    if min(fakes, reals) <= LEAST:
        notes.append(
            f"{fakes} images against {reals}: too few for set measures, which need more than {LEAST}."
        )
    need = 2 * real.features_ND.shape[1]
    bare = [name for name, each in per_class.items() if each["measures"]["frechet_distance"] is None]
    if bare:
        which = "every class" if len(bare) == len(per_class) else f"{len(bare)} of {len(per_class)} classes"
        notes.append(
            f"No Fréchet distance of {which}: it needs {need} images a side, twice the features' dimensions."
        )
    few = [name for name, each in per_class.items() if each["measures"]["precision"] is None]
    if few:
        notes.append(f"Too few images to measure by class: {', '.join(few[:5])}{', ...' if few[5:] else ''}.")
    return notes
