"""The training loop, counted in images. It owns data, time, averages and checkpoints; no family by name.

A step is decided by its number: its batch comes from a permutation of its epoch, its noise from
a generator seeded with the step. So a resumed run repeats what an undisturbed one would do.
"""

import csv
import json
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file

from models.ema import EMA
from models.families import Batch, Spec, load
from tasks.device import Device
from tasks.errors import UserError
from tasks.params import TrainParams, parse
from tasks.progress import Progress
from tasks.shards import Shards, png, whole, write_text

log = logging.getLogger("mintage.train")
MODEL = "model.safetensors"
CHECKPOINT = "checkpoint.json"
CURVE = "loss.csv"
STATE = "state.safetensors"
CURVE_POINTS = 200
GRID_COLUMNS = 10
GRID_ROWS = 8


class Fit:
    """One training: the family, its average, and how far it has come."""

    def __init__(self, real: Path, params: TrainParams, block: Mapping[str, Any], device: Device) -> None:
        shards = Shards.open(real)
        self.params, self.device, self.block, self.classes = params, device, dict(block), shards.classes
        self.spec = Spec(*shards.shape, classes=len(shards.classes))
        self.x_NCHW = torch.from_numpy(shards.pixels())
        self.y_N = torch.from_numpy(shards.labels()) if shards.classes else None
        if not len(self.x_NCHW):
            raise UserError(f"{real}: no image to train on. Give ingest.source more images.")
        fabric = Fabric(accelerator=device.kind, devices=1, precision=_PRECISION[device.precision])
        torch.manual_seed(params.seed)
        self.family = device.place(self.build(), device.training_format)
        self.family.attach(fabric)
        self.ema = EMA(self.family.network, params.ema_images)
        self.images = 0
        self.curve: list[dict[str, float]] = []
        self.recent: list[dict[str, float]] = []

    def build(self) -> Any:
        """A family of this training's kind, not trained. Raises UserError if it can't make such images."""
        module = load(self.params.family)
        config = parse(module.Config, self.block, "params.yaml", f"families.{self.params.family}.")
        try:
            return module.build(config, self.spec)
        except ValueError as error:
            raise UserError(
                f"params.yaml: preprocess.size {self.spec.height}, channels {self.spec.channels}: {error}"
            ) from None

    def step(self) -> dict[str, float]:
        """Update once on the next batch. Raises UserError if the loss is no longer a number."""
        number = self.images // self.params.batch
        rows = order(self.params.seed, self.images, self.params.batch, len(self.x_NCHW))
        torch.manual_seed((self.params.seed * 1_000_003 + number) % 2**32)
        metrics = self.family.step(self.batch(rows), self.images / self.params.images)
        if not math.isfinite(metrics["loss"]):
            raise UserError(
                f"train: the loss became {metrics['loss']} at {self.images:,} images. "
                f"Lower the learning rate in families.{self.params.family}, or set train.precision to fp32."
            )
        self.images += self.params.batch
        self.ema.update(self.family.network, self.params.batch)
        self.record(metrics)
        return metrics

    def batch(self, rows: np.ndarray) -> Batch:
        """The images of these rows, float32 in [-1, 1], on the device."""
        chosen = torch.from_numpy(rows)
        x_BCHW = self.device.scaled(self.x_NCHW[chosen], self.device.training_format)
        return Batch(x_BCHW, None if self.y_N is None else self.y_N[chosen].to(self.device.kind))

    def record(self, metrics: dict[str, float]) -> None:
        """Add the mean of the recent steps to the curve, about CURVE_POINTS times a training."""
        self.recent.append(metrics)
        each = max(self.params.images // CURVE_POINTS, self.params.batch)
        if self.images // each > (self.images - self.params.batch) // each:
            mean = {k: float(np.mean([m[k] for m in self.recent])) for k in metrics}
            self.curve.append({"images": self.images, **mean})
            self.recent = []

    def averaged(self) -> Any:
        """A family with the averaged weights, for sampling."""
        family = self.device.place(self.build())
        family.load_state_dict(self.family.state_dict())
        self.ema.copy_to(family.network)
        return family.eval()

    def grid(self, family: Any) -> np.ndarray:
        """GRID_ROWS x GRID_COLUMNS samples at fixed seeds, a class a column: (C, H, W) uint8."""
        count = GRID_ROWS * GRID_COLUMNS
        classes_B = torch.arange(count, device=self.device.kind) % GRID_COLUMNS % max(self.spec.classes, 1)
        y_B = classes_B if self.spec.classes else None
        with torch.inference_mode(), self.device.autocast():
            x_BCHW, _ = family.sample(y_B, list(range(count)))
        return tile(x_BCHW.cpu().numpy(), GRID_COLUMNS)

    def passes(self) -> Iterator[Batch]:
        """The training images once more, in order, for the family's `finish`."""
        for start in range(0, len(self.x_NCHW), self.params.batch):
            yield self.batch(np.arange(start, min(start + self.params.batch, len(self.x_NCHW))))

    def save(self, folder: Path) -> None:
        """Write all that a resumed training needs."""
        tensors = {f"family.{k}": v for k, v in self.family.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        groups: dict[str, Any] = {}
        for name, optimiser in self.family.optimisers.items():
            state = optimiser.state_dict()
            groups[name] = state["param_groups"]
            for index, values in state["state"].items():
                tensors |= {f"optimiser.{name}.{index}.{k}": torch.as_tensor(v) for k, v in values.items()}
        facts = {"images": self.images, "curve": self.curve, "recent": self.recent, "groups": groups}
        # Facts and tensors share one file, so that a crash can't pair the old ones with the new.
        plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        with whole(folder / STATE) as file:
            file.write(save(plain, metadata={"facts": json.dumps(facts)}))

    def resume(self, folder: Path) -> None:
        """Go on from the last state in `folder`, if there is one that can be read."""
        path = folder / STATE
        if not path.is_file():
            return
        try:
            with safe_open(path, "pt") as file:
                facts = json.loads(file.metadata()["facts"])
                tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        except (SafetensorError, ValueError, KeyError):
            log.warning("%s is not readable; training starts afresh", path)
            return
        self.family.load_state_dict(_part(tensors, "family."))
        self.ema.load_state_dict(_part(tensors, "ema."))
        for name, optimiser in self.family.optimisers.items():
            state: dict[int, dict[str, torch.Tensor]] = {}
            for key, value in _part(tensors, f"optimiser.{name}.").items():
                index, field = key.split(".", 1)
                state.setdefault(int(index), {})[field] = value
            optimiser.load_state_dict({"state": state, "param_groups": facts["groups"][name]})
        self.images, self.curve, self.recent = facts["images"], facts["curve"], facts["recent"]
        log.info("going on from %s images", f"{self.images:,}")


def fit(folder: Path, real: Path, params: TrainParams, block: Mapping[str, Any], device: Device) -> Path:
    """Train `params.family` on the shards `real` for `params.images` images, into `folder`.

    Goes on from `folder` if a state lies there. Writes the averaged weights (safetensors), their
    facts (JSON), the loss curve (CSV, images on its first column) and sample grids (PNG).
    Raises UserError if the family can't make such images, or if the loss is no longer a number.
    """
    training = Fit(real, params, block, device)
    training.resume(folder)
    (folder / "grids").mkdir(exist_ok=True)
    with Progress("train", params.images, training.images) as progress:
        try:
            while training.images < params.images and training.family.TRAINS:
                before = training.images
                metrics = training.step()
                progress.add(params.batch, f"loss {metrics['loss']:.4f}")
                if _passed(params.grid_every, before, training.images):
                    write_grid(folder, training, training.averaged())
                if _passed(params.checkpoint_every, before, training.images):
                    training.save(folder)
        except KeyboardInterrupt:
            training.save(folder)
            raise
    return write_checkpoint(folder, training)


def write_checkpoint(folder: Path, training: Fit) -> Path:
    """Write what generate reads: weights, facts, curve and the last grid; drop the state to resume from."""
    family = training.averaged()
    torch.manual_seed(training.params.seed)  # the same whether or not the last step was just taken
    family.finish(training.passes())
    save_file({k: v.detach().cpu().contiguous() for k, v in family.state_dict().items()}, folder / MODEL)
    facts = {
        "family": training.params.family,
        "config": training.block,
        "classes": training.classes,
        "channels": training.spec.channels,
        "size": training.spec.height,
        "images": training.images,
        "parameters": sum(p.numel() for p in family.parameters()),
        "train": training.params.model_dump(mode="json"),
        "environment": training.device.facts,
    }
    write_text(folder / CHECKPOINT, json.dumps(facts, indent=1) + "\n")
    with open(folder / CURVE, "w", newline="", encoding="utf-8") as file:
        columns = list(training.curve[0]) if training.curve else ["images", "loss"]
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: round(v, 6) for k, v in row.items()} for row in training.curve)
    write_grid(folder, training, family)
    (folder / STATE).unlink(missing_ok=True)
    return folder


def write_grid(folder: Path, training: Fit, family: Any) -> None:
    """Write the grid of samples that the training makes after so many images."""
    with whole(folder / "grids" / f"{training.images:09d}.png") as file:
        file.write(png(training.grid(family)))


def order(seed: int, start: int, count: int, total: int) -> np.ndarray:
    """Row numbers of images `start` to `start + count` of the training: each epoch permutes all rows."""
    rows: list[np.ndarray] = []
    while count:
        epoch, offset = divmod(start, total)
        permutation = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(total)
        rows.append(permutation[offset : offset + count])
        start += len(rows[-1])
        count -= len(rows[-1])
    return np.concatenate(rows)


def tile(x_NCHW: np.ndarray, columns: int) -> np.ndarray:
    """Lay equal-sized images in rows of `columns`: (N, C, H, W) to (C, rows H, columns W)."""
    count, channels, height, width = x_NCHW.shape
    grid = x_NCHW.reshape(count // columns, columns, channels, height, width)
    return grid.transpose(2, 0, 3, 1, 4).reshape(channels, -1, columns * width)


_PRECISION: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed"}


def _part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _passed(each: int, before: int, after: int) -> bool:
    return after // each > before // each
