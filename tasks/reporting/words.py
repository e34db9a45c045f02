"""The report's sentences: what the numbers say, and no more than they say."""

from collections.abc import Mapping
from typing import Any

ARMS = {
    "real": "real",
    "synthetic": "synthetic, kept",
    "unfiltered": "synthetic, unfiltered",
    "random_drop": "synthetic, random drop",
    "real_synthetic": "real + synthetic",
}
MEANINGS = {
    "real": "the real train split",
    "synthetic": "the synthetic images that the filter kept",
    "unfiltered": "the first synthetic images, as many as were kept",
    "random_drop": "synthetic images of which as many in each class were dropped at random",
    "real_synthetic": "the real train split and the kept synthetic images together",
}


def headline(metrics: Mapping[str, Any]) -> list[str]:
    """One sentence that answers whether the synthetic images help, then those that qualify it."""
    accuracy, difference = metrics["accuracy"], metrics["difference"]
    lines = []
    both = difference.get("real_synthetic_minus_real", {})
    if both.get("mean") is not None:
        verb = {1: "helps", -1: "hurts", 0: "makes no clear difference"}[direction(both)]
        lines.append(
            f"Adding the synthetic images to the real ones {verb}: {points(both)}, "
            f"from {percent(accuracy['real']['mean'])} to {percent(accuracy['real_synthetic']['mean'])}."
        )
    alone = accuracy.get("synthetic", {})
    if alone.get("mean") is not None:
        line = f"Trained on synthetic images alone, the probe labels {percent(alone['mean'])}"
        line += f"{plus_minus(alone['std'])} of the real test images correctly"
        gap = difference.get("synthetic_minus_real", {})
        lines.append(
            line + (f": {points(gap)} against the real ones alone." if gap.get("mean") is not None else ".")
        )
    chance = difference.get("synthetic_minus_random_drop", {})
    if chance.get("mean") is not None:
        verb = {1: "beats", -1: "loses to", 0: "is not clearly different from"}[direction(chance)]
        lines.append(f"Filtering {verb} dropping as many at random: {points(chance)}.")
    return lines or [_unproven(metrics)]


def _unproven(metrics: Mapping[str, Any]) -> str:
    """What can be said of the samples where no accuracy was measured."""
    after = {name: value for name, value in (metrics.get("after") or {}).items() if isinstance(value, float)}
    told = ", ".join(f"{name.replace('_', ' ')} {number(value)}" for name, value in list(after.items())[:3])
    kept = f"{metrics.get('kept') or 0:,} of {metrics.get('samples') or 0:,} samples were kept"
    return kept + (f"; against real images they measure {told}." if told else ".")


def direction(difference: Mapping[str, Any]) -> int:
    """1 or -1 if every seed says so and the mean exceeds the spread over seeds; else 0."""
    seeds = [n for n in difference["per_seed"] if n is not None]
    if len(seeds) < 2 or abs(difference["mean"]) <= (difference["std"] or 0):
        return 0
    return 1 if min(seeds) > 0 else -1 if max(seeds) < 0 else 0


def points(difference: Mapping[str, Any]) -> str:
    """A paired difference in percentage points, with its spread over seeds."""
    seeds = [n for n in difference["per_seed"] if n is not None]
    over = f" over {len(seeds)} seeds" if len(seeds) > 1 else " (one seed)"
    spread = f" ± {100 * difference['std']:.2f}" if difference["std"] is not None else ""
    return f"{100 * difference['mean']:+.2f}{spread} points{over}".replace("-", "−")


def percent(share: float | None) -> str:
    """A share as a percentage, a dash if it was not measured."""
    return "–" if share is None else f"{share_number(share)} %"


def share_number(share: float | None) -> str:
    """A share in per cent without the sign, a dash if it was not measured."""
    return "–" if share is None else f"{100 * share:.2f}"


def plus_minus(std: float | None) -> str:
    """The spread over seeds in points, if there is one."""
    return "" if std is None else f" (± {100 * std:.2f})"


def number(value: float | None) -> str:
    """A measure in four digits, a dash if it was not measured."""
    return "–" if value is None else f"{value:.4g}"
