"""Plan which samples there will be, from the checkpoint's facts and `generate`'s params alone."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from models.families import Spec, load
from tasks.device import Device
from tasks.errors import UserError
from tasks.params import GenerateParams
from tasks.reading import parse
from tasks.shards import Shards, shard_name, spans

KNOBS = ("steps", "guidance", "sampler")


@dataclass(frozen=True)
class Plan:
    """Which samples there will be, cut into shards. It goes to every worker, so it holds no row a sample.

    `drawn`: how many of each class, or of all where there are none. `wanted`: how many are to be left after
    the filter; oversampling draws more. `row_bytes`: about what a sample takes on disk. Of a family that is
    asked with images, `parents` are the train images that each sample is made from, and `condition` says
    what is kept of what it was shown, as of real images.
    """

    drawn: tuple[int, ...]
    wanted: Mapping[str, int]
    params: GenerateParams
    facts: Mapping[str, Any]
    row_bytes: float = 0.0
    parents: int = 0
    condition: Mapping[str, Any] | None = None

    @property
    def labels(self) -> np.ndarray:
        """(N,) labels in the order drawn, -1 where there are none."""
        return labels_of(self.drawn, bool(self.facts["classes"]))

    @property
    def shards(self) -> list[int]:
        """The numbers of all shards."""
        return list(range(len(spans(len(self.labels), self.params.shard_size))))

    def describe(self, device: Device) -> dict[str, Any]:
        """The facts of the sealed samples."""
        classes = self.facts["classes"]
        counts = np.bincount(self.labels, minlength=len(classes)).tolist() if classes else []
        asked: dict[str, Any] = {}
        if self.parents:
            asked = {"parents": self.parents, "condition": self.condition}
        return asked | {
            "synthetic": True,
            "classes": classes,
            "class_counts": dict(zip(classes, counts, strict=True)),
            "wanted": dict(self.wanted),
            "channels": self.facts["channels"],
            "size": self.facts["size"],
            "family": self.facts["family"],
            "checkpoint": self.facts["digest"],
            "generate": self.params.model_dump(mode="json"),
            "environment": device.facts,
        }

    def missing(self, folder: Path) -> list[int]:
        """The numbers of the shards that `folder` does not hold yet."""
        return [n for n in self.shards if not (folder / shard_name(n)).is_file()]

    def size(self, numbers: Sequence[int]) -> float:
        """About how many bytes these shards take on disk."""
        cut = spans(len(self.labels), self.params.shard_size)
        return self.row_bytes * sum(stop - start for start, stop in (cut[n] for n in numbers))


def plan(params: GenerateParams, checkpoint: Path, real: Path) -> Plan:
    """Decide every sample's label. Raises UserError if `generate` asks for what the checkpoint has not."""
    facts = read_checkpoint(checkpoint)
    family, like = build(facts, checkpoint), Shards.open(real)
    unknown = sorted(set(knobs(params)) - family.SAMPLING)
    if unknown:
        raise UserError(
            f"params.yaml: generate.{unknown[0]}: the family {facts['family']!r} has no such knob; "
            "set it to null."
        )
    counts = class_counts(params, facts["classes"], like)
    wanted = dict(zip(facts["classes"] or ["all images"], counts, strict=True))
    drawn = tuple(math.ceil(round(count * params.oversample, 6)) for count in counts)
    row_bytes = sum(path.stat().st_size for path in like.paths) / max(like.rows, 1)
    if family.condition != "image":
        return Plan(drawn, wanted, params, facts, row_bytes)
    check_sources(drawn, like, facts)
    shown = (
        {"name": "shown", "channels": like.shape[0], "ids": 0} if hasattr(family, "ask") else like.condition
    )
    return Plan(drawn, wanted, params, facts, row_bytes, family.PARENTS, shown)


