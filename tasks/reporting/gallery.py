"""The gallery's data: each sample's thumbnail in sprite sheets, its scores as columns, its neighbours.

Everything goes into one JSON block of the page. Pictures are lossless while they fit `BUDGET`, and
WebP of the best quality that does where they don't; the same samples give the same bytes.
"""

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from markupsafe import Markup
from PIL import Image

from tasks.probing import Splits
from tasks.shards import Shards

LIMIT = 10_000
NEIGHBOURS = 3
TOP = 3
BUDGET = 8_500_000  # characters of all sheets together: the page stays under 15 MB
AREA = 2 * LIMIT * 32 * 32  # pixels: as many samples as may be shown, and as many real images, at 32 x 32
SIDES = (128, 96, 64, 48)
SHEET = 1_024
BLOCK = 16
QUALITIES = (None, 90, 80, 65, 50, 30, 10, 1)  # None: lossless
NOT_SCORES = {"id", "label", "kept"}


@dataclass(frozen=True)
class Sheets:
    """Tiles of `side` pixels in cells of `cell`, `across` x `across` of them a sheet; base64 of WebP."""

    side: int
    cell: int
    across: int
    quality: int | None
    sets: list[list[str]]


@dataclass(frozen=True)
class Near:
    """Real images beside the samples: rows of the train split, and per sample places in `rows`.

    `nearest` holds at most three a sample, the nearest first; `copied` is -1 where there is none.
    """

    rows: np.ndarray
    nearest: list[list[int]]
    copied: list[int]


def collect(splits: Splits, synthetic: Path, scores: Path) -> dict[str, Any]:
    """What the page's gallery needs: `data`, the JSON block, and how much of what it shows."""
    rows = chosen(len(splits.kept))
    judged = Shards.open(scores)
    found = table(judged, rows)
    near = neighbours(splits, found)
    sheets = pack([splits.synthetic.x[rows], splits.train.x[near.rows]])
    names, why = reasons(splits, found, rows)
    meanings = judged.index.get("reasons", {})
    seeds = Shards.open(synthetic).table(["seed"])["seed"].take(pa.array(rows)).to_pylist()
    data = {
        "classes": splits.classes,
        "side": sheets.side, "cell": sheets.cell, "across": sheets.across,
        "sheets": sheets.sets[0], "realSheets": sheets.sets[1],
        "id": splits.synthetic.ids[rows].tolist(),
        # As text: JavaScript's numbers lose digits beyond 2^53.
        "seed": [None if seed is None else str(seed) for seed in seeds],
        "label": splits.synthetic.y[rows].tolist(),
        "reasons": names, "meanings": [meanings.get(name, "") for name in names], "why": why,
        "scores": measures(found),
        "said": said(found) if splits.classes else None,
        "realId": splits.train.ids[near.rows].tolist(),
        "realLabel": splits.train.y[near.rows].tolist(),
        "nearest": near.nearest, "copied": near.copied, "sibling": siblings(splits, found, rows),
    }  # fmt: skip
    return {
        "total": len(splits.kept), "shown": len(rows), "side": sheets.side,
        "quality": sheets.quality, "data": block(data),
    }  # fmt: skip


def block(data: Mapping[str, Any]) -> Markup:
    """The data as JSON that no text in it can end."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def chosen(total: int, most: int = LIMIT) -> np.ndarray:
    """The rows shown: all, or `most` of them evenly spaced in the order drawn."""
    if total <= most:
        return np.arange(total)
    return np.arange(most) * total // most


def table(judged: Shards, rows: np.ndarray) -> dict[str, pa.ChunkedArray]:
    """Every column of the scores at `rows`."""
    if not judged.paths:
        return {}
    found = judged.table(pq.read_schema(judged.paths[0]).names).take(pa.array(rows))
    return dict(zip(found.column_names, found.columns, strict=True))


def measures(found: Mapping[str, pa.ChunkedArray]) -> list[dict[str, Any]]:
    """Each column that holds numbers, or yes and no, with four digits a number; none that is empty."""
    shown = []
    for name, column in found.items():
        flag = pa.types.is_boolean(column.type)
        number = pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
        if name in NOT_SCORES or not (flag or number) or column.null_count == len(column):
            continue
        values = [None if v is None else int(v) if flag else short(v) for v in column.to_pylist()]
        shown.append({"name": name.replace("_", " "), "flag": flag, "values": values})
    return shown


def short(value: float) -> float | int | None:
    """A number in four digits; None if it is none."""
    if isinstance(value, int):
        return value
    if not math.isfinite(value):
        return None
    cut = float(f"{value:.4g}")
    return int(cut) if cut.is_integer() else cut


def said(found: Mapping[str, pa.ChunkedArray]) -> list[list[float]] | None:
    """Per sample, the judge's likeliest classes as class, per cent, class, per cent; None if unlabelled."""
    column = found.get("probabilities")
    if column is None or column.null_count == len(column):
        return None
    lines = []
    for shares in column.to_pylist():
        likely = sorted(enumerate(shares or []), key=lambda pair: (-pair[1], pair[0]))[:TOP]
        lines.append([n for k, share in likely if share >= 5e-4 for n in (k, round(100 * share, 1))])
    return lines


