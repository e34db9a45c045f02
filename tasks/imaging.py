"""From original bytes to small PNGs of one shape, and what is needed to find their twins.

Images are held as uint8 arrays (channels, height, width). A spool on disk holds all PNGs of a
run, so that memory holds a few batches and a row of facts for each image.
"""

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks import masks
from tasks.conditions import extract
from tasks.decoding import decode
from tasks.errors import UserError
from tasks.params import PreprocessParams
from tasks.progress import Progress
from tasks.shards import Shards, png, unpng
from tasks.workers import spread

BATCH_IMAGES, BATCH_BYTES = 128, 32 << 20
THUMB = 9
SIDES = {"left_to_right": 1, "right_to_left": 0}  # which half is the image; the other is its condition
PIXELS, ROWS = "pixels.bin", "rows.parquet"
FACTS = pa.schema(
    [
        ("id", pa.string()),
        ("label", pa.int32()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("digest", pa.string()),
        ("thumb", pa.binary()),
        ("size", pa.int64()),
        ("condition_size", pa.int64()),
    ]
)


def fit(image_HWC: np.ndarray, size: int, how: str, ids: bool = False) -> np.ndarray:
    """Resize and crop (`cover`) or pad with black (`contain`) to (channels, size, size).

    `ids`: it is a map, so each pixel becomes the one that is nearest to its middle, and padding is id 0.
    """
    if image_HWC.shape[:2] != (size, size):
        if how == "cover":
            image_HWC = _without_ends(image_HWC)
        image_HWC = _transform(size, how, ids)(image=image_HWC)["image"]
        image_HWC = image_HWC.reshape(size, size, -1)
    return np.ascontiguousarray(image_HWC.transpose(2, 0, 1))


def _without_ends(image_HWC: np.ndarray) -> np.ndarray:
    """The middle of an image, at most four times as long as it is wide.

    Of a strip of 1 x 1,000,000 pixels `cover` keeps one, and would enlarge all of them first.
    """
    height, width = image_HWC.shape[:2]
    limit = 4 * min(height, width)
    top, left = max(0, (height - limit) // 2), max(0, (width - limit) // 2)
    return image_HWC[top : top + limit, left : left + limit]


@cache
def _transform(size: int, how: str, ids: bool) -> Any:
    """The albumentations pipeline; its import takes seconds and is not needed for images that fit."""
    import os

    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations as A
    import cv2

    cv2.setNumThreads(1)
    # Area averaging where it shrinks, as anything else aliases; a smooth curve where it grows.
    scale: dict[str, Any] = {"interpolation": cv2.INTER_CUBIC, "area_for_downscale": "image"}
    if ids:
        scale = {"interpolation": cv2.INTER_NEAREST_EXACT}
    if how == "cover":
        return A.Compose([A.SmallestMaxSize(size, **scale), A.CenterCrop(size, size)])
    return A.Compose([A.LongestMaxSize(size, **scale), A.PadIfNeeded(size, size, fill=0)])


def thumbs(images_NCHW: np.ndarray) -> np.ndarray:
    """(N, 81) uint8: each image's grey in 9x9 averaged cells, which twins are found by."""
    size = images_NCHW.shape[-1]
    # What part of each pixel lies in each cell, along one side.
    edges = np.linspace(0, size, THUMB + 1)[:, None]
    pixels = np.arange(size)
    parts = np.clip(np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels), 0, 1)
    parts = (parts / parts.sum(1, keepdims=True)).astype(np.float32)
    cells = parts @ images_NCHW.mean(1, dtype=np.float32) @ parts.T
    return np.round(cells).astype(np.uint8).reshape(len(images_NCHW), -1)


class Prepared(NamedTuple):
    """An image as PNG, the digest of its pixels, its thumb, and its condition as PNG (empty: it has none)."""

    image: bytes
    digest: str
    thumb: bytes
    condition: bytes


class Refused(NamedTuple):
    """Why nothing can be kept of an image: the reason by which it is counted, and what was found."""

    reason: str
    detail: str


class Job(NamedTuple):
    """A batch of original bytes, those of their partners (None: it has none), and what to make of them."""

    images: list[bytes]
    partners: list[bytes | None]
    params: PreprocessParams
    pairs: str | None = None


def prepare(job: Job) -> list[Prepared | Refused]:
    """Turn a batch of original bytes into what is kept of them, or why nothing can be."""
    made = [_prepare(data, partner, job) for data, partner in zip(job.images, job.partners, strict=True)]
    good = [each[0] for each in made if not isinstance(each, Refused)]
    small = iter(thumbs(np.stack(good)) if good else ())
    return [
        each
        if isinstance(each, Refused)
        else Prepared(
            png(each[0]),
            hashlib.sha256(each[0].tobytes()).hexdigest(),
            next(small).tobytes(),
            b"" if each[1] is None else png(each[1]),
        )
        for each in made
    ]


def _prepare(data: bytes, partner: bytes | None, job: Job) -> tuple[np.ndarray, np.ndarray | None] | Refused:
    """An image and its condition, both (1 or 3, size, size), or why they can't be made."""
    params = job.params
    try:
        # A JPEG that is decoded smaller may have lost the middle, where its halves meet.
        least = None if job.pairs in SIDES else 2 * params.size
        decoded = beside = decode(data, params.channels, least)
        if job.pairs in SIDES:
            halves = halved(decoded)
            decoded, beside = halves[SIDES[job.pairs]], halves[1 - SIDES[job.pairs]]
        image = fit(decoded, params.size, params.fit)
        if params.condition != "paired":
            return image, extract(image, params)
        if job.pairs in SIDES and not params.mask:
            return image, fit(beside, params.size, params.fit)
        partner = data if job.pairs in SIDES else partner
        return image, None if partner is None else _partner(partner, job, least)
    except masks.Unmapped as error:
        return Refused(error.reason, str(error))
    # As in ingest: Pillow's decoders raise more than OSError, and OpenCV errors of its own.
    except Exception as error:
        return Refused("undecodable", f"{type(error).__name__}: {' '.join(str(error).split())[:120]}")


def _partner(data: bytes, job: Job, least: int | None) -> np.ndarray:
    """What comes with an image, (1 or 3, size, size): an image as well, or a map of ids."""
    params = job.params
    beside = masks.read(data, params.mask) if params.mask else decode(data, params.channels, least)
    if job.pairs in SIDES:
        beside = halved(beside)[1 - SIDES[job.pairs]]
    if params.mask:
        return fit(masks.mapped(beside, params.mask), params.size, params.fit, ids=True)
    return fit(beside, params.size, params.fit)


def halved(image_HWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The left and the right half of an image. Raises ValueError if it can't be cut in two."""
    width = image_HWC.shape[1]
    if width % 2 or width < 2:
        raise ValueError(f"{width} pixels can't be cut into two images side by side")
    return image_HWC[:, : width // 2], image_HWC[:, width // 2 :]


def spool(raw: Path, folder: Path, params: PreprocessParams, workers: int | None = None) -> Path:
    """Prepare every raw image into `folder`: PNGs end to end in one file, their facts in a table.

    Rows are in the order of their id, whatever the order of the raw shards. Returns the folder.
    Raises UserError if not one image can be prepared.
    """
    shards = Shards.open(raw)
    folder.mkdir(exist_ok=True)
    facts: dict[str, list[Any]] = {name: [] for name in FACTS.names}
    offsets: list[int] = []
    waiting: list[dict[str, list[Any]]] = []

    pairs = shards.index.get("pairs")
    if params.condition == "paired" and pairs is None:
        raise UserError(f"{raw}: holds no pairs. Set ingest.pairs, or another preprocess.condition.")

    paired = params.condition == "paired"
    columns = ["id", "image", *["condition"] * paired, "label", "split", "source"]

    def jobs() -> Iterator[Job]:
        for table in shards.tables(columns):
            for rows in _batches(table):
                encoded = [image["bytes"] for image in rows["image"].to_pylist()]
                partners: list[bytes | None] = [None] * len(rows)
                if paired:
                    partners = [other and other["bytes"] for other in rows["condition"].to_pylist()]
                waiting.append(rows.drop(["image", *["condition"] * paired]).to_pydict())
                yield Job(encoded, partners, params, pairs)

    offset = 0
    with Progress("preprocess", shards.rows) as progress, open(folder / PIXELS, "wb") as file:
        for results in spread(prepare, jobs(), shards.rows, workers):
            for name, values in waiting.pop(0).items():
                facts[name] += values
            for result in results:
                why = result if isinstance(result, Refused) else None
                made = Prepared(b"", "", b"", b"") if isinstance(result, Refused) else result
                file.write(made.image + made.condition)
                offsets.append(offset)
                offset += len(made.image) + len(made.condition)
                facts["size"].append(len(made.image))
                facts["condition_size"].append(len(made.condition))
                facts["digest"].append(made.digest or None)
                facts["thumb"].append(made.thumb or None)
                facts["reason"].append(why and why.reason)
                facts["detail"].append(why and why.detail)
            progress.add(len(results))
    if not offset:
        raise UserError(
            f"{raw}: none of {shards.rows:,} images could be prepared ({facts['detail'][0]}). "
            f"Look at preprocess.{'mask' if params.mask else 'size and preprocess.channels'}."
        )
    table = pa.Table.from_pydict(facts, schema=FACTS).append_column("offset", pa.array(offsets, pa.int64()))
    pq.write_table(table.sort_by("id"), folder / ROWS)
    return folder


def _batches(table: pa.Table) -> Iterator[pa.Table]:
    start = size = 0
    for n, length in enumerate(_lengths(table).tolist()):
        if n > start and (n - start == BATCH_IMAGES or size + length > BATCH_BYTES):
            yield table.slice(start, n - start)
            start, size = n, 0
        size += length
    if len(table) > start:
        yield table.slice(start)


def _lengths(table: pa.Table) -> np.ndarray:
    """(N,) bytes of each row's images."""
    found = np.zeros(len(table), np.int64)
    for name in {"image", "condition"} & set(table.column_names):
        encoded = pc.struct_field(table[name], "bytes")
        found += pc.fill_null(pc.binary_length(encoded), 0).to_numpy()
    return found


class Spool:
    """All prepared images of a run: facts in memory, PNGs on disk."""

    def __init__(self, folder: Path) -> None:
        self.rows = pq.read_table(folder / ROWS, partitioning=None)
        self.images = np.memmap(folder / PIXELS, np.uint8, "r")
        self.offsets = self.rows["offset"].to_numpy()
        self.sizes = self.rows["size"].to_numpy()
        self.condition_sizes = self.rows["condition_size"].to_numpy()

    def png(self, row: int) -> bytes:
        """The PNG of a row."""
        start = self.offsets[row]
        return self.images[start : start + self.sizes[row]].tobytes()

    def condition(self, row: int) -> bytes | None:
        """The PNG of a row's condition; None if it has none."""
        start = self.offsets[row] + self.sizes[row]
        return self.images[start : start + self.condition_sizes[row]].tobytes() or None

    def pixels(self, rows: np.ndarray) -> np.ndarray:
        """(N, channels, size, size) uint8 of the given rows."""
        return unpng(self.png(row) for row in rows)
