"""Score a shard with the judge, then judge its rows: kept, or dropped with a reason.

Scores are a sidecar: no image is copied to be judged. A threshold is a quantile of held-out real
images of the sample's class, so what is dropped is what would be rare among real ones.
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.numpy import load_file, save_file

from models.measures import nearest_other
from tasks.device import Device
from tasks.judging import Measured, Reference, compare, measure
from tasks.params import FilterParams
from tasks.shards import Shards, pixels, read_shard, write_shard, write_text

SCORES = pa.schema(
    [
        ("id", pa.string()),
        ("label", pa.int32()),
        ("probability", pa.float32()),
        ("margin", pa.float32()),
        ("entropy", pa.float32()),
        ("train_distance", pa.float32()),
        ("nearest_train", pa.string()),
        ("sibling_distance", pa.float32()),
        ("nearest_sibling", pa.string()),
        ("family_score", pa.float32()),
        ("probabilities", pa.list_(pa.float16())),
        ("kept", pa.bool_()),
        ("reason", pa.string()),
        ("reasons", pa.list_(pa.string())),
    ]
)
REASONS = {
    "copy": "nearer to a training image than real images are to each other",
    "duplicate": "nearly the same as another sample, which is kept",
    "unlike_label": "the judge finds its class less likely than for almost all real images of it",
    "ambiguous": "the judge finds another class nearly as likely",
    "outlier": "farther from every training image than almost all real images of its class",
}
SIBLINGS = 6
MEASURED = "measured-{:05d}.safetensors"


@dataclass(frozen=True)
class Bounds:
    """Per class (K,), what a kept sample may at least or at most measure; None where switched off."""

    probability: np.ndarray | None
    margin: np.ndarray | None
    copy_distance: np.ndarray | None
    outlier_distance: np.ndarray | None
    sibling_distance: np.ndarray | None


def bounds(params: FilterParams, reference: Path) -> Bounds:
    """Look up each switched-on quantile in what calibrate kept of real images."""
    real = Reference(reference)
    labelled = real.facts["task"] == "classes"

    def of(name: str, key: str, asks_labels: bool = False) -> np.ndarray | None:
        wanted = getattr(params, key)
        if wanted is None or (asks_labels and not labelled):
            return None
        return real.quantile(name, wanted)

    return Bounds(
        probability=of("probability", "probability", True),
        margin=of("margin", "margin", True),
        copy_distance=of("train_distance", "copy_distance"),
        outlier_distance=of("train_distance", "outlier_distance"),
        sibling_distance=of("train_distance", "sibling_distance"),
    )


def measure_shard(shard: Path, reference: Path, device: Device, folder: Path) -> Path:
    """Take the judge's features and probabilities of one shard, once, into `folder`."""
    judge, facts = _judge(reference.resolve(), (reference / "index.json").read_bytes(), device)
    said = measure(judge, pixels(read_shard(shard, ["image"])["image"]), device, facts)
    found = {"features": said.features_ND}
    if said.probabilities_NK is not None:
        found["probabilities"] = said.probabilities_NK
    path = folder / MEASURED.format(int(shard.stem.removeprefix("shard-")))
    save_file(found, path)
    return path


