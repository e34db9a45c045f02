"""What was measured of each shard's samples, in a file a shard, read a column at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

# How near a sample comes to its nearest source, by the name in models/fidelity.py.
TO_SOURCE = {"source_ssim": "ssim", "source_perceptual_distance": "perceptual_distance"}


def column(paths: list[Path], name: str) -> Any:
    """A column of all samples (N, ...); None if it was not measured."""
    found: np.ndarray | None = None
    starts = _starts(paths)
    for number, path in enumerate(paths):
        with safe_open(path, "numpy") as file:
            if name not in file.keys():  # noqa: SIM118
                return None
            part = file.get_tensor(name)
        if found is None:  # filled shard by shard, since a list of parts would hold all of it twice
            found = np.empty((starts[-1], *part.shape[1:]), part.dtype)
        found[starts[number] : starts[number + 1]] = part
    return found


class Thumbs:
    """The thumbnails of all samples, each read from its measured shard when it is asked for."""

    def __init__(self, paths: list[Path]) -> None:
        self.starts = _starts(paths)
        self.slices = [safe_open(path, "numpy").get_slice("thumbs") for path in paths]

    def __call__(self, rows_N: np.ndarray) -> Tensor:
        """uint8 (N, C, h, w) of these rows."""
        if not len(rows_N):
            shape = self.slices[0].get_shape()[1:] if self.slices else (1, 1, 1)
            return torch.zeros(0, *shape, dtype=torch.uint8)
        shards_N = np.searchsorted(self.starts, rows_N, side="right") - 1
        places = zip(shards_N.tolist(), (rows_N - self.starts[shards_N]).tolist(), strict=True)
        return torch.from_numpy(np.concatenate([self.slices[shard][n : n + 1] for shard, n in places]))


def _starts(paths: list[Path]) -> np.ndarray:
    counts = [0]
    for path in paths:
        with safe_open(path, "numpy") as file:
            counts.append(file.get_slice("features").get_shape()[0])
    return np.cumsum(counts)
