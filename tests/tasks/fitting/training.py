"""Short trainings for tests: what they are given, and what is made of it."""

import csv
from itertools import count

from safetensors.torch import load_file

from models.families import class_of, load
from tasks import fitting
from tasks.device import prepare
from tasks.fitting.training import Training
from tasks.params import Machine, TrainParams
from tasks.shards import file_digest
from tests.house import PARAMS, families

DEVICE = prepare(Machine(device="cpu", threads=1), "fp32")


NARROW = {"width": 16, "latent": 8, "mixtures": 2, "chains": 16, "gibbs": 1, "sample_gibbs": 3}


def narrow(family):
    """The family's block in params.yaml, made small: the loop is tested here, not what it fits."""
    fields = load(family).Config.model_fields
    small = {
        **NARROW,
        "hidden": (16, 12) if isinstance(fields.get("hidden") and fields["hidden"].default, tuple) else 8,
    }
    return {**PARAMS["families"][family], **{k: v for k, v in small.items() if k in fields}}


def params(family, **changes):
    given = {"family": family, "images": 96, "batch": 16, "ema_images": 32, "precision": "fp32"}
    return TrainParams(**{**given, "checkpoint_every": 32, "grid_every": 64, **changes})


def train(folder, real, reference, family, block=None, **changes):
    """Train in `folder`, by the family's narrow block with the changes that `block` makes."""
    folder.mkdir(exist_ok=True)
    block = {**narrow(family), **(block or {})}
    held_out = real.with_name("calibrate")
    return fitting.fit(folder, real, held_out, reference, params(family, **changes), block, DEVICE)


def learners():
    """Every family that has something to train."""
    return [name for name in families() if class_of(name).TRAINS]


def rows(path):
    """A CSV's rows, as dictionaries of text."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def cut_step(monkeypatch, after, ending):
    """Let `ending` stop the training after so many steps; undo it to go on."""
    steps, step = count(), Training.step

    def cut(self):
        if next(steps) == after:
            raise ending
        return step(self)

    monkeypatch.setattr(Training, "step", cut)
    return lambda: monkeypatch.setattr(Training, "step", step)


def when_built(monkeypatch, change):
    """Give every family that is built for training to `change`."""
    build = Training.build

    def built(self):
        family = build(self)
        change(self, family)
        return family

    monkeypatch.setattr(Training, "build", built)


def fitting_weights(folder):
    return load_file(folder / fitting.MODEL)


def same_bytes(one, other):
    names = sorted(p.relative_to(one) for p in one.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(other) for p in other.rglob("*") if p.is_file())
    assert {str(n): file_digest(one / n) for n in names} == {str(n): file_digest(other / n) for n in names}


LEARNER = learners()[0]
