"""Real images as a family sees them: whole splits in memory, rows of them as batches on the device."""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import one_hot

from models.families import Batch, Spec
from tasks.device import Device
from tasks.shards import Shards


@dataclass(frozen=True, eq=False)
class Pool:
    """A split: uint8 images (N, C, H, W), labels (N,) or None, and uint8 conditions (N, c, H, W) or None."""

    shards: Shards
    x_NCHW: torch.Tensor
    y_N: torch.Tensor | None
    c_NCHW: torch.Tensor | None

    @classmethod
    def open(cls, path: Path) -> "Pool":
        """Decode a sealed split. Raises UserError if it is missing or unsealed."""
        shards = Shards.open(path)
        y_N = torch.from_numpy(shards.labels()) if shards.classes else None
        c_NCHW = torch.from_numpy(shards.pixels("condition")) if shards.condition else None
        return cls(shards, torch.from_numpy(shards.pixels()), y_N, c_NCHW)

    def __len__(self) -> int:
        return len(self.x_NCHW)

    @property
    def spec(self) -> Spec:
        """What a family has to be built for to see these images."""
        return Spec.of(self.shards.shape, len(self.shards.classes), self.shards.condition)

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64, -1 where there are none."""
        return np.full(len(self), -1) if self.y_N is None else self.y_N.numpy()

    @cached_property
    def ids(self) -> list[str]:
        """The images' ids."""
        return self.shards.table(["id"])["id"].to_pylist()

    def batch(self, rows_B: np.ndarray, device: Device, layout: torch.memory_format) -> Batch:
        """The images of these rows with all that comes with them, on the device."""
        chosen_B = torch.from_numpy(rows_B)
        y_B = None if self.y_N is None else self.y_N[chosen_B].to(device.kind)
        c_BCHW = None
        if self.c_NCHW is not None and self.shards.condition:
            c_BCHW = self.c_NCHW[chosen_B]
            if ids := self.shards.condition["ids"]:
                c_BHWK = one_hot(c_BCHW[:, 0].long(), ids)
                c_BCHW = c_BHWK.movedim(-1, 1).to(device.kind).float().contiguous(memory_format=layout)
            else:
                c_BCHW = device.scaled(c_BCHW, layout)
        return Batch(device.scaled(self.x_NCHW[chosen_B], layout), y_B, c_BCHW)


@dataclass(frozen=True, eq=False)
class Sources:
    """What samples are made from: rows of a split (N, P), the P sources of each sample."""

    pool: Pool
    rows_NP: np.ndarray

    def take(self, at: slice) -> "Sources":
        """The sources of some of the samples."""
        return Sources(self.pool, self.rows_NP[at])

    def batches(self, device: Device, size: int = 0) -> list[Batch]:
        """A batch for each parent; the last sample's sources are repeated up to `size`."""
        more = np.repeat(self.rows_NP[-1:], max(size - len(self.rows_NP), 0), axis=0)
        rows_BP = np.concatenate([self.rows_NP, more])
        return [self.pool.batch(rows_B, device, torch.channels_last) for rows_B in rows_BP.T]

    def asked(self, family: Any, seeds: list[int], device: Device) -> tuple[list[Batch], np.ndarray | None]:
        """A batch for each parent, as the family is asked with them, and what it is shown of each sample.

        That is what it makes of the sources itself, or what came with the first, uint8 (N, 1 or 3, H, W);
        None if nothing did. There are as many rows in a batch as seeds.
        """
        batches, count = self.batches(device, len(seeds)), len(self.rows_NP)
        if hasattr(family, "ask"):
            shown_BCHW = family.ask(batches, seeds)
            first = replace(batches[0], c_BCHW=device.scaled(shown_BCHW))
            return [first, *batches[1:]], shown_BCHW[:count].cpu().numpy()
        if self.pool.c_NCHW is None:
            return batches, None
        return batches, self.pool.c_NCHW[torch.from_numpy(self.rows_NP[:, 0])].numpy()

    @property
    def ids(self) -> list[list[str]]:
        """The ids of each sample's sources."""
        known = self.pool.ids
        return [[known[row] for row in rows_P] for rows_P in self.rows_NP.tolist()]


def order(seed: int, start: int, count: int, total: int) -> np.ndarray:
    """Row numbers of images `start` to `start + count` of a run: each epoch permutes all `total` rows."""
    rows: list[np.ndarray] = []
    while count:
        epoch, offset = divmod(start, total)
        rows.append(_epoch(seed, epoch, total)[offset : offset + count])
        start += len(rows[-1])
        count -= len(rows[-1])
    return np.concatenate(rows)


@lru_cache(maxsize=2)
def _epoch(seed: int, epoch: int, total: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(total)


def parents(labels_M: np.ndarray, wanted_N: np.ndarray, seed: int, each: int) -> np.ndarray:
    """(N, each) rows: the sources of samples with labels `wanted_N`, of images with labels `labels_M`.

    A sample's sources have its label. Each image of a class is used once before any is used again, in an
    order that the seed decides. Raises KeyError with a label that no image has.
    """
    found_NP = np.empty((len(wanted_N), each), np.int64)
    for label in np.unique(wanted_N).tolist():
        own, asked = np.flatnonzero(labels_M == label), np.flatnonzero(wanted_N == label)
        if not len(own):
            raise KeyError(label)
        found_NP[asked] = own[order(seed, 0, len(asked) * each, len(own))].reshape(-1, each)
    return found_NP
