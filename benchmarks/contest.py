"""What is the same for every contestant of benchmarks.families: data, budget, drawing and measuring."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks import peers, timed
from models.families import Batch, Spec, load
from tasks import comparing, fitting, judging, probing, recipe, sampling
from tasks.device import Device, prepare
from tasks.errors import UserError
from tasks.layout import PARAMS, ROOT
from tasks.params import EvaluateParams, GenerateParams, Params, TrainParams
from tasks.reading import parse
from tasks.sampling import planning
from tasks.shards import Shards, file_digest

TUNED = ("diffusion", "vae", *peers.PEERS)
MULTIPLIERS = (1.0, 1 / 3, 3.0)  # of the default learning rate, in the order tried
ENDLESS = 10**12  # images: more than any time allows
BITS_BATCH = 250


def on_threads(params: Params, threads: int | None) -> Params:
    """The params, with so many threads; None: as they are."""
    if threads is None:
        return params
    return params.model_copy(update={"machine": params.machine.model_copy(update={"threads": threads})})


def told(accuracy: Mapping[str, Any]) -> dict[str, Any]:
    """What a row keeps of an accuracy: mean, standard deviation, and each seed's own number."""
    return {key: accuracy[key] for key in ("mean", "std", "per_seed")}


@dataclass(frozen=True, eq=False)
class Trained:
    """A generator ready to sample: where, of how many parameters, after how many images, and a remark."""

    family: Any
    device: Device
    parameters: int
    images: int
    note: str


