"""Draw a shard: the samples of a plan, each from its own seed, in batches of one size."""

import gc
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from models.families import Spec, load
from tasks.batches import Pool, Sources, parents
from tasks.device import Device
from tasks.errors import PassingError, UserError
from tasks.params import GenerateParams
from tasks.progress import Progress
from tasks.reading import parse
from tasks.shards import (
    INDEX,
    Shards,
    file_digest,
    image_column,
    png,
    sample_table,
    shard_name,
    spans,
    write_shard,
)

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
        return _labels(self.drawn, bool(self.facts["classes"]))

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
    family, like = _build(facts, checkpoint), Shards.open(real)
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
            each["name"] if each else "none" for each in (real.condition, facts.get("condition"))
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
def _labels(drawn: tuple[int, ...], labelled: bool) -> np.ndarray:
    return spread(drawn) if labelled else np.full(drawn[0], -1)


@lru_cache(maxsize=1)
def _sources(real: Path, digest: str, drawn: tuple[int, ...], seed: int, each: int) -> Sources:
    pool = Pool.open(real)
    return Sources(pool, parents(pool.labels, _labels(drawn, pool.y_N is not None), seed, each))


def draw_shard(number: int, plan: Plan, checkpoint: Path, real: Path, folder: Path, device: Device) -> Path:
    """Draw shard `number` of the plan into `folder`. Its bytes depend on nothing else.

    The batch has one size always, the last one padded, because kernels round differently at
    other sizes; each sample has its own noise, so its neighbours don't matter.
    """
    start, stop = spans(len(plan.labels), plan.params.shard_size)[number]
    labels = plan.labels[start:stop]
    seeds = [sample_seed(plan.params.seed, n) for n in range(start, stop)]
    family = _family(checkpoint.resolve(), plan.facts["digest"], device)
    sources = None
    if plan.parents:
        known = _sources(
            real.resolve(), file_digest(real / INDEX), plan.drawn, plan.params.seed, plan.parents
        )
        sources = known.take(slice(start, stop))
    encoded: list[Future[list[bytes]]] = []
    shown: list[Future[list[bytes]]] = []
    scores: list[float | None] = []
    # A batch is encoded while the next one is drawn.
    with (
        ThreadPoolExecutor(1) as encoder,
        Progress(f"generate, {shard_name(number)}", len(seeds)) as progress,
    ):
        for at in range(0, len(seeds), plan.params.batch):
            part = slice(at, at + plan.params.batch)
            of_part = sources.take(part) if sources else None
            x_BCHW, score_B, shown_BCHW = draw(
                family, labels[part], seeds[part], plan.params, device, of_part
            )
            encoded.append(encoder.submit(encode, x_BCHW))
            if shown_BCHW is not None:
                shown.append(encoder.submit(encode, shown_BCHW))
            scores.extend([None] * len(x_BCHW) if score_B is None else score_B.tolist())
            progress.add(len(x_BCHW))
    images = [data for batch in encoded for data in batch.result()]
    conditions = [data for batch in shown for data in batch.result()]
    ids = [f"{seed:016x}" for seed in seeds]
    names = [f"{i}.png" for i in ids]
    table = sample_table(
        len(seeds),
        id=ids,
        image=image_column(images, names),
        condition=image_column(conditions, names) if conditions else None,
        source_ids=sources.ids if sources else None,
        label=[None if label < 0 else int(label) for label in labels],
        sha256=[hashlib.sha256(data).hexdigest() for data in images],
        family=[plan.facts["family"]] * len(seeds),
        seed=seeds,
        family_score=scores,
    )
    return write_shard(folder / shard_name(number), table)


def encode(x_BCHW: np.ndarray) -> list[bytes]:
    """A batch as PNGs."""
    return [png(x_CHW) for x_CHW in x_BCHW]


