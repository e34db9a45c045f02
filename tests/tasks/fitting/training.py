"""Short trainings for tests: what they are given, and what is made of it."""

import csv
import inspect

from models.families import load
from tasks import fitting
from tasks.device import prepare
from tasks.params import Machine, TrainParams
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
    return fitting.fit(folder, real, reference, params(family, **changes), block, DEVICE)


def learners():
    """Every family that has something to train."""
    return [name for name in families() if _family_class(name).TRAINS]


def _family_class(name):
    module = load(name)
    of_module = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
    return next(c for c in of_module if hasattr(c, "TRAINS"))


def rows(path):
    """A CSV's rows, as dictionaries of text."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
