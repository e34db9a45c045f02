"""What may drop a sample: each reason, the measure that tells it, and its limit for each class.

A limit is where a small share of held-out real images of the class would be lost. A class with too few
of them to tell so small a share borrows from all classes: the laxer of the two limits counts.
"""

from typing import NamedTuple

import numpy as np

from tasks.errors import UserError
from tasks.judging import Reference
from tasks.originals import LOOKS
from tasks.params import FilterParams
from tasks.params.values import Limit


class Rule(NamedTuple):
    """Drop what measures below (-1) or above (1) the limit, and what that means."""

    measure: str
    side: int
    meaning: str


RATES = ("copied", "duplicate")  # what copied_rate and duplicate_rate count
IDENTICAL = "identical"  # has no limit, and can't be switched off
RULES: dict[str, Rule] = {  # by key of `filter`, the gravest first; a sample's first one is its `reason`
    "copied": Rule("copy_residual", -1, "a training image again, shifted, mirrored, lit or saved anew"),
    "memorised": Rule("authenticity", -1, "too near to a training image, by how near that one is to others"),
    "duplicate": Rule("sibling_residual", -1, "nearly the same as another sample, which stands for both"),
    "unlike_label": Rule(
        "probability", -1, "the judge finds its class less likely than for real images of it"
    ),
    "ambiguous": Rule("margin", -1, "the judge finds another class nearly as likely"),
    "uncertain": Rule("entropy", 1, "the judge wavers between classes"),
    "outlier": Rule("train_distance", 1, "farther from every training image than real images of its class"),
    "unrealistic": Rule("realism", -1, "outside of where real images lie"),
    "sparse": Rule("density", -1, "where hardly any real image lies"),
    "blurred": Rule("sharpness", -1, "less sharp than real images of its class"),
    "noisy": Rule("sharpness", 1, "more grain than real images of its class"),
    "flat": Rule("contrast", -1, "less contrast than real images of its class"),
    "dark": Rule("brightness", -1, "darker than real images of its class"),
    "bright": Rule("brightness", 1, "brighter than real images of its class"),
    "blank": Rule("blank", 1, "more plain area than real images of its class"),
    "saturated": Rule("saturated", 1, "more values at black or white than real images of its class"),
}
MEANINGS = {
    IDENTICAL: "a training image, bit for bit",
    **{name: rule.meaning for name, rule in RULES.items()},
}


def limits(params: FilterParams, real: Reference) -> dict[str, np.ndarray]:
    """Each switched-on reason's limit by class (K,), or (1,) where there are none.

    Raises UserError if a class is named that there is not.
    """
    found = {}
    for name in RULES:
        wanted = getattr(params, name)
        if wanted is not None and (limit_K := _limit(name, wanted, real)) is not None:
            found[name] = limit_K
    return found


def for_rates(params: FilterParams, real: Reference) -> dict[str, np.ndarray]:
    """The limits that tell copies and repeats for the set measures: theirs, or the default where one is off.

    So a switch decides what is dropped, and never what is measured.
    """
    default = FilterParams()
    off = {name: getattr(default, name) for name in RATES if getattr(params, name) is None}
    found = limits(params.model_copy(update=off), real)
    return {name: found[name] for name in RATES if name in found}


def _limit(name: str, wanted: Limit, real: Reference) -> np.ndarray | None:
    """None where nothing is known of the measure, as of a label where there are none."""
    rule, classes = RULES[name], real.facts["classes"]
    limit_K = np.full(max(len(classes), 1), np.nan)
    if wanted.value is not None:
        limit_K[:] = wanted.value
    elif wanted.share is not None:
        measure = "copy_residual" if name == "duplicate" else rule.measure
        values, labels = held_out(real, measure)
        if not len(values):
            return None
        share = wanted.share if rule.side < 0 else 1 - wanted.share
        own_K = [_quantile(values[labels == label], share) for label in range(len(classes))]
        limit_K[:] = own_K or [_quantile(values, share)]
        laxer, whole = (np.fmin, np.fmax)[rule.side > 0], _quantile(values, share)
        few_K = [(labels == label).sum() * wanted.share < 1 for label in range(len(classes))] or [False]
        limit_K = np.where(few_K, laxer(limit_K, whole), limit_K)
        limit_K = limit_K / wanted.slack if rule.side < 0 else limit_K * wanted.slack
    for each, value in wanted.classes.items():
        if each not in classes:
            raise UserError(
                f"params.yaml: filter.{name}.classes: no class {each!r}; there are: {', '.join(classes)}."
            )
        limit_K[classes.index(each)] = value
    return limit_K


def held_out(real: Reference, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """What real images measure (N,) and their labels (N,): held-out ones, and for looks all of them."""
    splits = ("calibrate", "train") if measure in LOOKS else ("calibrate",)
    values = np.concatenate([real.column(split, measure) for split in splits])
    labels = np.concatenate([real.labels(split) for split in splits])
    known = ~np.isnan(values)
    return values[known], labels[known]


def _quantile(values: np.ndarray, share: float) -> float:
    return float(np.quantile(values, share)) if len(values) else float("nan")


def beyond(values_N: np.ndarray | None, name: str, limit_K: np.ndarray, class_N: np.ndarray) -> np.ndarray:
    """(N,) bool: which are on the wrong side of their class's limit; none where either is not known."""
    if values_N is None:
        return np.zeros(len(class_N), bool)
    return RULES[name].side * (values_N - limit_K[class_N]) > 0
