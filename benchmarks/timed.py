"""A peer's training: the batches and the time that our families get, computed in the fastest way."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from models.families import Batch, Spec
from tasks.batches import Pool, order
from tasks.device import Device
from tasks.params import TrainParams

BATCH = 64  # images a step where train.batch is null: what our diffusion and vae take
WARM_UP = 0.03  # share of the budget over which the learning rate rises, as in our families
TRIED = 3  # steps by which a way to compute is timed, after one that warms up


class Way(NamedTuple):
    """How a peer computes fastest here: on the device in its precision, in this memory layout."""

    device: Device
    layout: torch.memory_format

    def __str__(self) -> str:
        last = self.layout == torch.channels_last
        return f"{self.device.precision}, {'channels last' if last else 'contiguous'}"


def train(
    build: Callable[[Spec], Any], real: Path, params: TrainParams, device: Device
) -> tuple[Any, Way, int]:
    """Train a peer on the shards `real` for `params.minutes`, with `params.batch` and `params.seed`.

    Returns it ready to sample, the way it was computed in, and how many images it saw. Choosing the way
    and the last `finish` are outside the time, as building and the last `finish` are for our families.
    Theirs holds the draws for the watchdog too.
    """
    pool = Pool.open(real)
    size = params.batch or BATCH

    def make() -> Any:
        torch.manual_seed(params.seed)
        return build(pool.spec)

    first = np.arange(size) % len(pool)
    way = min(ways(device), key=lambda w: fastest_step(make(), w, pool.batch(first, device, w.layout)))
    peer, images, budget = make(), 0, 60 * (params.minutes or 0)
    peer.to(way)
    started = time.monotonic()
    while (progress := (time.monotonic() - started) / budget) < 1:
        rows_B = order(params.seed, images, size, len(pool))
        step(peer, way, pool.batch(rows_B, device, way.layout), progress)
        images += size
    spans = range(0, len(pool), size)
    rows = (np.arange(at, min(at + size, len(pool))) for at in spans)
    peer.finish((pool.batch(rows_B, device, way.layout) for rows_B in rows), way)
    return peer, way, images


def step(peer: Any, way: Way, batch: Batch, progress: float) -> None:
    """Update once at `progress` in [0, 1] of the budget; the learning rate goes as in our families."""
    rise, fall = min(1.0, progress / WARM_UP), 0.5 + 0.5 * math.cos(math.pi * progress)
    peer.adam.param_groups[0]["lr"] = peer.lr * rise * fall
    with way.device.autocast():
        loss = peer.loss(batch)
    peer.adam.zero_grad()
    loss.backward()
    peer.adam.step()
    peer.after()


def ways(device: Device) -> list[Way]:
    """All ways worth a try: the device's own precision and fp32, in both layouts."""
    precisions = dict.fromkeys([device, replace(device, precision="fp32")])
    return [Way(d, layout) for d in precisions for layout in (torch.contiguous_format, torch.channels_last)]


def fastest_step(peer: Any, way: Way, batch: Batch) -> float:
    """The seconds of the fastest of TRIED steps, since others may use the machine too."""
    peer.to(way)
    seconds = []
    for _ in range(TRIED + 1):
        started = time.monotonic()
        step(peer, way, batch, 0.0)
        if way.device.kind == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - started)
    return min(seconds[1:])