def reasons(
    splits: Splits, found: Mapping[str, pa.ChunkedArray], rows: np.ndarray
) -> tuple[list[str], list[list[int]]]:
    """The names of all reasons, and each sample's as places in them, the gravest first; kept: none."""
    given = found["reasons"].to_pylist() if "reasons" in found else [None] * len(rows)
    why = [
        [] if splits.kept[row] else list(several or [splits.reasons[row]])
        for row, several in zip(rows, given, strict=True)
    ]
    names = sorted({reason for line in why for reason in line})
    place = {name: n for n, name in enumerate(names)}
    return names, [[place[reason] for reason in line] for line in why]


def neighbours(splits: Splits, found: Mapping[str, pa.ChunkedArray], most: int = LIMIT) -> Near:
    """The nearest real images of each sample, first the nearest of all, then copied ones, then the rest.

    Beyond `most` different real images the rest is left out.
    """
    row_of = {name: n for n, name in enumerate(splits.train.ids)}
    first = _ids(found, "nearest_train")
    several = _ids(found, "neighbours")
    lines = [
        [row_of[i] for i in (more or [one])[:NEIGHBOURS] if i in row_of]
        for one, more in zip(first, several, strict=True)
    ]
    copied = [row_of.get(i, -1) for i in _ids(found, "nearest_copy")]
    ranks = [[line[k] for line in lines if len(line) > k] for k in range(NEIGHBOURS)]
    wanted = [*ranks[0], *(row for row in copied if row >= 0), *(row for rank in ranks[1:] for row in rank)]
    rows = np.array(list(dict.fromkeys(wanted))[:most], np.int64)
    place = {int(row): n for n, row in enumerate(rows)}
    return Near(
        rows,
        [[place[row] for row in line if row in place] for line in lines],
        [place.get(row, -1) for row in copied],
    )


def siblings(splits: Splits, found: Mapping[str, pa.ChunkedArray], rows: np.ndarray) -> list[int]:
    """For each sample the place in the gallery of the one that it repeats or is nearest to, -1 if none."""
    place = {name: n for n, name in enumerate(splits.synthetic.ids[rows])}
    pairs = zip(_ids(found, "duplicate_of"), _ids(found, "nearest_sibling"), strict=True)
    return [place.get(repeated or nearest, -1) for repeated, nearest in pairs]


def _ids(found: Mapping[str, pa.ChunkedArray], name: str) -> list[Any]:
    return found[name].to_pylist() if name in found else [None] * len(found.get("id", []))


def pack(sets: Sequence[np.ndarray], budget: int = BUDGET, area: int = AREA) -> Sheets:
    """Put sets of uint8 (N, C, H, W) images on sheets of at most `budget` characters in all.

    Tiles have the images' own size, or the largest that keeps all of them within `area` pixels, 32
    at least. Sheets are lossless if that fits, else of the best quality that does, or of the lowest.
    """
    count, size, grey = sum(map(len, sets)), sets[0].shape[-1], sets[0].shape[1] == 1
    side = min(size, next((s for s in SIDES if count * s * s <= area), 32))
    tiles = [np.stack([shrunk(x, side) for x in images]) if len(images) else images for images in sets]
    # A lossy block of 16 pixels must not straddle two tiles: their colours would run into each other.
    cell = side if grey else -(-side // BLOCK) * BLOCK
    across = max(1, SHEET // cell)
    pages = [mosaics(images, cell, across) for images in tiles]
    for quality in QUALITIES:
        # The first sheets tell most of what is too much, before all are encoded.
        if quality != QUALITIES[-1] and 1.2 * budget < sum(
            len(images) * len(encoded(images[0], quality)) for images in pages if images
        ):
            continue
        packed = [[encoded(page, quality) for page in images] for images in pages]
        if sum(len(text) for texts in packed for text in texts) <= budget:
            break
    return Sheets(side, cell, across, quality, packed)


def shrunk(x_CHW: np.ndarray, side: int) -> np.ndarray:
    """A square uint8 image of at most `side` pixels a side."""
    if x_CHW.shape[-1] <= side:
        return x_CHW
    image = Image.fromarray(x_CHW[0] if len(x_CHW) == 1 else np.moveaxis(x_CHW, 0, -1))
    small = np.asarray(image.resize((side, side), Image.Resampling.LANCZOS))
    return small[None] if small.ndim == 2 else np.moveaxis(small, -1, 0)


def mosaics(tiles_NCHW: np.ndarray, cell: int, across: int) -> list[np.ndarray]:
    """Sheets (height, width, C) of tiles row by row; a tile's edge is repeated to fill its cell."""
    sheets = []
    for start in range(0, len(tiles_NCHW), across * across):
        tiles = tiles_NCHW[start : start + across * across]
        count, channels, side, _ = tiles.shape
        edge = (0, cell - side)
        tiles = np.pad(tiles, ((0, 0), (0, 0), edge, edge), "edge")
        lines = -(-count // across)
        empty = np.zeros((lines * across - count, channels, cell, cell), np.uint8)
        grid = np.concatenate([tiles, empty]).reshape(lines, across, channels, cell, cell)
        sheets.append(grid.transpose(0, 3, 1, 4, 2).reshape(lines * cell, across * cell, channels))
    return sheets


def encoded(image_HWC: np.ndarray, quality: int | None) -> str:
    """A uint8 image (H, W, 1 or 3) as WebP in base64; lossless if `quality` is None."""
    image = Image.fromarray(image_HWC[..., 0] if image_HWC.shape[-1] == 1 else image_HWC)
    buffer = io.BytesIO()
    image.save(buffer, "webp", lossless=quality is None, quality=60 if quality is None else quality)
    return base64.b64encode(buffer.getvalue()).decode()
