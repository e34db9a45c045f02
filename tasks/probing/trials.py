"""What evaluate looks at, and what it makes of it: images, splits, and the trials of a probe."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.errors import UserError
from tasks.params import EvaluateParams
from tasks.shards import Shards


@dataclass(frozen=True, eq=False)
class Images:
    """`x` (N, C, H, W) uint8, `y` (N,) int64, -1 where there is no label, and the samples' ids (N,)."""

    x: np.ndarray
    y: np.ndarray
    ids: np.ndarray

    def take(self, rows: np.ndarray) -> "Images":
        """The images at `rows`, in that order."""
        return Images(self.x[rows], self.y[rows], self.ids[rows])

    def __add__(self, other: "Images") -> "Images":
        pairs = ((self.x, other.x), (self.y, other.y), (self.ids, other.ids))
        return Images(*(np.concatenate(pair) for pair in pairs))


@dataclass(frozen=True, eq=False)
class Splits:
    """All images that evaluate looks at. `reasons` (N,): why a sample was dropped, None if it is kept.

    `probabilities` (N, K) float32: what the judge takes each sample for; None if it was not asked.
    """

    classes: list[str]
    train: Images
    calibrate: Images
    test: Images
    synthetic: Images
    reasons: np.ndarray
    measures: Mapping[str, Any]
    probabilities: np.ndarray | None = None

    @cached_property
    def kept(self) -> np.ndarray:
        """(N,) bool: which synthetic samples the filter kept."""
        return np.array([r is None for r in self.reasons], bool)


@dataclass(frozen=True)
class Trial:
    """One training of the probe: an arm's name, and the number of the seed."""

    arm: str
    seed: int


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a trial: how many distinct images it had, its predictions on test, and its curve."""

    trial: Trial
    images: int
    predicted: np.ndarray | None
    curve: list[dict[str, float]]


def gather(train: Path, calibrate: Path, test: Path, synthetic: Path, scores: Path) -> Splits:
    """Decode every split and the synthetic set, and match it with its scores.

    Raises UserError if classes or shapes differ, or if the scores are of other samples.
    """
    opened = [Shards.open(p) for p in (train, calibrate, test, synthetic)]
    for other in opened[1:]:
        if (other.classes, other.shape) != (opened[0].classes, opened[0].shape):
            raise UserError(
                f"{other.folder}: holds {_short(other)}, but {train} holds {_short(opened[0])}. "
                "Run `dvc repro`."
            )
    images = [Images(s.pixels(), s.labels(), s.table(["id"])["id"].to_numpy()) for s in opened]
    scored = Shards.open(scores).table(["id", "kept", "reason", "probabilities"])
    judged = scored.drop_columns(["probabilities"]).to_pylist()
    if [row["id"] for row in judged] != images[3].ids.tolist():
        raise UserError(f"{scores}: scores other samples than {synthetic} holds. Run `dvc repro filter`.")
    # Arrays, not lists: Prefect looks into every element of a task's lists.
    reasons = np.array([None if row["kept"] else row["reason"] or "unknown" for row in judged], object)
    measures = json.loads((scores / "metrics.json").read_text(encoding="utf-8"))
    probabilities = soft_labels(scored["probabilities"])
    return Splits(
        opened[0].classes, images[0], images[1], images[2], images[3], reasons, measures, probabilities
    )


def soft_labels(column: pa.ChunkedArray) -> np.ndarray | None:
    """(N, K) float32 whose rows add up to 1, of a column of float16 lists; None if any is null."""
    if not len(column) or column.null_count:
        return None
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    stored_NK = flat.reshape(len(column), -1)
    return stored_NK / stored_NK.sum(1, keepdims=True)


def _short(shards: Shards) -> str:
    channels, height, width = shards.shape
    return f"{len(shards.classes)} classes of {channels}x{height}x{width} images"


def trials(params: EvaluateParams, splits: Splits) -> list[Trial]:
    """Every arm with every seed; none where accuracy can't be measured."""
    if why_not(splits):
        return []
    return [Trial(arm, seed) for arm in params.arms for seed in range(params.seeds)]


def why_not(splits: Splits) -> str | None:
    """Why accuracy can't be measured here, in one line; None if it can."""
    if len(splits.classes) < 2:
        found = f"the one class {splits.classes[0]!r}" if splits.classes else "none"
        return f"Accuracy needs labels of two classes or more; these images have {found}."
    if not (splits.test.y >= 0).any():
        return "Accuracy needs labelled test images; there are none."
    return None
