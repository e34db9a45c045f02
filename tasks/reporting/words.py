"""The report's sentences: what the numbers say, and no more than they say."""

from collections.abc import Iterable, Mapping
from typing import Any

from tasks.arms import parse

CLAIM = 5  # seeds


class Names(dict[str, str]):
    """Words for each kind of arm; an arm with a ratio, such as `synthetic@3`, gets its own from them."""

    def __init__(self, words: Mapping[str, str], suffix: str) -> None:
        super().__init__(words)
        self.suffix = suffix

    def __missing__(self, name: str) -> str:
        arm = parse(name)
        if arm.ratio is None:
            raise KeyError(name)
        return self[arm.kind] + self.suffix.format(f"{arm.ratio:g}")


ARMS = Names(
    {
        "real": "real",
        "real_augmented": "real, augmented",
        "synthetic": "synthetic, kept",
        "synthetic_soft": "synthetic, judge's labels",
        "unfiltered": "synthetic, unfiltered",
        "random_drop": "synthetic, random drop",
        "real_synthetic": "real + synthetic",
    },
    ", {} ×",
)
MEANINGS = Names(
    {
        "real": "the real train split",
        "real_augmented": "the real train split under standard augmentation, the rival of synthetic images",
        "synthetic": "the synthetic images that the filter kept",
        "synthetic_soft": "the kept synthetic images with the judge's class probabilities as labels; "
        "it saw the real train split, so they are not of synthetic images alone",
        "unfiltered": "the first synthetic images, as many as were kept",
        "random_drop": "synthetic images of which as many in each class were dropped at random",
        "real_synthetic": "the real train split and the kept synthetic images together",
    },
    ": the first {} for each real one",
)


def headline(metrics: Mapping[str, Any]) -> list[str]:
    """One sentence that answers whether the synthetic images help, then those that qualify it."""
    accuracy, difference = metrics["accuracy"], metrics["difference"]
    mixed = _mixed(metrics)
    found = [
        _helps(accuracy, difference, mixed),
        _rival(difference, mixed),
        _alone(accuracy, difference),
        _filter(difference),
        _soft(accuracy, difference),
    ]
    lines = [line for line in found if line]
    return [*lines, *_caution(accuracy.values())] if lines else [_unproven(metrics)]


def _mixed(metrics: Mapping[str, Any]) -> str:
    """The arm that speaks for real and synthetic images together: all kept ones, or a ratio's.

    Of several ratios it is the recommended one, which the test split had no say in, else the first.
    """
    arms = [arm for arm in metrics["accuracy"] if parse(arm).kind == "real_synthetic"]
    best = (metrics.get("recommendation") or {}).get("ratio")
    ranked = sorted(arms, key=lambda a: (parse(a).ratio is not None, parse(a).ratio != best))
    return next((a for a in ranked if metrics["accuracy"][a].get("mean") is not None), "real_synthetic")


def _helps(accuracy: Mapping[str, Any], difference: Mapping[str, Any], mixed: str) -> str | None:
    both = difference.get(f"{mixed}_minus_real", {})
    if both.get("mean") is None:
        return None
    verb = {1: "helps", -1: "hurts", 0: "makes no clear difference"}[direction(both)]
    ratio = parse(mixed).ratio
    times = "" if ratio is None else f", {ratio:g} for each,"
    return (
        f"Adding the synthetic images to the real ones{times} {verb}: {points(both)}, "
        f"from {percent(accuracy['real']['mean'])} to {percent(accuracy[mixed]['mean'])}."
    )


def _rival(difference: Mapping[str, Any], mixed: str) -> str | None:
    rival = difference.get(f"{mixed}_minus_real_augmented", {})
    if rival.get("mean") is None:
        return None
    verb = {1: "beat", -1: "lose to", 0: "are not clearly different from"}[direction(rival)]
    return (
        f"Real and synthetic images together {verb} standard augmentation of the real ones: {points(rival)}."
    )