@dataclass(frozen=True)
class Bench:
    """What is the same for every row: the data, the params, the budget, and how it is measured."""

    params: Params
    data: Path
    minutes: float
    seeds: int
    trials: int

    @cached_property
    def device(self) -> Device:
        """Where all is computed."""
        return prepare(self.params.machine, self.params.train.precision)

    def check(self) -> None:
        """Raise UserError if the real images or the judge are not there."""
        for folder in (self.data / "real", self.data / "reference"):
            if not folder.is_dir():
                raise UserError(f"{folder}: not found. Run `dvc repro calibrate`, which makes it.")

    @cached_property
    def splits(self) -> dict[str, Shards]:
        """The sealed real images."""
        return {s: Shards.open(self.data / "real" / s) for s in ("train", "calibrate", "test")}

    @cached_property
    def images(self) -> dict[str, probing.Images]:
        """The real images, decoded."""
        return {
            name: probing.Images(s.pixels(), s.labels(), s.table(["id"])["id"].to_numpy())
            for name, s in self.splits.items()
        }

    @cached_property
    def spec(self) -> Spec:
        """What families are built for."""
        train = self.splits["train"]
        return Spec.of(train.shape, len(train.classes), train.condition)

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) the labels to draw: balanced, as many as there are train images; -1 where unlabelled."""
        train = self.splits["train"]
        wanted = GenerateParams(num_samples=train.rows)
        counts = planning.class_counts(wanted, train.classes, train)
        return planning.spread(counts) if train.classes else np.full(counts[0], -1)

    def train_params(self, family: str, minutes: float) -> TrainParams:
        """The train section, with time as the only limit."""
        changes = {"family": family, "images": ENDLESS, "minutes": minutes}
        return TrainParams(**{**self.params.train.model_dump(), **changes})

    def default_lr(self, name: str) -> float:
        """The learning rate that a contestant has without tuning."""
        if name in peers.PEERS:
            return peers.PEERS[name].LR
        return parse(load(name).Config, self.params.families[name], str(PARAMS), f"families.{name}.").lr

    def learning_rates(self, name: str) -> list[float]:
        """The learning rates that are tried, the default first; that one alone where nothing is tuned."""
        tried = self.trials if name in TUNED and self.spec.classes > 1 else 1
        return [self.default_lr(name) * m for m in MULTIPLIERS[: max(1, tried)]]

    def digest(self, name: str) -> str:
        """Stands for all that decides a row: settings, code of the family, data, judge and machine."""
        peer = peers.PEERS.get(name)
        family = "diffusion" if peer else name  # the peers' size is held to that family's
        stages = ("train", "generate", "evaluate")
        code = sorted({ROOT / n for stage in stages for n in recipe.code(stage, family)})
        code += [ROOT / "benchmarks/contest.py"]
        code += [ROOT / "benchmarks/peers.py", ROOT / "benchmarks/timed.py"] if peer else []
        parts = [
            self.params.families[family],
            self.train_params("", self.minutes).model_dump(mode="json"),
            [self.params.generate.seed, self.params.generate.batch],
            {**self.params.evaluate.model_dump(mode="json"), "arms": [], "seeds": self.seeds},
            self.learning_rates(name),
            self.device.facts,
            version(peer.PACKAGE) if peer else None,
            [file_digest(s.folder / "index.json") for s in self.splits.values()],
            [file_digest(p) for p in (*code, self.data / "reference/judge.safetensors")],
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def train(self, name: str, lr: float, minutes: float) -> Trained:
        """Train a family through the project's own loop, or a peer through benchmarks.peers."""
        params, real = self.train_params(name, minutes), self.data / "real/train"
        if name in peers.PEERS:
            parameters = self.size("diffusion")
            peer, way, images = timed.train(
                lambda spec: peers.PEERS[name](spec, lr, parameters), real, params, self.device
            )
            return Trained(peer, way.device, peers.size(peer.network), images, f"computed in {way}")
        trained, facts = self.fit(params, {**self.params.families[name], "lr": lr}, real)
        back = f", rolled back {len(facts['rollbacks'])} times" if facts["rollbacks"] else ""
        note = f"best after {facts['best_images']:,} of {facts['images']:,} images{back}"
        return replace(trained, note=note)

    def fit(
        self, params: TrainParams, block: Mapping[str, Any], real: Path
    ) -> tuple[Trained, dict[str, Any]]:
        """Train a family on `real` through the project's own loop; it comes with its checkpoint's facts."""
        with tempfile.TemporaryDirectory() as work:
            held_out, reference = self.data / "real/calibrate", self.data / "reference"
            folder = fitting.fit(Path(work), real, held_out, reference, params, block, self.device)
            facts = json.loads((folder / fitting.CHECKPOINT).read_text(encoding="utf-8"))
            family = planning.build(facts, folder)
            family.load_state_dict(load_file(folder / fitting.MODEL))
        placed = self.device.place(family).eval()
        return Trained(placed, self.device, facts["parameters"], facts["images"], ""), facts

    def size(self, name: str) -> int:
        """How many parameters a family has, in the block that params.yaml gives it."""
        module = load(name)
        return peers.size(module.build(module.Config(**self.params.families[name]), self.spec))

    def draw(self, trained: Trained, most: int | None = None) -> probing.Images:
        """As many samples as there are train images, or the first `most` of them."""
        batch, labels, drawn = self.params.generate.batch, self.labels[:most], []
        knobs = {name: getattr(self.params.generate, name) for name in planning.KNOBS}
        params = GenerateParams(batch=batch, **knobs)
        seeds = [planning.sample_seed(self.params.generate.seed, n) for n in range(len(labels))]
        for at in range(0, len(labels), batch):
            part = slice(at, at + batch)
            drawn.append(sampling.draw(trained.family, labels[part], seeds[part], params, trained.device)[0])
        return probing.Images(np.concatenate(drawn), labels, np.array([f"{s:016x}" for s in seeds]))

    def accuracy(self, drawn: probing.Images, test: str, seeds: int) -> dict[str, Any]:
        """What evaluate's arm `unfiltered` scores on a split: mean, std and each seed's own number."""
        train, calibrate = self.images["train"], self.images["calibrate"]
        reasons = np.full(len(drawn.y), None, object)
        classes = self.splits["train"].classes
        splits = probing.Splits(classes, train, calibrate, self.images[test], drawn, reasons, {})
        params = EvaluateParams(
            **{**self.params.evaluate.model_dump(), "arms": ["unfiltered"], "seeds": seeds}
        )
        device = prepare(self.params.machine, params.precision)
        outcomes = [probing.fit(trial, splits, params, device) for trial in probing.trials(params, splits)]
        return probing.summarise(params, splits, outcomes)["accuracy"]["unfiltered"]

    def bits_per_dim(self, family: Any) -> float | None:
        """The family's own cost of the calibrate split, in bits per number; None if it knows none."""
        if not hasattr(family, "bits_per_dim"):
            return None
        real, total = self.images["calibrate"], 0.0
        torch.manual_seed(self.params.train.seed)
        for at in range(0, len(real.x), BITS_BATCH):
            x_BCHW = self.device.scaled(torch.from_numpy(real.x[at : at + BITS_BATCH]))
            y_B = torch.from_numpy(real.y[at : at + BITS_BATCH]).to(self.device.kind)
            with torch.inference_mode():
                bits = family.bits_per_dim(Batch(x_BCHW, y_B if self.spec.classes else None))
            if bits is None:
                return None
            total += bits * len(x_BCHW)
        return total / len(real.x)

    def distances(self, drawn: probing.Images) -> dict[str, float | None]:
        """Every set measure of samples against the calibrate split, in the judge's features."""
        reference = judging.Reference(self.data / "reference")
        said = judging.measure(reference.judge(self.device), drawn.x, self.device, reference.facts)
        real_MD = torch.from_numpy(reference.features("calibrate"))
        return comparing.values(torch.from_numpy(said.features_ND), real_MD)