def check_sources(drawn: Sequence[int], real: Shards, facts: Mapping[str, Any]) -> None:
    """Raise UserError unless samples can be made from these images, and from those of train alone.

    So an image of another split can't be a parent, nor one of another condition than the checkpoint knows.
    """
    others = set(real.table(["split"])["split"].unique().to_pylist()) - {"train"}
    if others:
        raise UserError(
            f"{real.folder}: holds images of the split {min(map(str, others))!r}, and only train's may be "
            "sources. Run `dvc repro preprocess`."
        )
    if real.condition != facts.get("condition"):
        found, wanted = (
            f"{each['name']}{f' of {ids} ids' if (ids := each['ids']) else ''}" if each else "none"
            for each in (real.condition, facts.get("condition"))
        )
        raise UserError(
            f"{real.folder}: its images come with the condition {found}, but the checkpoint was trained with "
            f"{wanted}. Run `dvc repro train`."
        )
    have = set(real.labels().tolist())
    for label, name in enumerate(facts["classes"]):
        if drawn[label] and label not in have:
            raise UserError(f"{real.folder}: class {name!r} has no image to make a sample from.")


def class_counts(params: GenerateParams, classes: Sequence[str], real: Shards) -> list[int]:
    """How many samples each class gets, in label order; unlabelled images count as one class."""
    wanted = params.class_counts
    if wanted is None:
        whole, rest = divmod(params.num_samples, max(len(classes), 1))
        return [whole + (label < rest) for label in range(max(len(classes), 1))]
    if not classes:
        raise UserError("params.yaml: generate.class_counts: the images have no labels; set it to null.")
    if isinstance(wanted, dict):
        unknown = sorted(set(wanted) - set(classes))
        if unknown:
            raise UserError(
                f"params.yaml: generate.class_counts.{unknown[0]}: no such class; "
                f"there are: {', '.join(classes[:20])}."
            )
        return [wanted.get(name, 0) for name in classes]
    have = np.bincount(real.labels(), minlength=len(classes))
    lacking = have.max() - have
    if not lacking.any():
        raise UserError(
            "params.yaml: generate.class_counts: `balance` has nothing to fill: every class has "
            f"{have.max()} real images. Set it to null, and generate.num_samples to what you want."
        )
    return [int(n) for n in lacking]


def spread(counts: Sequence[int]) -> np.ndarray:
    """Labels in an order in which every prefix holds the classes in about the proportion of `counts`."""
    labels = np.repeat(np.arange(len(counts)), counts)
    places = np.concatenate([(np.arange(n) + 0.5) / n for n in counts if n])
    return labels[np.lexsort((labels, places))]


@lru_cache(maxsize=1)
def labels_of(drawn: tuple[int, ...], labelled: bool) -> np.ndarray:
    """(N,) labels of so many samples of each class, in the order drawn; -1 where there are none."""
    return spread(drawn) if labelled else np.full(drawn[0], -1)


def knobs(params: GenerateParams) -> dict[str, Any]:
    """What `generate` asks of the family's sampler beyond its defaults."""
    return {k: v for k in KNOBS if (v := getattr(params, k)) is not None}


def sample_seed(seed: int, number: int) -> int:
    """The seed that is sample `number` of the generate run `seed`: no two runs share one."""
    return seed << 32 | number


def read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """The facts of a checkpoint, and its digest. Raises UserError if it is missing or broken."""
    try:
        facts = json.loads((checkpoint / "checkpoint.json").read_text(encoding="utf-8"))
        facts["digest"] = hashlib.sha256((checkpoint / "index.json").read_bytes()).hexdigest()
        return facts
    except (OSError, ValueError) as error:
        raise UserError(f"{checkpoint}: no readable checkpoint ({error}). Run `dvc repro train`.") from None


def build(facts: Mapping[str, Any], checkpoint: Path) -> Any:
    """A family of the checkpoint's facts, its weights not read yet. Raises UserError if it can't be."""
    module = load(facts["family"])
    shape = (facts["channels"], facts["size"], facts["size"])
    spec = Spec.of(shape, len(facts["classes"]), facts.get("condition"))
    spec = replace(spec, references=facts.get("references", 0))
    config = parse(module.Config, facts["config"], str(checkpoint), "config.")
    try:
        return module.build(config, spec)
    except ValueError as error:
        raise UserError(f"{checkpoint}: {error}.") from None
