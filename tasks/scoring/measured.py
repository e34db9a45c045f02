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
    """The thumbnails of all samples, read from the measured shards when asked for, a few at a time."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths, self.starts = paths, _starts(paths)

    def __call__(self, rows_N: np.ndarray) -> Tensor:
        """uint8 (N, C, h, w) of these rows."""
        shards_N = np.searchsorted(self.starts, rows_N, side="right") - 1
        found: Tensor | None = None
        for shard in np.unique(shards_N):
            places = np.flatnonzero(shards_N == shard)
            with safe_open(self.paths[shard], "pt") as file:
                thumbs = file.get_tensor("thumbs")[torch.from_numpy(rows_N[places] - self.starts[shard])]
            if found is None:
                found = thumbs.new_zeros(len(rows_N), *thumbs.shape[1:])
            found[torch.from_numpy(places)] = thumbs
        return torch.zeros(0, 1, 1, 1, dtype=torch.uint8) if found is None else found


def _starts(paths: list[Path]) -> np.ndarray:
    counts = [0]
    for path in paths:
        with safe_open(path, "numpy") as file:
            counts.append(file.get_slice("features").get_shape()[0])
    return np.cumsum(counts)
