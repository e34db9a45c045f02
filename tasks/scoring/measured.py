"""What was measured of each shard's samples, in a file a shard, read a column at a time."""

import json
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
        self.paths, self.starts = paths, _starts(paths)
        self.places = [_place(path, "thumbs") for path in paths]

    def __call__(self, rows_N: np.ndarray) -> Tensor:
        """uint8 (N, C, h, w) of these rows."""
        found = np.empty((len(rows_N), *(self.places[0][1] if self.places else (1, 1, 1))), np.uint8)
        shards_N = np.searchsorted(self.starts, rows_N, side="right") - 1
        for shard in np.unique(shards_N).tolist():
            first = self.places[shard][0] - int(self.starts[shard]) * found[:1].nbytes
            with open(self.paths[shard], "rb", buffering=0) as file:
                for n in np.flatnonzero(shards_N == shard).tolist():
                    file.seek(first + int(rows_N[n]) * found[:1].nbytes)
                    file.readinto(found[n].data)
        return torch.from_numpy(found)


def _place(path: Path, name: str) -> tuple[int, tuple[int, ...]]:
    """Where a column of uint8 begins in a safetensors file, and the shape of a row of it.

    The file's first eight bytes tell the length of its header, which is JSON.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        told = json.loads(file.read(length))[name]
    return 8 + length + told["data_offsets"][0], tuple(told["shape"][1:])


def _starts(paths: list[Path]) -> np.ndarray:
    counts = [0]
    for path in paths:
        with safe_open(path, "numpy") as file:
            counts.append(file.get_slice("features").get_shape()[0])
    return np.cumsum(counts)
