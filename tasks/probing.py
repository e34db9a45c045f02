"""The probe: what a classifier trained on each arm's images scores on real test images.

Every arm has the same network, the same number of training images and the same seeds; only
where the images come from differs. A trial's randomness is derived from its seed alone, so
trials may run in any order, and arms of one seed can be compared as pairs.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from models.classifiers import Probe, shift
from tasks.device import Device
from tasks.errors import UserError
from tasks.params import Arm, EvaluateParams
from tasks.progress import Progress
from tasks.shards import Shards

PAIRS: list[tuple[Arm, Arm]] = [
    ("synthetic", "real"),
    ("real_synthetic", "real"),
    ("synthetic", "random_drop"),
    ("synthetic", "unfiltered"),
]
SET_MEASURES = ("samples", "kept", "kept_ratio", "before", "after", "scale")
POINTS = 12
WARMUP = 0.2
WEIGHT_DECAY = 0.01
LABEL_SMOOTHING = 0.05


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
    """All images that evaluate looks at. `reasons` (N,): why a sample was dropped, None if it is kept."""

    classes: list[str]
    train: Images
    calibrate: Images
    test: Images
    synthetic: Images
    reasons: np.ndarray
    measures: Mapping[str, Any]

    @cached_property
    def kept(self) -> np.ndarray:
        """(N,) bool: which synthetic samples the filter kept."""
        return np.array([r is None for r in self.reasons], bool)


@dataclass(frozen=True)
class Trial:
    """One training of the probe: an arm, and the number of the seed."""

    arm: Arm
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
    judged = Shards.open(scores).table(["id", "kept", "reason"]).to_pylist()
    if [row["id"] for row in judged] != images[3].ids.tolist():
        raise UserError(f"{scores}: scores other samples than {synthetic} holds. Run `dvc repro filter`.")
    # Arrays, not lists: Prefect looks into every element of a task's lists.
    reasons = np.array([None if row["kept"] else row["reason"] or "unknown" for row in judged], object)
    measures = json.loads((scores / "metrics.json").read_text(encoding="utf-8"))
    return Splits(opened[0].classes, images[0], images[1], images[2], images[3], reasons, measures)


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


def arm_images(trial: Trial, splits: Splits, seed: int) -> Images:
    """The labelled images that an arm trains on, each once."""
    train = splits.train.take(np.flatnonzero(splits.train.y >= 0))
    if trial.arm == "real":
        return train
    rng = np.random.default_rng(derive(seed, trial.seed, "random_drop"))
    rows = synthetic_rows(trial.arm, splits.synthetic.y, splits.kept, rng)
    drawn = splits.synthetic.take(rows[splits.synthetic.y[rows] >= 0])
    return train + drawn if trial.arm == "real_synthetic" else drawn


def synthetic_rows(arm: Arm, labels: np.ndarray, kept: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The rows of the synthetic samples that an arm uses, in the order drawn.

    `unfiltered` has the first as many as were kept; `random_drop` loses as many of each class as
    the filter dropped there, whichever chance picks.
    """
    if arm == "unfiltered":
        return np.arange(int(kept.sum()))
    if arm == "random_drop":
        left = [
            rng.permutation(np.flatnonzero(labels == label))[: int(kept[labels == label].sum())]
            for label in np.unique(labels)
        ]
        return np.sort(np.concatenate(left)) if left else np.arange(0)
    return np.flatnonzero(kept)


def fit(trial: Trial, splits: Splits, params: EvaluateParams, device: Device) -> Outcome:
    """Train a probe on one arm for `params.images` images and have it label the test split."""
    arm = arm_images(trial, splits, params.seed)
    if not len(arm.y):
        return Outcome(trial, 0, None, [])
    with torch.random.fork_rng():
        # Arms share the draws of a seed, initial weights among them: a pair differs in its images alone.
        torch.manual_seed(derive(params.seed, trial.seed, "probe"))
        _, channels, size, _ = splits.train.x.shape
        probe = device.place(Probe(channels, size, len(splits.classes)))
        curve = _train(probe, arm, splits.calibrate, trial, params, device)
        predicted = predict(probe, splits.test.x, device)
    return Outcome(trial, len(arm.y), predicted, curve)


