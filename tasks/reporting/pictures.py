"""Images for the page: small PNGs inside data URIs, so that it needs no other file."""

import base64
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tasks.probing import Splits
from tasks.reporting.words import percent
from tasks.shards import Shards, png

SIDE = 64
EACH = 8
CLASSES = 24
REJECTED = 12
GRIDS = 6


def uri(data: bytes) -> str:
    """A PNG's bytes as an address that holds them."""
    return "data:image/png;base64," + base64.b64encode(data).decode()


def thumb(x_CHW: np.ndarray) -> str:
    """A uint8 image as a data URI, made smaller if a side exceeds 64 pixels."""
    data = png(x_CHW)
    if max(x_CHW.shape[1:]) <= SIDE:
        return uri(data)
    return uri(_shrunk(data, SIDE))


def _shrunk(data: bytes, side: int) -> bytes:
    image = Image.open(io.BytesIO(data))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "png")
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


def rejected(splits: Splits, scores: Path) -> list[dict[str, Any]]:
    """For each reason, the most frequent first: how many, what it means, and the first samples.

    A suspected copy stands beside the training image that it is nearest to.
    """
    judged = Shards.open(scores)
    columns = judged.table(["probability", "nearest_train"])
    probability, nearest = (columns[name].to_pylist() for name in columns.column_names)
    train_row = {name: n for n, name in enumerate(splits.train.ids)}
    groups = []
    for reason, count in sorted(Counter(splits.reasons[~splits.kept]).items(), key=lambda r: (-r[1], r[0])):
        rows = np.flatnonzero(splits.reasons == reason)[:REJECTED]
        samples = []
        for n in rows:
            label = int(splits.synthetic.y[n])
            twin = train_row.get(nearest[n]) if reason == "copy" else None
            samples.append(
                {
                    "image": thumb(splits.synthetic.x[n]),
                    "twin": None if twin is None else thumb(splits.train.x[twin]),
                    "name": splits.classes[label] if splits.classes and label >= 0 else "",
                    "probability": None if probability[n] is None else percent(probability[n]),
                }
            )
        meaning = judged.index.get("reasons", {}).get(reason, "")
        groups.append({"reason": reason, "count": count, "meaning": meaning, "samples": samples})
    return groups


def grids(checkpoint: Path) -> list[dict[str, Any]]:
    """Sample grids over the training, at most six of them evenly spaced, the last among them."""
    paths = sorted((checkpoint / "grids").glob("*.png"))
    if len(paths) > GRIDS:
        paths = [paths[round(n * (len(paths) - 1) / (GRIDS - 1))] for n in range(GRIDS)]
    return [
        {
            "images": f"{int(p.stem):,}" if p.stem.isdigit() else p.stem,
            "image": uri(_shrunk(p.read_bytes(), 480)),
        }
        for p in paths
    ]
