"""How many synthetic images to add to each real one, told by the calibrate split alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tasks import arms
from tasks.probing.trials import Outcome, Splits, why_not

CHOSEN_ON = "calibrate"


def recommendation(names: Sequence[str], splits: Splits, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The smallest `ratio` whose accuracy is within a standard error, over seeds, of the best one's.

    0 stands for the real images alone. `ratio` is None where it can't be told, and `why` says so. The
    test split has no say: what was chosen on it could not be tested on it.
    """
    if reason := why_not(splits):
        return _answer(None, reason)
    scores = _scores(outcomes)
    real = int((splits.train.y >= 0).sum())
    tried: dict[str, float] = {}
    for name in names:
        arm = arms.parse(name)
        images = next((o.images for o in outcomes if o.trial.arm == name), 0)
        if name in scores and arm.kind in ("real", "real_synthetic"):
            tried[name] = arm.ratio or round((images - real) / max(real, 1), 2)
    if "real" not in tried or len(tried) < 2:
        return _answer(
            None, "It takes the arms `real` and `real_synthetic`, measured on a labelled calibrate split."
        )
    if min(len(scores[name]) for name in tried) < 2:
        return _answer(None, "One seed has no spread to choose by; set evaluate.seeds to 3 or more.")
    mean = {name: float(np.mean(scores[name])) for name in tried}
    best = max(sorted(tried, key=tried.__getitem__), key=mean.__getitem__)
    error = float(np.std(scores[best], ddof=1)) / len(scores[best]) ** 0.5
    least = min((n for n in tried if mean[n] >= mean[best] - error - 1e-12), key=tried.__getitem__)
    why = f"`{least}` labels {mean[least]:.2%} of the calibrate split correctly"
    if least == best:
        why += f", the most of the {len(tried)} ratios tried."
    else:
        why += f", within a standard error ({error:.2%}) of the best, `{best}` with {mean[best]:.2%}."
    return _answer(tried[least], why)


def _scores(outcomes: Sequence[Outcome]) -> dict[str, list[float]]:
    """For each arm, every seed's accuracy on the calibrate split when its training ended."""
    found: dict[str, list[float]] = {}
    for outcome in outcomes:
        if outcome.curve and "accuracy" in outcome.curve[-1]:
            found.setdefault(outcome.trial.arm, []).append(outcome.curve[-1]["accuracy"])
    return found


def _answer(ratio: float | None, why: str) -> dict[str, Any]:
    return {"ratio": ratio, "chosen_on": CHOSEN_ON, "why": why}
