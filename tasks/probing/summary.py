"""From trials to numbers: each arm's accuracy, paired differences, how sure they are, and a ratio to use."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tasks import arms
from tasks.params import EvaluateParams
from tasks.probing.intervals import interval, replicates
from tasks.probing.picking import derive, unmet
from tasks.probing.ratio import recommendation
from tasks.probing.trials import Outcome, Splits, why_not

SET_MEASURES = ("samples", "kept", "kept_ratio", "before", "after", "scale")
SOME_SET_MEASURES = ("interval", "shortage", "set_notes", "extractors", "to_source")


def summarise(params: EvaluateParams, splits: Splits, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The numbers of metrics.json. What can't be measured is None, and a note says why."""
    notes = [why_not(splits)] if why_not(splits) else []
    drawn = _Drawn(params, splits, outcomes)
    accuracy = {name: _accuracy(name, splits, outcomes, drawn) for name in params.arms}
    for name in params.arms:
        if not why_not(splits) and accuracy[name]["mean"] is None:
            why = unmet(name, splits) or "there are no images to train on."
            notes.append(f"{name}: not measured; {why}")
    for label, name in enumerate(splits.classes):
        if not (splits.kept & (splits.synthetic.y == label)).any():
            notes.append(f"class {name!r}: no synthetic image was kept.")
    difference = {
        f"{a}_minus_{b}": _difference(accuracy[a], accuracy[b], drawn.of(a, b))
        for a, b in arms.pairs(params.arms)
    }
    measures = {key: _finite(splits.measures.get(key)) for key in SET_MEASURES}
    measures |= {key: _finite(splits.measures[key]) for key in SOME_SET_MEASURES if key in splits.measures}
    return {
        "accuracy": accuracy,
        "difference": difference,
        "recommendation": recommendation(params.arms, splits, outcomes),
        **measures,
        "notes": notes,
    }


class _Drawn:
    """Resampled accuracies of every arm that was measured, drawn together so that differences are paired."""

    def __init__(self, params: EvaluateParams, splits: Splits, outcomes: Sequence[Outcome]) -> None:
        found: dict[str, list[np.ndarray]] = {}
        for outcome in outcomes:
            if outcome.predicted is not None and not why_not(splits):
                found.setdefault(outcome.trial.arm, []).append(outcome.predicted)
        self.place = {name: n for n, name in enumerate(found)}
        self.classes = splits.classes
        if found:
            known = splits.test.y >= 0
            truth_N = splits.test.y[known]
            right_ASN = np.stack([np.stack(seeds)[:, known] == truth_N for seeds in found.values()])
            rng = np.random.default_rng(derive(params.seed, "bootstrap"))
            self.whole_AR, self.class_KAR = replicates(right_ASN, truth_N, len(splits.classes), rng)

    def of(self, name: str, rival: str | None = None) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """The interval of an arm's accuracy, or of its difference to a rival: whole, and by class."""
        wanted = [name] if rival is None else [name, rival]
        if any(arm not in self.place for arm in wanted):
            nothing = interval(np.zeros(0))
            return nothing, dict.fromkeys(self.classes, nothing)
        whole_R, class_KR = self.whole_AR[self.place[name]], self.class_KAR[:, self.place[name]]
        if rival is not None:
            whole_R = whole_R - self.whole_AR[self.place[rival]]
            class_KR = class_KR - self.class_KAR[:, self.place[rival]]
        by_class = {label: interval(class_R) for label, class_R in zip(self.classes, class_KR, strict=True)}
        return interval(whole_R), by_class


def _accuracy(name: str, splits: Splits, outcomes: Sequence[Outcome], drawn: _Drawn) -> dict[str, Any]:
    truth = splits.test.y
    found = [o for o in outcomes if o.trial.arm == name]
    seeds = [_share(o.predicted, truth, truth >= 0) for o in found]
    classes = {}
    for label, of_class in enumerate(splits.classes):
        recalls = [_share(o.predicted, truth, truth == label) for o in found]
        classes[of_class] = spread(recalls)["mean"]
    whole, by_class = drawn.of(name)
    return {
        **spread(seeds),
        **whole,
        "per_class": classes,
        "per_class_interval": by_class,
        "images": found[0].images if found else None,
    }


def _difference(
    a: Mapping[str, Any], b: Mapping[str, Any], drawn: tuple[dict[str, Any], dict[str, dict[str, Any]]]
) -> dict[str, Any]:
    whole, by_class = drawn
    seeds = [_minus(x, y) for x, y in zip(a["per_seed"], b["per_seed"], strict=True)]
    classes = {
        name: {"mean": _minus(a["per_class"][name], b["per_class"][name]), **found}
        for name, found in by_class.items()
    }
    return {**spread(seeds), **whole, "per_class": classes}


def _finite(measures: Any) -> Any:
    """The measures with None for what is not a number, which JSON does not know."""
    if isinstance(measures, Mapping):
        return {key: _finite(value) for key, value in measures.items()}
    if isinstance(measures, list):
        return [_finite(value) for value in measures]
    return None if isinstance(measures, float) and not math.isfinite(measures) else measures


def _share(predicted: np.ndarray | None, truth: np.ndarray, among: np.ndarray) -> float | None:
    if predicted is None or not among.any():
        return None
    return round(float((predicted == truth)[among].mean()), 6)


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else round(a - b, 6)


def spread(per_seed: Sequence[float | None]) -> dict[str, Any]:
    """Mean and sample standard deviation over seeds (None for one seed), and each seed's own number."""
    numbers = [n for n in per_seed if n is not None]
    mean = round(float(np.mean(numbers)), 6) if numbers else None
    std = round(float(np.std(numbers, ddof=1)), 6) if len(numbers) > 1 else None
    return {"mean": mean, "std": std, "per_seed": list(per_seed)}
