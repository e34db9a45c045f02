"""Small sealed stages for tests: three classes of 8x8 images, each a bright row on noise."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.shards import image_column, png, sample_table, seal, shard_name, write_shard

CLASSES = ["bar", "line", "row"]
SIZE = 8


def pictures(labels: np.ndarray, seed: int, size: int = SIZE, channels: int = 1) -> np.ndarray:
    """(N, channels, size, size) uint8: noise, and row `2 * label + 1` bright."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 120, (len(labels), channels, size, size), dtype=np.uint8)
    for image, label in zip(x, labels, strict=True):
        image[:, (2 * int(label) + 1) % size] = rng.integers(200, 256, (channels, size))
    return x


def samples(x: np.ndarray, labels: np.ndarray, name: str, **columns: list) -> pa.Table:
    ids = [f"{name}{n:05d}" for n in range(len(x))]
    encoded = [png(image) for image in x]
    return sample_table(
        len(x),
        id=ids,
        image=image_column(encoded, [f"{i}.png" for i in ids]),
        label=[None if n < 0 else int(n) for n in labels],
        sha256=[hashlib.sha256(e).hexdigest() for e in encoded],
        **columns,
    )


def shards(folder: Path, table: pa.Table, classes: list[str], size: int = 20, **facts) -> Path:
    """Write and seal a table as shards of `size` rows."""
    folder.mkdir(parents=True)
    for number, start in enumerate(range(0, len(table), size)):
        write_shard(folder / shard_name(number), table.slice(start, size))
    shape = {"channels": 1, "size": SIZE}
    return seal(folder, classes=classes, recipe=f"recipe of {folder.name}", **{**shape, **facts})


CONDITION = {"name": "colours", "channels": 2, "ids": 2}


def real(folder: Path, each: int, seed: int, classes: list[str] = CLASSES, condition: bool = False) -> Path:
    """A split of `each` real images of every class; unlabelled if there are no classes.

    With `condition`, each comes with where it is bright.
    """
    labels = np.tile(np.arange(3), each)
    given = labels if classes else np.full(len(labels), -1)
    x, columns, facts = pictures(labels, seed), {"split": [folder.name] * len(labels)}, {}
    if condition:
        maps = [png((image > 150).astype(np.uint8)) for image in x]
        columns["condition"] = image_column(maps, [f"{n}.png" for n in range(len(x))])
        facts["condition"] = CONDITION
    return shards(folder, samples(x, given, folder.name, **columns), classes, **facts)


def scores(folder: Path, synthetic: Path, reasons: list[str | None]) -> Path:
    """Scores of the samples in `synthetic`: kept where the reason is None, the numbers made up."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(5)
    at = 0
    names = json.loads((synthetic / "index.json").read_text())["shards"]
    for name in names:
        drawn = pq.read_table(synthetic / name)
        n = len(drawn)
        why = reasons[at : at + n]
        at += n
        number = {k: rng.random(n).astype(np.float32) for k in ("probability", "margin", "entropy")}
        number |= {k: rng.random(n).astype(np.float32) for k in ("train_distance", "sibling_distance")}
        table = pa.table(
            {
                "id": drawn["id"],
                "label": drawn["label"],
                **number,
                "nearest_train": pa.array([f"train{k % 60:05d}" for k in range(n)]),
                "nearest_sibling": drawn["id"],
                "probabilities": pa.array([np.float16([0.5, 0.25, 0.25])] * n, pa.list_(pa.float16())),
                "kept": pa.array([w is None for w in why]),
                "reason": pa.array(why, pa.string()),
                "reasons": pa.array([[] if w is None else [w] for w in why], pa.list_(pa.string())),
            }
        )
        write_shard(folder / name, table)
    kept = sum(w is None for w in reasons)
    measures = {
        "frechet_distance": 3.5,
        "kernel_distance": 0.02,
        "precision": 0.8,
        "recall": 0.7,
        "density": 0.9,
        "coverage": 0.85,
    }
    metrics = {
        "samples": len(reasons),
        "kept": kept,
        "kept_ratio": kept / len(reasons),
        "rejected": {w: reasons.count(w) for w in sorted({w for w in reasons if w})},
        "per_class": {},
        "before": measures,
        "after": {**measures, "frechet_distance": 3.0, "recall": None},
        "scale": dict.fromkeys(measures),
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return seal(folder, classes=CLASSES, recipe="recipe of scores")


def checkpoint(folder: Path) -> Path:
    """What the report reads of a checkpoint: facts, loss curve, sample grids."""
    (folder / "grids").mkdir(parents=True)
    facts = {"family": "diffusion", "config": {"width": 8}, "channels": 1, "size": SIZE}
    facts |= {"classes": CLASSES, "images": 2_000, "train": {"seed": 0}}
    (folder / "checkpoint.json").write_text(json.dumps(facts))
    lines = [f"{n * 100},{1 / n:.4f}" for n in range(1, 21)]
    (folder / "loss.csv").write_text("\n".join(["images,loss", *lines]) + "\n")
    drawn = ["1000,3,0.5,0.75", "2000,3,,0.8"]
    (folder / "health.csv").write_text("\n".join(["images,classes_shown,variety,score", *drawn]) + "\n")
    for n in (1_000, 2_000):
        (folder / "grids" / f"{n:09d}.png").write_bytes(png(pictures(np.zeros(1), n)[0]))
    return seal(folder, recipe="recipe of checkpoint")


def stages(
    data: Path, classes: list[str] = CLASSES, drawn: int = 60, reasons: list[str | None] | None = None
) -> Path:
    """All that evaluate and export read, in `data`: unless told, every fifth sample is rejected."""
    real(data / "real/train", 20, 1, classes)
    real(data / "real/calibrate", 8, 2, classes)
    real(data / "real/test", 12, 3, classes)
    labels = np.arange(drawn) % 3
    given = labels if classes else np.full(drawn, -1)
    table = samples(
        pictures(labels, 4), given, "drawn", family=["diffusion"] * drawn, seed=list(range(drawn))
    )
    facts = {
        "synthetic": True,
        "family": "diffusion",
        "checkpoint": "c0ffee",
        "environment": {"device": "cpu"},
    }
    shards(data / "synthetic", table, classes, **facts, class_counts={}, generate={"seed": 0})
    usual = [None if n % 5 else ("copied" if n % 2 else "unsure") for n in range(drawn)]
    scores(data / "scores", data / "synthetic", reasons or usual)
    checkpoint(data / "checkpoint")
    return data
