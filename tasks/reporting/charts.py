"""Where marks go on a chart, in per cent of its box, so that text keeps its size on any screen."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SHARES = 0.02  # accuracies nearer to each other than this are drawn near each other
HUES = ("real", "synthetic", "unfiltered", "random_drop", "real_synthetic")
SPARE = ("first", "second", "third")
DASHES = ("none", "7 4", "2 4", "9 3 2 3")


@dataclass(frozen=True)
class Axis:
    """A linear axis from `low` to `high` with ticks at round numbers."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """The place of a value in per cent of the axis, 0 to 100."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(max(share, 0.0), 1.0), 3)

    def span(self, ends: tuple[float, float] | None) -> tuple[float, float] | None:
        """The place of an interval's low end and its width."""
        if ends is None:
            return None
        return self.at(ends[0]), round(self.at(ends[1]) - self.at(ends[0]), 3)

    def marks(self, form: str, factor: float = 1.0) -> list[tuple[float, str]]:
        """Each tick's place and label."""
        return [(self.at(tick), format(tick * factor, form)) for tick in self.ticks]


def axis(values: Sequence[float], least: float, about: int = 4, low: float | None = None) -> Axis:
    """An axis that holds all values and spans `least` or more, in about so many steps."""
    start = min(values) if low is None else low
    stop = max(values)
    if stop - start < least:
        start, stop = (stop - least, stop) if low is None else (start, start + least)
    raw = (stop - start) / about
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * k for k in (1, 2, 2.5, 5, 10) if size * k >= raw * 0.999)
    first, last = math.floor(start / step + 1e-9), math.ceil(stop / step - 1e-9)
    last = max(last, first + 1)
    return Axis(first * step, last * step, tuple(round(n * step, 12) for n in range(first, last + 1)))


def marks(arms: Iterable[str]) -> dict[str, dict[str, str]]:
    """The colour and the dash that stand for each arm; `synthetic@3` has the colour of `synthetic`."""
    spare = itertools.cycle(SPARE)
    hues: dict[str, str] = {hue: hue for hue in HUES}
    used: Counter[str] = Counter()
    found = {}
    for arm in arms:
        base = arm.split("@")[0]
        hues[base] = hues.get(base) or next(spare)
        found[arm] = {"hue": hues[base], "dash": DASHES[used[hues[base]] % len(DASHES)]}
        used[hues[base]] += 1
    return found


def interval(found: Any) -> tuple[float, float] | None:
    """(low, high) of what was measured with an interval: a mapping that has both, or a pair."""
    if isinstance(found, Mapping):
        found = (found.get("low"), found.get("high"))
    if not isinstance(found, Sequence) or len(found) != 2 or not all(_is_number(n) for n in found):
        return None
    return float(found[0]), float(found[1])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def dots(accuracy: Mapping[str, Any]) -> dict[str, Any] | None:
    """Each arm's accuracy: a dot a seed, a bar at the mean, a whisker over its interval, if it has one.

    None if nothing was measured.
    """
    seeds = {arm: [n for n in found["per_seed"] if n is not None] for arm, found in accuracy.items()}
    spans = {arm: interval(found) for arm, found in accuracy.items()}
    every = [n for found in seeds.values() for n in found]
    if not every:
        return None
    along = axis(every + [n for span in spans.values() for n in span or ()], SHARES)
    rows = [
        {"arm": arm, "dots": [along.at(n) for n in found], "mean": along.at(accuracy[arm]["mean"]),
         "value": accuracy[arm]["mean"], "span": along.span(spans[arm])}
        for arm, found in seeds.items() if found
    ]  # fmt: skip
    return {"rows": rows, "ticks": along.marks("g", 100), "spans": any(row["span"] for row in rows)}


def classes(accuracy: Mapping[str, Any]) -> dict[str, Any] | None:
    """Accuracy per class of the real and the synthetic arm, joined by a line, the widest gap first."""
    arms = [arm for arm in ("real", "synthetic") if arm in accuracy]
    names = accuracy[arms[0]]["per_class"] if arms else {}
    found = {name: {arm: accuracy[arm]["per_class"][name] for arm in arms} for name in names}
    found = {n: v for n, v in found.items() if all(x is not None for x in v.values())}
    if not found:
        return None
    spans = {
        name: {arm: interval(accuracy[arm].get("per_class_interval", {}).get(name)) for arm in arms}
        for name in found
    }
    ends = [n for named in spans.values() for span in named.values() for n in span or ()]
    along = axis([n for values in found.values() for n in values.values()] + ends, SHARES)
    worst = sorted(found, key=lambda n: found[n].get("synthetic", 0) - found[n].get("real", 0))
    rows = [
        {"name": name, "at": {arm: along.at(n) for arm, n in found[name].items()}, "value": found[name],
         "spans": {arm: along.span(span) for arm, span in spans[name].items()}}
        for name in worst
    ]  # fmt: skip
    return {"rows": rows, "ticks": along.marks("g", 100), "arms": arms, "spans": bool(ends)}


def curves(series: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, Any] | None:
    """Lines of (images, value) by name, as SVG points in a box of 100 x 100. None without points."""
    points = [p for line in series.values() for p in line]
    if len(points) < 2:
        return None
    x, y = axis([p[0] for p in points], 1.0, low=0.0), axis([p[1] for p in points], 1e-6)
    lines = {
        name: " ".join(f"{x.at(a):g},{round(100 - y.at(b), 3):g}" for a, b in line)
        for name, line in series.items()
        if line
    }
    return {"lines": lines, "x": x.marks(",.0f"), "y": y.marks("g")}
