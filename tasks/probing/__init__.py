"""The probe: what a classifier trained on each arm's images scores on real test images.

Every arm has the same network, the same number of training images and the same seeds; only
what it is shown differs: which images, how augmented, under whose labels. A trial's randomness
is derived from its seed alone, so trials may run in any order, and arms of one seed can be
compared as pairs.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from models.augmentation import augmented
from models.classifiers import Probe, shift
from tasks import arms
from tasks.device import Device
from tasks.params import EvaluateParams
from tasks.probing.picking import arm_images, arm_targets, derive
from tasks.probing.summary import spread, summarise
from tasks.probing.trials import Images, Outcome, Splits, Trial, gather, trials
from tasks.progress import Progress

__all__ = [
    "Images",
    "Outcome",
    "Splits",
    "Trial",
    "fit",
    "gather",
    "order",
    "predict",
    "spread",
    "summarise",
    "trials",
]

POINTS = 12
WARMUP = 0.2
WEIGHT_DECAY = 0.01
LABEL_SMOOTHING = 0.05


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
        targets = arm_targets(trial, splits, arm)
        curve = _train(probe, arm, targets, splits.calibrate, trial, params, device)
        predicted = predict(probe, splits.test.x, device)
    return Outcome(trial, len(arm.y), predicted, curve)


def _train(
    probe: Probe,
    arm: Images,
    targets: np.ndarray,
    held_out: Images,
    trial: Trial,
    params: EvaluateParams,
    device: Device,
) -> list[dict[str, float]]:
    """Fit with AdamW under a linear warm-up and decay, on images shifted at random.

    `targets`: a class for each of the arm's images (N,) int64, or a share for each class (N, K) float32.
    Returns points of the curve: images seen, mean loss since the last point, and accuracy on `held_out`.
    """
    x_NCHW, y_N = torch.from_numpy(arm.x).to(device.kind), torch.from_numpy(targets).to(device.kind)
    changes = params.augment if arms.parse(trial.arm).kind == "real_augmented" else []
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
            x_BCHW = augmented(shift(device.scaled(x_NCHW[row]), reach), changes)
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
