"""The watchdog of a training: is it still healthy, and which of its states was the best?

It is fed each step's metrics, held against the bounds that the family gives, and now and then a small
draw at fixed seeds, which the judge holds against the calibrate split. It decides; the loop acts.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from models.families import Alarm
from models.manifold import Manifold
from tasks.device import Device
from tasks.judging import Reference, measure

GRACE = 0.1  # share of the training in which only what is no number is an alarm: all start out of bounds
EARLY = 500  # steps before which neither that share nor the next one counts, however short the budget
MEMORY = 20  # steps over which a metric is averaged before it is held against its bounds
SETTLED = 0.4  # share of the training after which a draw must show some variety
CLASSES_SHOWN = 0.5  # of the classes that an earlier draw showed
VARIETY = 0.2
TOLERANCE = 0.03  # about the spread of a draw's score: a later state is kept unless worse by more
NEIGHBOURS = 5
MOST = 2_000  # real images of a class that a draw is compared with


class Finding(NamedTuple):
    """What is wrong with a training, and what helps: `lower` or `raise`, and a key of the family's Config."""

    what: str
    verb: str = "lower"
    key: str = "lr"


@dataclass
class Watchdog:
    """What is known of one training's health. All that it remembers is in `memory`, which is plain JSON."""

    alarms: Mapping[str, Alarm]
    memory: dict[str, Any]
    settled: float = 0.0  # the family's own, if later than SETTLED

    def step(self, metrics: Mapping[str, float], progress: float) -> Finding | None:
        """Take in one step's metrics at `progress` in [0, 1]; return what is wrong, or None."""
        for name, value in metrics.items():
            if not math.isfinite(value):
                return Finding(f"{name} became {value}")
        self.memory["steps"] = self.memory.get("steps", 0) + 1
        if progress < GRACE or self.memory["steps"] < EARLY:
            return None
        means = self.memory.setdefault("means", {})
        for name, (low, high, meaning, turn) in self.alarms.items():
            mean = means.get(name, metrics[name])
            means[name] = mean = mean + (metrics[name] - mean) / MEMORY
            if not low <= mean <= high:
                side, bound = ("below", low) if mean < low else ("above", high)
                return Finding(f"{name} is {mean:.4g}, {side} {bound:g}: {meaning}", *turn.split())
        return None

    def draw(self, health: Mapping[str, float | None], progress: float) -> Finding | None:
        """Hold a draw's health, as `Examiner` finds it, against real images and the draws before.

        A training that has merely not come far is not ill: what its samples are worth is evaluate's word.
        """
        shown, variety = health["classes_shown"], health["variety"]
        settled = progress >= max(SETTLED, self.settled) and self.memory.get("steps", 0) >= EARLY
        if settled and variety is not None and variety < VARIETY:
            return Finding(
                f"the modes have collapsed: a class varies {variety:.2f} times as much as real ones"
            )
        before = self.memory.get("shown", 0.0)
        lost = shown is not None and shown < CLASSES_SHOWN * before
        if settled and lost and before >= CLASSES_SHOWN:  # fewer are shown by chance
            return Finding(
                f"classes are lost: the judge finds {shown:.0%} of them, and found {before:.0%} before"
            )
        self.memory["shown"] = max(before, shown or 0.0)
        return None

    def is_best(self, score: float | None, images: int) -> bool:
        """Whether the state with this score, after so many images, is the one to keep so far."""
        best = self.memory.get("best", 0.0)
        if score is not None and score < best - TOLERANCE:
            return False
        self.memory |= {"best": max(best, score or 0.0), "best_images": images}
        return True


@dataclass(frozen=True)
class Examiner:
    """The judge, asked about small draws: how they compare with the calibrate split's real images."""

    reference: Reference
    device: Device

    @cached_property
    def _real(self) -> tuple[np.ndarray, np.ndarray]:
        """Features (M, D) and labels (M,) of the calibrate split."""
        features_MD, y_M = self.reference.features("calibrate"), self.reference.labels("calibrate")
        first = [np.flatnonzero(y_M == label)[:MOST] for label in np.unique(y_M)]
        rows = np.sort(np.concatenate(first)) if first else np.arange(0)
        return features_MD[rows], y_M[rows]

    @cached_property
    def judge(self) -> Any:
        """The judge, on the device."""
        return self.reference.judge(self.device)

    def examine(self, x_NCHW: np.ndarray, y_N: np.ndarray | None) -> dict[str, float | None]:
        """Judge a draw (N, C, H, W) uint8 that was asked for with labels (N,), or with none.

        Returns:
            classes_shown: the share of classes that the judge finds in at least half of the images that
                were asked to show them; None where there are no labels.
            variety: the mean distance between images of one class, over that of real ones, in the class
                where that is least.
            score: the share of calibrate images that have a drawn image of their class nearer than
                their own fifth neighbour (coverage: Naeem et al. 2020), averaged over classes.
            Each is None where there are too few images to tell.
        """
        said = measure(self.judge, x_NCHW, self.device, self.reference.facts)
        real_MD, real_y_M = self._real
        if y_N is None:
            y_N, real_y_M = np.zeros(len(x_NCHW), int), np.zeros(len(real_MD), int)
        shown, variety, covered = [], [], []
        for label in np.unique(y_N):
            fake_ND, real_ND = said.features_ND[y_N == label], real_MD[real_y_M == label]
            if said.probabilities_NK is not None:
                shown.append((said.probabilities_NK[y_N == label].argmax(1) == label).mean() >= 0.5)
            if min(len(fake_ND), len(real_ND)) >= NEIGHBOURS and (apart := _mean_distance(real_ND)) > 0:
                variety.append(_mean_distance(fake_ND) / apart)
            if len(real_ND) > NEIGHBOURS:
                balls = Manifold.of(torch.from_numpy(real_ND), NEIGHBOURS)
                covered.append(float((balls.tell(torch.from_numpy(fake_ND)).by_ball_JM > 0).double().mean()))
        found = {"classes_shown": shown, "variety": [min(variety)] if variety else [], "score": covered}
        return {name: round(float(np.mean(values)), 6) if values else None for name, values in found.items()}


def _mean_distance(features_ND: np.ndarray) -> float:
    return float(torch.pdist(torch.from_numpy(features_ND)).mean())