def judge_rows(synthetic: Path, reference: Path, limits: Bounds, folder: Path) -> dict[str, Any]:
    """Judge every sample and write its scores, a shard for each of `synthetic`'s; return the metrics."""
    samples, real = Shards.open(synthetic), Reference(reference)
    labels_N = samples.labels()
    measured = [load_file(path) for path in sorted(folder.glob("measured-*.safetensors"))]
    features_ND = np.concatenate([m["features"] for m in measured])
    columns: dict[str, Any] = {"label": labels_N} | _columns(measured, features_ND, labels_N, real)
    ids_N = samples.table(["id"])["id"].to_numpy()
    columns["nearest_train"] = real.ids("train")[columns["nearest_train"]]
    distance_NS, row_NS = siblings(features_ND)
    alone = np.isinf(distance_NS[:, 0])
    columns["sibling_distance"] = distance_NS[:, 0]
    columns["nearest_sibling"] = np.where(alone, None, ids_N[row_NS[:, 0]])
    verdicts = judge(columns, np.maximum(labels_N, 0), distance_NS, row_NS, limits)
    start = 0
    for shard, part in zip(samples.paths, measured, strict=True):
        stop = start + len(part["features"])
        rows = {k: v[start:stop] for k, v in columns.items()}
        write_shard(
            folder / shard.name, scores_table(ids_N[start:stop], rows, part, verdicts[start:stop], shard)
        )
        start = stop
    for path in folder.glob("measured-*.safetensors"):
        path.unlink()
    kept_N = np.array([not v for v in verdicts])
    held_out_MD = real.features("calibrate")
    metrics = summary(verdicts, labels_N, samples.classes) | {
        "before": compare(features_ND, held_out_MD),
        "after": compare(features_ND[kept_N], held_out_MD),
        "scale": real.scale,
    }
    write_text(folder / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    return metrics


def siblings(features_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances and rows (N, S) of each sample's nearest other samples; a lone sample has none (inf)."""
    count = len(features_ND)
    if count == 1:
        return np.full((1, 1), np.inf, np.float32), np.zeros((1, 1), np.int64)
    distance_NS, row_NS = nearest_other(torch.from_numpy(features_ND), min(SIBLINGS, count - 1))
    return distance_NS.numpy(), row_NS.numpy()


def judge(
    columns: dict[str, np.ndarray], class_N: np.ndarray, distance_NS: np.ndarray, row_NS: np.ndarray,
    limits: Bounds,
) -> list[list[str]]:  # fmt: skip
    """Each sample's reasons to be dropped, the gravest first; an empty list keeps it."""
    against = {
        "copy": _beyond(columns["train_distance"], limits.copy_distance, class_N, below=True),
        "unlike_label": _beyond(columns.get("probability"), limits.probability, class_N, below=True),
        "ambiguous": _beyond(columns.get("margin"), limits.margin, class_N, below=True),
        "outlier": _beyond(columns["train_distance"], limits.outlier_distance, class_N, below=False),
    }
    sound_N = ~np.any(list(against.values()), axis=0)
    against["duplicate"] = _repeats(distance_NS, row_NS, limits.sibling_distance, class_N, sound_N)
    return [[reason for reason in REASONS if against[reason][n]] for n in range(len(class_N))]


def _beyond(
    values: np.ndarray | None, limit_K: np.ndarray | None, class_N: np.ndarray, below: bool
) -> np.ndarray:
    if values is None or limit_K is None:
        return np.zeros(len(class_N), bool)
    return values < limit_K[class_N] if below else values > limit_K[class_N]


def _repeats(
    distance_NS: np.ndarray, row_NS: np.ndarray, limit_K: np.ndarray | None, class_N: np.ndarray,
    sound_N: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Which samples repeat one that is kept: of each crowd the first sound sample stays."""
    repeats_N = np.zeros(len(class_N), bool)
    if limit_K is None:
        return repeats_N
    near_NS = distance_NS < limit_K[class_N][:, None]
    for n in np.flatnonzero(near_NS.any(1)):
        rivals = row_NS[n][near_NS[n]]
        repeats_N[n] = any(sound_N[r] and not repeats_N[r] and r < n for r in rivals)
    return repeats_N


def scores_table(
    ids: np.ndarray, rows: dict[str, np.ndarray], part: dict[str, np.ndarray], verdicts: list[list[str]],
    shard: Path,
) -> pa.Table:  # fmt: skip
    """The scores of one shard's rows under the SCORES schema; a measure that was not taken is null."""
    given: dict[str, Any] = {
        **{k: v for k, v in rows.items() if k != "label"},
        "id": ids,
        "label": [None if label < 0 else label for label in rows["label"].tolist()],
        "family_score": read_shard(shard, ["family_score"])["family_score"].combine_chunks(),
        "kept": [not v for v in verdicts],
        "reason": [v[0] if v else None for v in verdicts],
        "reasons": verdicts,
    }
    if "probabilities" in part:
        given["probabilities"] = list(part["probabilities"].astype(np.float16))
    arrays = [
        pa.array(given[f.name], f.type) if f.name in given else pa.nulls(len(ids), f.type) for f in SCORES
    ]
    return pa.Table.from_arrays(arrays, schema=SCORES)


def summary(verdicts: list[list[str]], labels_N: np.ndarray, classes: list[str]) -> dict[str, Any]:
    """How many samples were kept, and why the others were not, whole and per class."""
    kept_N = np.array([not v for v in verdicts])
    return {
        "samples": len(verdicts),
        "kept": int(kept_N.sum()),
        "kept_ratio": round(float(kept_N.mean()), 6),
        "rejected": {r: sum(v[:1] == [r] for v in verdicts) for r in REASONS},
        "per_class": {
            name: {"samples": int((labels_N == k).sum()), "kept": int(kept_N[labels_N == k].sum())}
            for k, name in enumerate(classes)
        },
    }


def _columns(
    measured: list[dict[str, np.ndarray]], features_ND: np.ndarray, labels_N: np.ndarray, real: Reference
) -> dict[str, np.ndarray]:
    probabilities = (
        np.concatenate([m["probabilities"] for m in measured]) if "probabilities" in measured[0] else None
    )
    return Measured(features_ND, probabilities).columns(labels_N, real.features("train"))


@lru_cache(maxsize=1)
def _judge(reference: Path, index: bytes, device: Device) -> Any:
    real = Reference(reference)
    return real.judge(device), real.facts
