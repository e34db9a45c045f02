"""How sure an accuracy is: 95 % intervals over test images and seeds at once."""

import numpy as np

REPLICATES = 2_000
LEVEL = 0.95
CELLS = 4_000_000  # weights held in memory at a time


def replicates(
    right_ASN: np.ndarray, y_N: np.ndarray, classes: int, rng: np.random.Generator, count: int = REPLICATES
) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies of `count` resampled tests: (A, R) over all images, and (K, A, R) per class.

    The pigeonhole bootstrap (Owen 2007, arXiv 0712.1111): images and seeds are drawn anew, each with
    replacement and by themselves, and all arms share both draws, so that a difference of two arms
    is paired. `right_ASN` says whether arm A at seed S labelled image N correctly, `y_N` in [0, K).
    A class that a replicate drew no image of is NaN there.

    Of S seeds S - 1 are drawn: S of S would make their spread too small by the factor (S - 1) / S, a third
    off at three seeds. One seed alone is always drawn, and then images alone vary. Where seeds decide
    nearly all, three cannot span what a fourth would give: simulated, the interval held 85 % then.
    """
    A, S, N = right_ASN.shape
    order = np.argsort(y_N, kind="stable")
    ends = np.searchsorted(y_N[order], np.arange(classes + 1))
    right_NC = right_ASN.reshape(A * S, N).T[order].astype(np.float32)
    drawn = max(S - 1, 1)
    seeds_RS = _weights(rng, count, S, drawn) / drawn
    whole_AR, class_KAR = np.empty((A, count)), np.empty((classes, A, count))
    step = max(1, CELLS // max(N, 1))
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        images_RN = _weights(rng, part.stop - part.start, N, N)
        total_RC = np.zeros((len(images_RN), A * S))
        for k in range(classes):
            of_class = slice(ends[k], ends[k + 1])
            hits_RC = images_RN[:, of_class] @ right_NC[of_class]
            drawn_R1 = images_RN[:, of_class].sum(1, keepdims=True)
            total_RC += hits_RC
            with np.errstate(invalid="ignore"):
                class_KAR[k, :, part] = _over_seeds(hits_RC / drawn_R1, seeds_RS[part], A)
        whole_AR[:, part] = _over_seeds(total_RC / max(N, 1), seeds_RS[part], A)
    return whole_AR, class_KAR


def interval(values_R: np.ndarray) -> dict[str, float | None]:
    """The `low` and `high` between which 95 % of the replicates lie; None if there are none.

    It has no width where every image was labelled correctly by every seed: nothing then varies.
    """
    known = values_R[~np.isnan(values_R)]
    if not len(known):
        return {"low": None, "high": None}
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"low": round(float(low), 6), "high": round(float(high), 6)}


def _weights(rng: np.random.Generator, rows: int, things: int, drawn: int) -> np.ndarray:
    """(rows, things) float32: how often each thing was drawn, `drawn` in all in each row."""
    if not things:
        return np.zeros((rows, 0), np.float32)
    picked = rng.integers(0, things, (rows, drawn)) + things * np.arange(rows)[:, None]
    return np.bincount(picked.ravel(), minlength=rows * things).reshape(rows, things).astype(np.float32)


def _over_seeds(share_RC: np.ndarray, seeds_RS: np.ndarray, arms: int) -> np.ndarray:
    """(A, R): each replicate's mean over the seeds that it drew."""
    return np.einsum("ras,rs->ar", share_RC.reshape(len(share_RC), arms, -1), seeds_RS)