def _alone(accuracy: Mapping[str, Any], difference: Mapping[str, Any]) -> str | None:
    alone = accuracy.get("synthetic", {})
    if alone.get("mean") is None:
        return None
    line = f"Trained on synthetic images alone, the probe labels {percent(alone['mean'])}"
    line += f"{bracket(alone, signed=False)} of the real test images correctly"
    gap = difference.get("synthetic_minus_real", {})
    return line + (f": {points(gap)} against the real ones alone." if gap.get("mean") is not None else ".")


def _filter(difference: Mapping[str, Any]) -> str | None:
    chance = difference.get("synthetic_minus_random_drop", {})
    if chance.get("mean") is None:
        return None
    verb = {1: "beats", -1: "loses to", 0: "is not clearly different from"}[direction(chance)]
    return f"Filtering {verb} dropping as many at random: {points(chance)}."


def _soft(accuracy: Mapping[str, Any], difference: Mapping[str, Any]) -> str | None:
    """The judge's labels stand apart, since their teacher saw real images."""
    soft = accuracy.get("synthetic_soft", {})
    if soft.get("mean") is None:
        return None
    line = "Apart from these: with the judge's probabilities as labels, whose teacher saw real data, "
    line += f"synthetic images give {percent(soft['mean'])}{bracket(soft, signed=False)}"
    gain = difference.get("synthetic_soft_minus_synthetic", {})
    own = f": {points(gain)} against their own labels." if gain.get("mean") is not None else "."
    return line + own


def _caution(accuracy: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the intervals are, and whether there are seeds enough to claim anything."""
    seeds = max((sum(n is not None for n in found.get("per_seed", [])) for found in accuracy), default=0)
    if not seeds:
        return []
    over = "test images and seeds" if seeds > 1 else "test images alone"
    line = f"Brackets hold 95 % intervals over {over}."
    if seeds < CLAIM:
        count = "one seed is" if seeds == 1 else f"{seeds} seeds are"
        line = f"{line[:-1]}; {count} an indication, a claim takes {CLAIM}."
    return [line]


def _unproven(metrics: Mapping[str, Any]) -> str:
    """What can be said of the samples where no accuracy was measured."""
    after = {name: value for name, value in (metrics.get("after") or {}).items() if isinstance(value, float)}
    told = ", ".join(f"{name.replace('_', ' ')} {number(value)}" for name, value in list(after.items())[:3])
    kept = f"{metrics.get('kept') or 0:,} of {metrics.get('samples') or 0:,} samples were kept"
    return kept + (f"; against real images they measure {told}." if told else ".")


def direction(difference: Mapping[str, Any]) -> int:
    """1 or -1 if the whole 95 % interval is above or below 0; else, or without one, 0."""
    low, high = difference.get("low"), difference.get("high")
    if low is None or high is None:
        return 0
    return 1 if low > 0 else -1 if high < 0 else 0


def points(difference: Mapping[str, Any]) -> str:
    """A paired difference in percentage points, with its 95 % interval in brackets."""
    seeds = [n for n in difference["per_seed"] if n is not None]
    over = f" over {len(seeds)} seeds" if len(seeds) > 1 else " (one seed)"
    return f"{100 * difference['mean']:+.2f}".replace("-", "−") + f" points{bracket(difference)}{over}"


def bracket(found: Mapping[str, Any], signed: bool = True) -> str:
    """The 95 % interval of a share or a difference, in per cent or points; nothing if there is none."""
    low, high = found.get("low"), found.get("high")
    if low is None or high is None:
        return ""
    form = "+.2f" if signed else ".2f"
    return f" [{100 * low:{form}}, {100 * high:{form}}]".replace("-", "−")


def percent(share: float | None) -> str:
    """A share as a percentage, a dash if it was not measured."""
    return "–" if share is None else f"{share_number(share)} %"


def share_number(share: float | None) -> str:
    """A share in per cent without the sign, a dash if it was not measured."""
    return "–" if share is None else f"{100 * share:.2f}"


def number(value: float | None) -> str:
    """A measure in four digits, a dash if it was not measured."""
    return "–" if value is None else f"{value:.4g}"
