"""Images for the page: small ones inside data URIs, so that it needs no other file."""

import base64
import io
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tasks.conditions import shown as shown_condition
from tasks.probing import Images, Splits
from tasks.reporting.words import percent
from tasks.shards import Shards, pixels, png

SIDE = 64
EACH = 8
CLASSES = 24
MADE = 3  # samples of each class that are shown beside their sources
REJECTED = 12
GRIDS = 6
# Of a sample dropped for this reason, which images hold its like, and which scores name it, the best first.
TWINS = {
    "identical": ("train", ("nearest_copy", "nearest_train")),
    "copied": ("train", ("nearest_copy", "nearest_train")),
    "duplicate": ("synthetic", ("duplicate_of", "nearest_sibling")),
}


def thumb(x_CHW: np.ndarray) -> str:
    """A uint8 image as a data URI, made smaller if a side exceeds 64 pixels."""
    return shown(png(x_CHW), SIDE, 4_000)


def shown(data: bytes, side: int, most: int) -> str:
    """A PNG as a data URI of at most `side` pixels a side, as lossy WebP if it exceeds `most` bytes."""
    image = Image.open(io.BytesIO(data))
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        data = _encoded(image, "png")
    kind = "png" if len(data) <= most else "webp"
    if kind == "webp":
        data = _encoded(image, "webp", quality=85)
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def side_by_side(splits: Splits) -> list[dict[str, Any]]:
    """The first real and the first kept images of each class: nobody chose them."""
    real, drawn = splits.train, splits.synthetic
    groups = list(enumerate(splits.classes[:CLASSES])) or [(-1, "all images")]
    rows = []
    for label, name in groups:
        ours = np.flatnonzero((drawn.y == label) & splits.kept)[:EACH]
        theirs = np.flatnonzero(real.y == label)[:EACH]
        rows.append(
            {
                "name": name,
                "real": [thumb(real.x[n]) for n in theirs],
                "synthetic": [thumb(drawn.x[n]) for n in ours],
            }
        )
    return rows


def made_from(splits: Splits, synthetic: Path) -> list[dict[str, Any]]:
    """Of samples that have sources, the first kept ones of each class beside what they were made from."""
    drawn = Shards.open(synthetic)
    if not drawn.index.get("parents"):
        return []
    groups = [splits.kept & (splits.synthetic.y == label) for label in range(len(splits.classes[:CLASSES]))]
    rows = [row for of_class in groups or [splits.kept] for row in np.flatnonzero(of_class)[:MADE].tolist()]
    table = drawn.table(["source_ids", "condition"]).take(pa.array(rows, pa.int64()))
    row_of = {name: n for n, name in enumerate(splits.train.ids)}
    conditions = pixels(table["condition"]) if drawn.condition and rows else [None] * len(rows)
    found = []
    for row, sources, condition in zip(rows, table["source_ids"].to_pylist(), conditions, strict=False):
        label = int(splits.synthetic.y[row])
        asked = None
        if condition is not None and drawn.condition:
            asked = thumb(shown_condition(condition, drawn.condition["ids"]))
        found.append(
            {
                "name": splits.classes[label] if splits.classes and label >= 0 else "",
                "sources": [thumb(splits.train.x[row_of[name]]) for name in sources],
                "condition": asked,
                "result": thumb(splits.synthetic.x[row]),
            }
        )
    return found


def rejected(splits: Splits, scores: Path) -> list[dict[str, Any]]:
    """For each reason, the most frequent first: how many, what it means, and the first samples.

    A suspected copy stands beside the training image that it is most like, a duplicate beside the
    sample that it repeats.
    """
    judged = Shards.open(scores)
    found = _columns(judged, ("probability", *{name for _, names in TWINS.values() for name in names}))
    probability = found.get("probability", [None] * len(splits.kept))
    groups = []
    for reason, count in sorted(Counter(splits.reasons[~splits.kept]).items(), key=lambda r: (-r[1], r[0])):
        rows = np.flatnonzero(splits.reasons == reason)[:REJECTED]
        samples = []
        for n, twin in zip(rows, twins(reason, rows, splits, found), strict=True):
            label = int(splits.synthetic.y[n])
            samples.append(
                {
                    "image": thumb(splits.synthetic.x[n]),
                    "twin": None if twin is None else thumb(twin),
                    "name": splits.classes[label] if splits.classes and label >= 0 else "",
                    "probability": None if probability[n] is None else percent(probability[n]),
                }
            )
        meaning = judged.index.get("reasons", {}).get(reason, "")
        groups.append({"reason": reason, "count": count, "meaning": meaning, "samples": samples})
    return groups


def twins(
    reason: str, rows: np.ndarray, splits: Splits, found: Mapping[str, list[Any]]
) -> list[np.ndarray | None]:
    """For each sample at `rows` the image that `reason` says it is like; None where it names none."""
    if reason not in TWINS:
        return [None] * len(rows)
    among, names = TWINS[reason]
    images: Images = getattr(splits, among)
    row_of = {name: n for n, name in enumerate(images.ids)}
    ids = [next((found[k][n] for k in names if k in found and found[k][n] is not None), None) for n in rows]
    return [images.x[row_of[name]] if name in row_of else None for name in ids]


def _columns(judged: Shards, names: Iterable[str]) -> dict[str, list[Any]]:
    """Those of the named columns that the scores have."""
    has = set(pq.read_schema(judged.paths[0]).names) if judged.paths else set()
    table = judged.table([name for name in names if name in has])
    return {name: table[name].to_pylist() for name in table.column_names}


def grids(checkpoint: Path) -> list[dict[str, Any]]:
    """Sample grids over the training, at most six of them evenly spaced, the last among them."""
    paths = sorted((checkpoint / "grids").glob("*.png"))
    if len(paths) > GRIDS:
        paths = [paths[round(n * (len(paths) - 1) / (GRIDS - 1))] for n in range(GRIDS)]
    return [
        {
            "images": f"{int(p.stem):,}" if p.stem.isdigit() else p.stem,
            "image": shown(p.read_bytes(), 480, 100_000),
        }
        for p in paths
    ]
