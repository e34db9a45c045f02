"""Gates: bounds on any measured number, held by export before it writes anything.

Measuring stages report whatever they find; only export may refuse, and then it says what, where
and by how much.
"""

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.params import Bound

NEAR = 4


@dataclass(frozen=True)
class Verdict:
    """One metric beside its bound. `found` is None where nothing could be measured."""

    metric: str
    found: float | None
    bound: Bound

    @property
    def excess(self) -> float:
        """How far `found` is outside the bound, in the metric's own unit; 0 inside, inf if not measured."""
        if self.found is None:
            return math.inf
        below = 0.0 if self.bound.min is None else self.bound.min - self.found
        above = 0.0 if self.bound.max is None else self.found - self.bound.max
        return max(below, above, 0.0)

    @property
    def broken(self) -> bool:
        """Whether the metric is out of bounds, or was not measured."""
        return self.excess > 0

    @property
    def badness(self) -> float:
        """The excess relative to the bound, so that metrics of different scales can be ranked."""
        limit = self.bound.max if self._is_above() else self.bound.min
        return self.excess / max(abs(limit or 0.0), 1e-9)

    def words(self) -> tuple[str, str, str, str]:
        """Metric, found, bound and by how much, as a table shows them."""
        found = "not measured" if self.found is None else f"{self.found:.6g}"
        limits = [("min", self.bound.min), ("max", self.bound.max)]
        bound = ", ".join(f"{name} {limit:.6g}" for name, limit in limits if limit is not None)
        if not self.broken:
            return self.metric, found, bound, "within"
        off = "" if self.found is None else f"{'over' if self._is_above() else 'under'} by {self.excess:.3g}"
        return self.metric, found, bound, off

    def _is_above(self) -> bool:
        return self.found is not None and self.bound.max is not None and self.found > self.bound.max


def measured(*folders: Path) -> dict[str, float | None]:
    """Every number in the folders' metrics.json, by dotted name. Raises UserError if one can't be read."""
    numbers: dict[str, float | None] = {}
    for folder in folders:
        path = folder / "metrics.json"
        try:
            numbers.update(flatten(json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: not readable ({error}). Run `dvc repro`, which makes it.") from None
    return numbers


def flatten(metrics: Any, name: str = "") -> dict[str, float | None]:
    """Name each number by its path, joined with dots; words are left out, NaN and infinity become None."""
    if isinstance(metrics, Mapping | list):
        items = metrics.items() if isinstance(metrics, Mapping) else enumerate(metrics)
        inner = [flatten(value, f"{name}.{key}" if name else str(key)) for key, value in items]
        return {key: value for numbers in inner for key, value in numbers.items()}
    if metrics is None:
        return {name: None}
    if isinstance(metrics, int | float) and not isinstance(metrics, bool):
        return {name: float(metrics) if math.isfinite(metrics) else None}
    return {}


def judge(gates: Mapping[str, Bound], numbers: Mapping[str, float | None]) -> list[Verdict]:
    """Hold each gate against its number, the worst first. Raises UserError for a metric that is unknown."""
    for metric in gates:
        if metric not in numbers:
            raise UserError(_unknown(metric, list(numbers)))
    verdicts = [Verdict(metric, numbers[metric], bound) for metric, bound in gates.items()]
    return sorted(verdicts, key=lambda v: (-v.badness, v.metric))


def table(verdicts: list[Verdict]) -> list[dict[str, str]]:
    """The verdicts as rows of words, for a table artifact."""
    return [dict(zip(("metric", "found", "bound", "off by"), v.words(), strict=True)) for v in verdicts]


def hold(verdicts: list[Verdict]) -> None:
    """Raise UserError with the table of what, found, bound and by how much, unless all gates hold."""
    broken = [v.words() for v in verdicts if v.broken]
    if not broken:
        return
    widths = [max(len(row[column]) for row in broken) for column in range(4)]
    rows = ["  " + "  ".join(w.ljust(n) for w, n in zip(row, widths, strict=True)).rstrip() for row in broken]
    head = f"gates: {len(broken)} of {len(verdicts)} broken, nothing exported (metric, found, bound, off by):"
    mend = "Make a better set (train longer, filter otherwise), or change the bounds under `gates`."
    raise UserError("\n".join([head, *rows, mend]))


def _unknown(metric: str, known: list[str]) -> str:
    near = difflib.get_close_matches(metric, known, NEAR, cutoff=0.5)
    near += [k for k in known if k.startswith(metric + ".") and k not in near]
    if not near:
        near = sorted({k.split(".")[0] for k in known})
    mend = f"near it: {', '.join(near[:NEAR])}." if near else "nothing was measured."
    return f"gates.{metric}: no metric has this name; {mend}\n`dvc metrics show` lists them all."