def _train(
    probe: Probe, arm: Images, held_out: Images, trial: Trial, params: EvaluateParams, device: Device
) -> list[dict[str, float]]:
    """Fit with AdamW under a linear warm-up and decay, on images shifted at random.

    Returns points of the curve: images seen, mean loss since the last point, and accuracy on `held_out`.
    """
    x_NCHW, y_N = torch.from_numpy(arm.x).to(device.kind), torch.from_numpy(arm.y).to(device.kind)
    reach = max(1, arm.x.shape[-1] // 14)
    held_out = held_out.take(np.flatnonzero(held_out.y >= 0))
    steps = max(1, params.images // params.batch)
    optimiser = torch.optim.AdamW(
        probe.parameters(), lr=params.learning_rate, weight_decay=WEIGHT_DECAY, fused=True
    )
    rows = order(len(arm.y), steps * params.batch).view(steps, params.batch)
    curve, losses = [], []
    with Progress(f"evaluate, {trial.arm}, seed {trial.seed}", steps * params.batch) as progress:
        for step in range(steps):
            done = (step + 0.5) / steps
            optimiser.param_groups[0]["lr"] = params.learning_rate * min(
                done / WARMUP, (1 - done) / (1 - WARMUP)
            )
            row = rows[step].to(device.kind)
            x_BCHW = shift(device.scaled(x_NCHW[row]), reach)
            probe.train()
            with device.autocast():
                loss = F.cross_entropy(probe(x_BCHW).float(), y_N[row], label_smoothing=LABEL_SMOOTHING)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            losses.append(loss.detach())
            progress.add(params.batch)
            if (step + 1) * POINTS // steps > step * POINTS // steps:
                point = {
                    "images": float((step + 1) * params.batch),
                    "loss": float(torch.stack(losses).mean()),
                }
                if len(held_out.y):
                    point["accuracy"] = float((predict(probe, held_out.x, device) == held_out.y).mean())
                curve.append(point)
                losses = []
    return curve


def order(total: int, count: int) -> torch.Tensor:
    """(count,) row numbers: pass after pass over `total` rows, each in a new order."""
    passes = [torch.randperm(total) for _ in range(math.ceil(count / total))]
    return torch.cat(passes)[:count]


def predict(probe: torch.nn.Module, x: np.ndarray, device: Device, batch: int = 1_000) -> np.ndarray:
    """(N,) int64: the class that the probe finds most likely for each uint8 image."""
    probe.eval()
    found = [np.zeros(0, np.int64)]
    with torch.inference_mode(), device.autocast():
        for start in range(0, len(x), batch):
            x_BCHW = device.scaled(torch.from_numpy(x[start : start + batch]))
            found.append(probe(x_BCHW).argmax(1).cpu().numpy())
    return np.concatenate(found)


def derive(*parts: object) -> int:
    """A seed of 63 bits that is the parts' own: neither order nor neighbours of a trial matter."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def summarise(params: EvaluateParams, splits: Splits, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The numbers of metrics.json. What can't be measured is None, and a note says why."""
    notes = [why_not(splits)] if why_not(splits) else []
    accuracy = {arm: _accuracy(arm, splits, outcomes) for arm in params.arms}
    for arm in params.arms:
        if not why_not(splits) and accuracy[arm]["mean"] is None:
            notes.append(f"{arm}: not measured; there are no images to train on.")
    for label, name in enumerate(splits.classes):
        if not (splits.kept & (splits.synthetic.y == label)).any():
            notes.append(f"class {name!r}: no synthetic image was kept.")
    difference = {
        f"{a}_minus_{b}": spread(
            [_minus(x, y) for x, y in zip(accuracy[a]["per_seed"], accuracy[b]["per_seed"], strict=True)]
        )
        for a, b in PAIRS
        if a in accuracy and b in accuracy
    }
    measures = {key: _finite(splits.measures.get(key)) for key in SET_MEASURES}
    return {"accuracy": accuracy, "difference": difference, **measures, "notes": notes}


def _accuracy(arm: Arm, splits: Splits, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    truth = splits.test.y
    found = [o for o in outcomes if o.trial.arm == arm]
    seeds = [_share(o.predicted, truth, truth >= 0) for o in found]
    classes = {}
    for label, name in enumerate(splits.classes):
        recalls = [_share(o.predicted, truth, truth == label) for o in found]
        classes[name] = spread(recalls)["mean"]
    return {**spread(seeds), "per_class": classes, "images": found[0].images if found else None}


def _finite(measures: Any) -> Any:
    """The measures with None for what is not a number, which JSON does not know."""
    if isinstance(measures, Mapping):
        return {key: _finite(value) for key, value in measures.items()}
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
