"""The small draws at fixed seeds that show how a training goes, always of the same samples.

A family that is asked with images is asked with held-out ones, of the calibrate split; if it is paired,
they are also what its answers should be.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.fidelity import fidelity
from tasks.batches import Pool, Sources, parents
from tasks.device import Device


class Draws:
    """What is drawn: samples with labels `y_N` (None: unlabelled), of held-out sources if there are any."""

    def __init__(self, family: Any, y_N: np.ndarray | None, count: int, calibrate: Path) -> None:
        self.y_N, self.count = y_N, count
        self.sources: Sources | None = None
        if family.condition == "image":
            pool, wanted_N = Pool.open(calibrate), np.full(count, -1) if y_N is None else y_N
            self.sources = Sources(pool, parents(pool.labels, wanted_N, 0, family.PARENTS))

    def draw(self, family: Any, batch: int, device: Device) -> np.ndarray:
        """The samples (N, C, H, W) uint8, each with its number as its seed."""
        drawn = []
        for start in range(0, self.count, batch):
            part = slice(start, min(start + batch, self.count))
            y_B = None if self.y_N is None else torch.from_numpy(self.y_N[part]).to(device.kind)
            seeds, asked = list(range(part.start, part.stop)), {}
            with torch.inference_mode(), device.autocast():
                if self.sources:
                    asked = {"sources": self.sources.take(part).asked(family, seeds, device)[0]}
                drawn.append(family.sample(y_B, seeds, **asked)[0].cpu().numpy())
        return np.concatenate(drawn)

    def fidelity(self, family: Any, x_NCHW: np.ndarray, device: Device) -> dict[str, float]:
        """How near what was drawn comes to held-out images, the mean over all; none if it need not."""
        if self.sources is None or not family.PAIRED:
            return {}
        truth_NCHW = self.sources.pool.x_NCHW[torch.from_numpy(self.sources.rows_NP[:, 0])]
        found = fidelity(torch.from_numpy(x_NCHW), truth_NCHW, device.kind)
        return {name: round(float(values_N.mean()), 6) for name, values_N in found.items()}
