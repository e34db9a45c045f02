"""Score a shard with the judge, then judge its rows: kept, or dropped with a reason.

Scores are a sidecar: no image is copied to be judged. A shard is decoded once, and all that is measured
of a sample by itself is measured then; what needs all samples (repeats, set measures) comes after.
"""

import json
import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.numpy import load_file, save

from models import features
from models.fidelity import fidelity
from models.likeness import sketch
from tasks.device import Device
from tasks.judging import Reference, measure
from tasks.originals import MEASURES, Originals, pixel_digests
from tasks.params import FilterParams
from tasks.scoring import repeats
from tasks.scoring.limits import IDENTICAL, MEANINGS, RULES, beyond, for_rates, limits
from tasks.scoring.measured import TO_SOURCE, Thumbs, column
from tasks.scoring.sets import summary
from tasks.shards import Shards, pixels, read_shard, whole, write_shard, write_text

NUMBERS = (*MEASURES, "sibling_distance", "sibling_residual", *TO_SOURCE, "family_score")
SCORES = pa.schema(
    [
        ("id", pa.string()),
        ("label", pa.int32()),
        *((name, pa.float32()) for name in NUMBERS),
        ("in_manifold", pa.bool_()),
        ("nearest_train", pa.string()),
        ("neighbours", pa.list_(pa.string())),
        ("nearest_copy", pa.string()),
        ("nearest_sibling", pa.string()),
        ("duplicate_of", pa.string()),
        ("probabilities", pa.list_(pa.float16())),
        ("kept", pa.bool_()),
        ("reason", pa.string()),
        ("reasons", pa.list_(pa.string())),
    ]
)
log = logging.getLogger("mintage.filter")
MEASURED = "measured-{:05d}.safetensors"


def measure_shard(shard: Path, reference: Path, train: Path, device: Device, folder: Path) -> Path:
    """Measure one shard's samples, each by itself, into `folder`."""
    judge, facts, originals = _judge(
        reference.resolve(), train, (reference / "index.json").read_bytes(), device
    )
    rows = read_shard(shard, ["image", "label", "source_ids"])
    sources_NP = originals.rows(rows["source_ids"])
    x_NCHW, labels_N = pixels(rows["image"]), rows["label"].fill_null(-1).to_numpy().astype(np.int64)
    said = measure(judge, x_NCHW, device, facts)
    drawn, digests = sketch(torch.from_numpy(x_NCHW)), pixel_digests(x_NCHW)
    found = originals.columns(said, x_NCHW, labels_N, drawn, sources_NP) | {
        "features": said.features_ND,
        "thumbs": drawn.thumbs_NCHW.numpy(),
        "signatures": drawn.signatures_NF.numpy(),
        "looks": drawn.looks_ND.numpy(),
        "digests": np.frombuffer(b"".join(digests), np.uint8).reshape(len(x_NCHW), -1),
        IDENTICAL: np.array([digest in originals.digests for digest in digests], bool),
    }
    if said.probabilities_NK is not None:
        found["probabilities"] = said.probabilities_NK
    if sources_NP is not None:
        found |= to_source(x_NCHW, originals.x_MCHW[sources_NP], device)
    path = folder / MEASURED.format(int(shard.stem.removeprefix("shard-")))
    with whole(path) as file:
        file.write(save({name: np.ascontiguousarray(values) for name, values in found.items()}))
    return path


def to_source(x_NCHW: np.ndarray, sources_NPCHW: torch.Tensor, device: Device) -> dict[str, np.ndarray]:
    """How like its nearest source each image is, (N,) float32 a measure; those that can be taken here."""
    x = torch.from_numpy(x_NCHW)
    parts = [fidelity(x, s_NCHW, device.kind) for s_NCHW in sources_NPCHW.unbind(1)]
    found = {}
    for name, kind in TO_SOURCE.items():
        if kind in parts[0]:
            each_PN = torch.stack([part[kind] for part in parts])
            found[name] = (each_PN.amax(0) if kind == "ssim" else each_PN.amin(0)).numpy()
    return found


def judge_rows(
    synthetic: Path, reference: Path, params: FilterParams, device: Device, folder: Path
) -> dict[str, Any]:
    """Judge every sample and write its scores, a shard for each of `synthetic`'s; return the metrics.

    Needs what `measure_shard` wrote to `folder` for each shard, and removes it.
    """
    samples, real = Shards.open(synthetic), Reference(reference)
    paths = sorted(folder.glob("measured-*.safetensors"))
    labels_N, ids_N = samples.labels(), samples.table(["id"]).combine_chunks()["id"]
    switched, rates = limits(params, real), for_rates(params, real)
    told = {IDENTICAL: column(paths, IDENTICAL)} | {
        name: beyond(column(paths, RULES[name].measure), name, limit_K, np.maximum(labels_N, 0))
        for name, limit_K in (rates | switched).items()
        if name != "duplicate"
    }
    sound_N = ~np.any([told[name] for name in told if name in switched or name == IDENTICAL], axis=0)
    alike_K = rates.get("duplicate", np.zeros(max(len(samples.classes), 1)))
    columns = find_repeats(paths, alike_K[np.maximum(labels_N, 0)], sound_N)
    told["duplicate"] = columns["leader"] >= 0
    reasons = [name for name in MEANINGS if name in switched or name == IDENTICAL]
    against_NR = np.stack([told[name] for name in reasons], 1)
    start = 0
    for shard, path in zip(samples.paths, paths, strict=True):
        part = load_file(path)
        stop = start + len(part["features"])
        rows = {name: values[start:stop] for name, values in columns.items()}
        verdicts: list[list[str]] = [[] for _ in range(start, stop)]
        for n, r in np.argwhere(against_NR[start:stop]).tolist():
            verdicts[n].append(reasons[r])
        given = named(
            part | rows, real.ids("train"), ids_N, ids_N.slice(start, stop - start), labels_N[start:stop]
        )
        write_shard(folder / shard.name, scores_table(given, verdicts, shard))
        start = stop
    copies_N = told[IDENTICAL] | told.get("copied", False)
    metrics = summary(
        samples, real, paths, (reasons, against_NR), (told["duplicate"], copies_N), rates, device
    )
    if "to_source" in metrics and (lacking := features.missing()):
        log.warning("perceptual distances to sources are not measured: %s", lacking)
    for path in paths:
        path.unlink()
    write_text(folder / "metrics.json", json.dumps(metrics, indent=1, ensure_ascii=False) + "\n")
    return metrics


