"""One training, counted in images. It owns data, time, averages and its own state; no family by name.

A step is decided by its number: its batch comes from a permutation of its epoch, its noise from
a generator seeded with the step. So a resumed run repeats what an undisturbed one would do.
"""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from models.ema import EMA
from models.families import Batch, load
from tasks.batches import Pool, order
from tasks.device import Device
from tasks.errors import UserError
from tasks.fitting.together import Rows, alone
from tasks.params import TrainParams
from tasks.reading import parse
from tasks.references import read
from tasks.shards import whole

log = logging.getLogger("mintage.train")
CURVE_POINTS = 200


class Training:
    """The family, its average, and how far it has come."""

    def __init__(
        self,
        real: Path,
        params: TrainParams,
        block: Mapping[str, Any],
        device: Device,
        fabric: Fabric | None = None,
    ) -> None:
        self.params, self.device, self.block = params, device, decided(params.family, block)
        self.real = Pool.open(real)
        shape = self.real.shards.shape
        self.references = read(Path(params.references), shape[0], shape[1])
        self.spec = replace(self.real.spec, references=len(self.references))
        self.classes = self.real.shards.classes
        if not len(self.real):
            raise UserError(f"{real}: no image to train on. Give ingest.source more images.")
        self.fabric = fabric or alone(device)
        torch.manual_seed(params.seed)
        self.family = device.place(self.build(), device.training_format)
        if len(self.references):
            self.family.refer(device.scaled(torch.from_numpy(self.references)))
        self.family.attach(self.fabric)
        self.ema = EMA(self.family.network, params.ema_images)
        self.batch_size = params.batch or self.family.BATCH
        if self.batch_size % self.fabric.world_size:
            raise UserError(
                f"params.yaml: train.batch: {self.batch_size} images can't be shared out equally among "
                f"{self.fabric.world_size} processes (machine.devices times machine.nodes)."
            )
        self.judge: Any = None  # of a family that selects by it
        self.images = 0
        self.curve: list[dict[str, float]] = []
        self.recent: list[dict[str, float]] = []
        self.rollbacks: list[dict[str, Any]] = []
        self.health: list[dict[str, Any]] = []
        self.watch: dict[str, Any] = {}
        self._earlier, self._started = 0.0, time.monotonic()

    def build(self) -> Any:
        """A family of this training's kind, not trained. Raises UserError if it can't make such images."""
        module = load(self.params.family)
        config = parse(module.Config, self.block, "params.yaml", f"families.{self.params.family}.")
        try:
            return module.build(config, self.spec)
        except ValueError as error:
            raise UserError(
                f"params.yaml: families.{self.params.family} with preprocess.size {self.spec.height}, "
                f"channels {self.spec.channels}: {error}"
            ) from None

    @property
    def seconds(self) -> float:
        """How long it has trained, over all resumes."""
        return self._earlier + time.monotonic() - self._started

    @property
    def progress(self) -> float:
        """How much of its budget is used, in [0, 1]: of images, or of time where that is the tighter one."""
        share = self.images / self.params.images
        if self.params.minutes is not None:
            share = max(share, self.seconds / (60 * self.params.minutes))
        return min(share, 1.0)

    @property
    def ended_by(self) -> str:
        """Which limit ended it: `images`, or `minutes`, and then no digest is promised."""
        in_time = self.params.minutes is None or self.images >= self.params.images
        return "images" if in_time else "minutes"

    @property
    def out_of_time(self) -> bool:
        """Whether the time limit is used up before the image limit."""
        return self.progress >= 1 and self.ended_by == "minutes"

    def is_finite(self) -> bool:
        """Whether all weights and their averages are numbers."""
        tensors = [*self.family.state_dict().values(), *self.ema.average.values()]
        return all(bool(t.isfinite().all()) for t in tensors if t.is_floating_point())

    def step(self) -> dict[str, float]:
        """Update once on the next batch."""
        number = self.images // self.batch_size
        rows = order(self.params.seed, self.images, self.batch_size, len(self.real))
        torch.manual_seed((self.params.seed * 1_000_003 + number) % 2**32)
        if self.fabric.world_size == 1:
            metrics = self.family.step(self.batch(rows), self.progress)
        else:
            metrics = self.step_together(rows)
        self.images += self.batch_size
        self.ema.update(self.family.network, self.batch_size)
        self.record(metrics)
        return metrics

    def step_together(self, rows: np.ndarray) -> dict[str, float]:
        """Update on this process's part of the batch; return the mean of all processes' metrics."""
        mine = np.split(rows, self.fabric.world_size)[self.fabric.global_rank]
        with Rows(self.fabric, len(mine)):
            metrics = self.family.step(self.batch(mine), self.progress)
        told = torch.tensor(list(metrics.values()), device=self.fabric.device)
        means = cast(torch.Tensor, self.fabric.all_reduce(told))
        return dict(zip(metrics, means.tolist(), strict=True))

    @property
    def writes(self) -> bool:
        """Whether this is the one of its processes that draws, judges and writes."""
        return self.fabric.global_rank == 0

    def batch(self, rows: np.ndarray) -> Batch:
        """The images of these rows, float32 in [-1, 1], on the device."""
        return self.real.batch(rows, self.device, self.device.training_format)

    def record(self, metrics: dict[str, float]) -> None:
        """Add the mean of the recent steps to the curve, CURVE_POINTS times a training or a little more."""
        self.recent.append(metrics)
        each = max(min(self.params.images // CURVE_POINTS, self.params.grid_every // 4), self.batch_size)
        if self.images // each > (self.images - self.batch_size) // each:
            mean = {k: float(np.mean([m[k] for m in self.recent])) for k in metrics}
            self.curve.append({"images": self.images, **mean})
            self.recent = []

    def averaged(self) -> Any:
        """A family with the averaged weights, finished and ready to sample, the same at every call."""
        family = self.device.place(self.build())
        family.load_state_dict(self.family.state_dict())
        self.ema.copy_to(family.network)
        if self.judge is not None and hasattr(family, "heed"):
            family.heed(self.judge)
        torch.manual_seed(self.params.seed)
        family.eval().finish(self.passes())
        return family

    def passes(self) -> Iterator[Batch]:
        """The training images once more, in order, for the family's `finish`."""
        for start in range(0, len(self.real), self.batch_size):
            yield self.batch(np.arange(start, min(start + self.batch_size, len(self.real))))

    def save(self, path: Path) -> None:
        """Write all that a resumed training needs, in the process that writes."""
        if not self.writes:
            return
        tensors = {f"family.{k}": v for k, v in self.family.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        groups: dict[str, Any] = {}
        for name, optimiser in self.family.optimisers.items():
            state = optimiser.state_dict()
            groups[name] = state["param_groups"]
            for index, values in state["state"].items():
                tensors |= {f"optimiser.{name}.{index}.{k}": torch.as_tensor(v) for k, v in values.items()}
        facts = {name: getattr(self, name) for name in _FACTS}
        facts |= {"groups": groups, "seconds": self.seconds}
        # Facts and tensors share one file, so that a crash can't pair the old ones with the new.
        plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        with whole(path) as file:
            file.write(save(plain, metadata={"facts": json.dumps(facts)}))

    def load(self, path: Path, seconds: float = 0.0) -> None:
        """Go back to a saved state; `seconds` were used up, if that is more than the state knows of.

        Raises OSError, SafetensorError, ValueError or KeyError if it is broken.
        """
        facts = read_facts(path)
        with safe_open(path, "pt") as file:
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        self.family.load_state_dict(_part(tensors, "family."))
        self.ema.load_state_dict(_part(tensors, "ema."))
        for name, optimiser in self.family.optimisers.items():
            state: dict[int, dict[str, torch.Tensor]] = {}
            for key, value in _part(tensors, f"optimiser.{name}.").items():
                index, field = key.split(".", 1)
                state.setdefault(int(index), {})[field] = value
            optimiser.load_state_dict({"state": state, "param_groups": facts["groups"][name]})
            for parameter, values in optimiser.state.items():
                for field, value in values.items():
                    if value.shape == parameter.shape:  # in the parameter's layout, or its steps are slow
                        values[field] = torch.empty_like(parameter).copy_(value).detach()
        for name in _FACTS:
            setattr(self, name, facts[name])
        self._earlier, self._started = max(seconds, facts["seconds"]), time.monotonic()


def decided(name: str, block: Mapping[str, Any]) -> dict[str, Any]:
    """A family's block with what this machine decides in it, which then is part of the recipe."""
    module = load(name)
    if not hasattr(module, "decided"):
        return dict(block)
    config = parse(module.Config, dict(block), "params.yaml", f"families.{name}.")
    return module.decided(config).model_dump(mode="json")


def read_facts(path: Path) -> dict[str, Any]:
    """The facts of a saved state. Raises SafetensorError, ValueError or KeyError if it is broken."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["facts"])


def resume(training: Training, paths: list[Path]) -> bool:
    """Go on from the state that came furthest, the first of equals; return whether there was one."""
    found: list[tuple[int, int, int]] = []
    for place, path in enumerate(paths):
        try:
            facts = read_facts(path)
            found.append((len(facts["rollbacks"]), facts["images"], -place))
        except FileNotFoundError:
            continue
        except (SafetensorError, ValueError, KeyError, TypeError, OSError):
            log.warning("%s is not readable; training goes on without it", path)
    if not found:
        return False
    training.load(paths[-max(found)[2]])
    if training.images:
        log.info("going on from %s images", f"{training.images:,}")
    return True


_FACTS = ("images", "curve", "recent", "rollbacks", "health", "watch")


def _part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
