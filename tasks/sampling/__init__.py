"""Draw a shard: the samples of a plan, each from its own seed, in batches of one size."""

import gc
import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from tasks.batches import Pool, Sources, parents
from tasks.device import Device
from tasks.errors import PassingError, UserError
from tasks.params import GenerateParams
from tasks.progress import Progress
from tasks.sampling.planning import Plan, build, knobs, labels_of, read_checkpoint, sample_seed
from tasks.shards import (
    INDEX,
    file_digest,
    filling,
    image_column,
    png,
    sample_table,
    shard_name,
    spans,
)

Drawn = tuple[np.ndarray, np.ndarray | None, np.ndarray | None]


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
    path = folder / shard_name(number)
    packed: list[Future[None]] = []
    # A batch is encoded and written while the next one is drawn.
    with (
        filling(path) as shard,
        ThreadPoolExecutor(1) as packer,
        Progress(f"generate, {shard_name(number)}", len(seeds)) as progress,
    ):
        for at in range(0, len(seeds), plan.params.batch):
            part = slice(at, at + plan.params.batch)
            of_part = sources.take(part) if sources else None
            drawn = draw(family, labels[part], seeds[part], plan.params, device, of_part)
            for earlier in packed[-1:]:
                earlier.result()  # so that what could not be written ends this, and no batches pile up
            facts = (plan.facts["family"], labels[part], seeds[part], of_part)
            packed.append(packer.submit(pack, shard, drawn, *facts))
            progress.add(len(seeds[part]))
        packed[-1].result()
    return path


def pack(
    shard: pq.ParquetWriter, drawn: Drawn, family: str, labels: np.ndarray, seeds: list[int],
    sources: Sources | None,
) -> None:  # fmt: skip
    """Encode a batch as PNGs, and write it into the shard as a row group."""
    x_BCHW, score_B, shown_BCHW = drawn
    ids = [f"{seed:016x}" for seed in seeds]
    names = [f"{i}.png" for i in ids]
    images = [png(x_CHW) for x_CHW in x_BCHW]
    conditions = None if shown_BCHW is None else [png(c_CHW) for c_CHW in shown_BCHW]
    table = sample_table(
        len(seeds),
        id=ids,
        image=image_column(images, names),
        condition=image_column(conditions, names) if conditions else None,
        source_ids=sources.ids if sources else None,
        label=[None if label < 0 else int(label) for label in labels],
        sha256=[hashlib.sha256(data).hexdigest() for data in images],
        family=[family] * len(seeds),
        seed=seeds,
        family_score=None if score_B is None else score_B.tolist(),
    )
    shard.write_table(table)


def draw(
    family: Any, labels: np.ndarray, seeds: list[int], params: GenerateParams, device: Device,
    sources: Sources | None = None,
) -> Drawn:  # fmt: skip
    """Draw at most `params.batch` samples: (B, C, H, W) uint8, and the family's scores (B,) or None.

    And what the family was shown of their sources, uint8 (B, 1 or 3, H, W), or None.

    Raises UserError if the family can't draw so, and where the batch does not fit in memory. The first
    draw of all is a whole batch: it finds out, before there is anything to lose.
    """
    try:
        x_BCHW, score_B, shown = sample(family, labels, seeds, params.batch, params, device, sources)
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
    return x_BCHW[: len(seeds)].cpu().numpy(), score, shown


def sample(
    family: Any, labels: np.ndarray, seeds: list[int], batch: int, params: GenerateParams, device: Device,
    sources: Sources | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None, np.ndarray | None]:  # fmt: skip
    """Ask the family for `batch` samples: the first ones, or all and the last one again and again.

    Returns them, their scores, and what it was shown of the sources of those that were asked for.
    """
    labels, seeds = labels[:batch], seeds[:batch]
    more = batch - len(seeds)
    y_B = torch.from_numpy(np.concatenate([labels, np.repeat(labels[-1:], more)])).to(device.kind)
    seeds, asked, shown = seeds + seeds[-1:] * more, knobs(params), None
    with torch.inference_mode(), device.autocast():
        if sources:
            asked["sources"], shown = sources.take(slice(batch)).asked(family, seeds, device)
        return *family.sample(None if labels[0] < 0 else y_B, seeds, **asked), shown


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


@lru_cache(maxsize=1)
def _sources(real: Path, digest: str, drawn: tuple[int, ...], seed: int, each: int) -> Sources:
    pool = Pool.open(real)
    return Sources(pool, parents(pool.labels, labels_of(drawn, pool.y_N is not None), seed, each))


@lru_cache(maxsize=1)
def _family(checkpoint: Path, digest: str, device: Device) -> Any:
    family = build(read_checkpoint(checkpoint), checkpoint)
    try:
        family.load_state_dict(load_file(checkpoint / "model.safetensors"))
    except (SafetensorError, OSError, RuntimeError) as error:
        raise UserError(
            f"{checkpoint}/model.safetensors: not the weights that checkpoint.json describes "
            f"({str(error).splitlines()[0][:120]}). Run `dvc repro train`."
        ) from None
    return device.place(family).eval()
