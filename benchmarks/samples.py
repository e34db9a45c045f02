"""Images as if generate had drawn them, and what the stage filter makes of them, without Prefect."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tasks import scoring
from tasks.device import Device
from tasks.params import FilterParams
from tasks.shards import Shards, image_column, png, sample_table, seal, shard_name, write_shard


def write(folder: Path, parts: Iterable[tuple[np.ndarray, np.ndarray]], classes: list[str]) -> Path:
    """Seal images (N, C, H, W) uint8 with labels (N,), -1 where there is none, a shard for each part."""
    folder.mkdir()
    for number, (x_NCHW, y_N) in enumerate(parts):
        ids = [f"{number:05d}-{n:05d}" for n in range(len(y_N))]
        images = image_column([png(x_CHW) for x_CHW in x_NCHW], [f"{i}.png" for i in ids])
        labels = [None if label < 0 else int(label) for label in y_N]
        write_shard(folder / shard_name(number), sample_table(len(ids), id=ids, image=images, label=labels))
        channels, size = x_NCHW.shape[1:3]
    return seal(folder, classes=classes, channels=int(channels), size=int(size))


def filtered(drawn: Path, data: Path, params: FilterParams, device: Device, out: Path) -> Path:
    """Score the samples `drawn` against real/ and reference/ in `data`, into a new folder `out`."""
    out.mkdir()
    for shard in Shards.open(drawn).paths:
        scoring.measure_shard(shard, data / "reference", data / "real/train", device, out)
    scoring.judge_rows(drawn, data / "reference", params, device, out)
    return out