def draw(
    family: Any, labels: np.ndarray, seeds: list[int], params: GenerateParams, device: Device,
    sources: Sources | None = None,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:  # fmt: skip
    """Draw at most `params.batch` samples: (B, C, H, W) uint8, and the family's scores (B,) or None.

    And what the family was shown of their sources, uint8 (B, 1 or 3, H, W), or None.

    Raises UserError if the family can't draw so, and where the batch does not fit in memory. The first
    draw of all is a whole batch: it finds out, before there is anything to lose.
    """
    try:
        x_BCHW, score_B = sample(family, labels, seeds, params.batch, params, device, sources)
    except ValueError as error:
        raise UserError(f"params.yaml: generate: {error}. Set it to null for the family's default.") from None
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        most = largest(family, labels, seeds, params, device, sources)
        if most == params.batch:
            raise PassingError("generate: memory ran short while drawing, and no longer does.") from None
        fits = f"{most} fit: set it to that" if most else "not even 1 fits: train a smaller network"
        raise UserError(
            f"params.yaml: generate.batch: {params.batch} samples at once do not fit in the "
            f"{'GPU' if device.kind == 'cuda' else 'machine'}'s memory; {fits}."
        ) from None
    score = None if score_B is None else score_B[: len(seeds)].float().cpu().numpy()
    asked = shown_of(family, sources, padded(seeds, params.batch), device) if sources else None
    return x_BCHW[: len(seeds)].cpu().numpy(), score, asked


def shown_of(family: Any, sources: Sources, seeds: list[int], device: Device) -> np.ndarray | None:
    """What the family is shown of the sources: what it makes of them itself, or what came with them."""
    if not hasattr(family, "ask"):
        return sources.conditions
    with torch.inference_mode(), device.autocast():
        asked = family.ask(sources.batches(device, len(seeds)), seeds)
    return asked[: len(sources.rows_NP)].cpu().numpy()


def padded(seeds: list[int], batch: int) -> list[int]:
    """The seeds, and the last one again and again up to `batch`."""
    return seeds + seeds[-1:] * (batch - len(seeds))


def sample(
    family: Any, labels: np.ndarray, seeds: list[int], batch: int, params: GenerateParams, device: Device,
    sources: Sources | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """Ask the family for `batch` samples: the first ones, or all and the last one again and again."""
    labels, seeds = labels[:batch], seeds[:batch]
    last = np.repeat(labels[-1:], batch - len(seeds))
    y_B = torch.from_numpy(np.concatenate([labels, last])).to(device.kind)
    asked = {"sources": sources.take(slice(batch)).batches(device, batch)} if sources else {}
    with torch.inference_mode(), device.autocast():
        return family.sample(None if labels[0] < 0 else y_B, padded(seeds, batch), **asked, **knobs(params))


def largest(
    family: Any, labels: np.ndarray, seeds: list[int], params: GenerateParams, device: Device,
    sources: Sources | None = None,
) -> int:  # fmt: skip
    """The largest batch that fits in memory, by bisection: 0 if none does, at most `params.batch`."""
    fits, fails = 0, params.batch + 1
    batch = params.batch  # it may have been short for a moment
    while fails - fits > 1:
        gc.collect()
        torch.cuda.empty_cache()  # nothing without a GPU
        try:
            sample(family, labels, seeds, batch, params, device, sources)
            fits = batch
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            fails = batch
        batch = (fits + fails) // 2
    return fits


def out_of_memory(error: Exception) -> bool:
    """Whether memory was short: of a GPU, of NumPy, or of torch on a CPU, which has no class for it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "can't allocate memory" in str(error)


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


@lru_cache(maxsize=1)
def _family(checkpoint: Path, digest: str, device: Device) -> Any:
    family = _build(read_checkpoint(checkpoint), checkpoint)
    try:
        family.load_state_dict(load_file(checkpoint / "model.safetensors"))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise UserError(
            f"{checkpoint}/model.safetensors: not the weights that checkpoint.json describes "
            f"({str(error).splitlines()[0][:120]}). Run `dvc repro train`."
        ) from None
    return device.place(family).eval()


def _build(facts: Mapping[str, Any], checkpoint: Path) -> Any:
    module = load(facts["family"])
    condition = facts["condition"]["channels"] if facts.get("condition") else 0
    spec = Spec(facts["channels"], facts["size"], facts["size"], len(facts["classes"]), condition)
    return module.build(parse(module.Config, facts["config"], str(checkpoint), "config."), spec)