def find_repeats(paths: list[Path], limit_N: np.ndarray, sound_N: np.ndarray) -> dict[str, np.ndarray]:
    """Each sample's nearest other one, by the judge and in pixels, and the `leader` it repeats, or -1."""
    thumbs, digests = Thumbs(paths), [row.tobytes() for row in column(paths, "digests")]
    features, signatures, looks = (torch.from_numpy(column(paths, n)) for n in repeats.PROPOSE)
    told = (features, signatures, looks)
    pairs_P2, distance_N, nearest_N = repeats.pairs(*told)
    apart_P = repeats.residuals(pairs_P2, thumbs)
    least_N = np.full(len(sound_N), repeats.APART, np.float32)
    for side in (0, 1):
        np.minimum.at(least_N, pairs_P2[:, side], apart_P)
    return {
        "sibling_distance": distance_N.numpy(),
        "nearest_sibling": np.where(np.isinf(distance_N), -1, nearest_N),
        "sibling_residual": least_N,
        "leader": repeats.leaders(told, pairs_P2, apart_P, digests, limit_N, sound_N, thumbs),
    }


def tell_shortage(shortage: dict[str, dict[str, Any]]) -> None:
    """Log which classes lack how many samples, the worst first, and what would fill them."""
    lacks = {name: each["lacks"] for name, each in shortage.items() if each["lacks"]}
    worst = sorted(lacks, key=lambda name: -lacks[name])
    if not worst:
        return
    told = ", ".join(f"{name} {lacks[name]:,}" for name in worst[:8])
    barren = [name for name in worst if not shortage[name]["oversample"]]
    mend = f"generate.oversample: {max(shortage[name]['oversample'] for name in worst):g} would fill them"
    if barren:
        mend = f"of {', '.join(barren[:8])} none was kept: train longer, or loosen `filter`"
    log.warning("fewer kept than generate.num_samples asks for: lacking %s%s; %s", told,
                ", ..." if worst[8:] else "", mend)  # fmt: skip


def named(
    part: dict[str, np.ndarray], train_ids: np.ndarray, all_ids: pa.ChunkedArray, ids: pa.ChunkedArray,
    labels_N: np.ndarray,
) -> dict[str, Any]:  # fmt: skip
    """A shard's columns with ids in the place of rows, and null in that of what is not known."""
    found: dict[str, Any] = {name: part[name] for name in (*NUMBERS, "in_manifold") if name in part}
    found |= {"id": ids, "label": [None if label < 0 else label for label in labels_N.tolist()]}
    found["nearest_copy"] = train_ids[part["nearest_copy"]]
    found["neighbours"] = train_ids[part["neighbours"]].tolist()
    found["nearest_train"] = [each[0] for each in found["neighbours"]]
    for name, key in (("nearest_sibling", "nearest_sibling"), ("duplicate_of", "leader")):
        rows = [None if row < 0 else row for row in part[key].tolist()]
        found[name] = all_ids.take(pa.array(rows, pa.int64()))
    if "probabilities" in part:
        found["probabilities"] = list(part["probabilities"].astype(np.float16))
    return found


def scores_table(given: dict[str, Any], verdicts: list[list[str]], shard: Path) -> pa.Table:
    """The scores of one shard's rows under the SCORES schema; a measure that was not taken is null."""
    given = given | {
        "family_score": read_shard(shard, ["family_score"])["family_score"],
        "kept": [not v for v in verdicts],
        "reason": [v[0] if v else None for v in verdicts],
        "reasons": verdicts,
    }
    arrays = [
        _column(given[f.name], f.type) if f.name in given else pa.nulls(len(verdicts), f.type) for f in SCORES
    ]
    return pa.Table.from_arrays(arrays, schema=SCORES)


def _column(values: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        return values.combine_chunks().cast(kind)
    return pa.array(values, kind)


@lru_cache(maxsize=1)
def _judge(reference: Path, train: Path, index: bytes, device: Device) -> Any:
    real = Reference(reference)
    originals = Originals.open(train, real.ids("train"), real.features("train"))
    return real.judge(device), real.facts, originals
