"""Shards: numbered Parquet files of images under one Arrow schema, whole or absent, sealed by an index.

Real and synthetic images are the same type. A folder is sealed by `index.json`, written last,
which carries the digest of every file in it; a folder without one is unfinished.
"""

import hashlib
import io
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from tasks.errors import UserError, first_line

INDEX = "index.json"
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SAMPLE = pa.schema(
    [
        ("id", pa.string()),
        ("image", IMAGE),
        ("label", pa.int32()),
        ("sha256", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("family", pa.string()),
        ("seed", pa.int64()),
        ("condition", IMAGE),
        ("source_ids", pa.list_(pa.string())),
        ("family_score", pa.float32()),
    ]
)


@dataclass(frozen=True)
class Shards:
    """A sealed folder of shards. Tables come a shard at a time, so memory holds one shard."""

    folder: Path
    index: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> "Shards":
        """Open a sealed folder. Raises UserError if it is missing, unsealed or of another format."""
        index = read_index(folder)
        if "shards" not in index:
            raise UserError(f"{folder}: holds no shards (its {INDEX} lists none). Run its stage again.")
        return cls(folder, index)

    @property
    def classes(self) -> list[str]:
        """Class names in label order; empty if the images are unlabelled."""
        return self.index["classes"]

    @property
    def rows(self) -> int:
        """How many images there are in all shards."""
        return self.index["rows"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every image."""
        return self.index["channels"], self.index["size"], self.index["size"]

    @property
    def condition(self) -> dict[str, Any] | None:
        """The condition that comes with each image: its name, channels and ids; None if none does."""
        return self.index.get("condition")

    @cached_property
    def paths(self) -> list[Path]:
        """The shards' files, in order."""
        return [self.folder / name for name in self.index["shards"]]

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """One table a shard, in order. Raises UserError that names a shard that is not readable."""
        for path in self.paths:
            yield read_shard(path, columns)

    def table(self, columns: list[str]) -> pa.Table:
        """The named columns of all shards as one table."""
        tables = list(self.tables(columns))
        return pa.concat_tables(tables) if tables else SAMPLE.empty_table().select(columns)

    def labels(self) -> np.ndarray:
        """(N,) int64; -1 where there is no label."""
        return self.table(["label"])["label"].fill_null(-1).to_numpy().astype(np.int64)

    def decoded(self, column: str = "image") -> Iterator[np.ndarray]:
        """The pixels of one shard after the other, (n, channels, height, width) uint8."""
        for path, table in zip(self.paths, self.tables([column]), strict=True):
            try:
                found = pixels(table[column])
            except UserError as error:
                raise UserError(f"{path}: {error}") from None
            yield found

    def pixels(self, column: str = "image") -> np.ndarray:
        """(N, channels, height, width) uint8, decoded once; `column`: of images, or `condition`."""
        found, start = np.zeros((0, *self.shape), np.uint8), 0
        for part in self.decoded(column):
            if not start:  # filled shard by shard, since a list of parts would hold all of it twice
                found = np.empty((self.rows, *part.shape[1:]), np.uint8)
            found[start : start + len(part)] = part
            start += len(part)
        return found


def shard_name(number: int) -> str:
    """The file name of a shard, counted from 0."""
    return f"shard-{number:05d}.parquet"


def spans(total: int, size: int) -> list[tuple[int, int]]:
    """Cut `total` rows into (start, stop) of at most `size` rows each."""
    return [(start, min(start + size, total)) for start in range(0, total, size)]


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write that is there whole or not at all: temporary name, fsync, rename.

    Two may write the same one at once, as a worker that outlived its run may: each has its own name.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)  # on a full disk, room for what is tried next
        raise


def remove_partials(folder: Path) -> None:
    """Remove what killed writers left behind."""
    for partial in folder.rglob(".*.partial"):
        partial.unlink(missing_ok=True)


def write_shard(path: Path, table: pa.Table) -> Path:
    """Write a table as Parquet, whole or not at all."""
    with whole(path) as file:
        pq.write_table(table, file, compression="zstd", row_group_size=1_000)
    return path


@contextmanager
def filling(path: Path) -> Iterator[pq.ParquetWriter]:
    """A shard of samples to write table by table, a row group each: whole in the end, or not there."""
    with whole(path) as file, pq.ParquetWriter(file, SAMPLE, compression="zstd") as writer:
        yield writer


def read_shard(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read one shard. Raises UserError that names it if it is missing or broken."""
    try:
        return pq.read_table(path, columns=columns, partitioning=None)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: not readable ({first_line(error)}). Run its stage again.") from None


def seal(folder: Path, **facts: Any) -> Path:
    """Write `index.json` last, with `facts` and the digest of every file. Returns the folder.

    A folder of shards is one whose facts name its `classes`.
    """
    remove_partials(folder)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != INDEX)
    index: dict[str, Any] = dict(facts)
    shards = [p for p in files if p.parent == folder and p.match("shard-*.parquet")]
    if "classes" in facts:
        index["shards"] = [p.name for p in shards]
        index["rows"] = sum(pq.read_metadata(p).num_rows for p in shards)
    index["files"] = {p.relative_to(folder).as_posix(): file_digest(p) for p in files}
    write_text(folder / INDEX, json.dumps(index, indent=1, ensure_ascii=False) + "\n")
    return folder


def read_index(folder: Path) -> dict[str, Any]:
    """The sealed index of a stage's out. Raises UserError if it is missing or broken."""
    path = folder / INDEX
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        found = "is not sealed" if folder.is_dir() else "not found"
        raise UserError(f"{folder}: {found}. Run `dvc repro`, which makes it.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable ({first_line(error)}). Run its stage again.") from None


def write_text(path: Path, text: str) -> Path:
    """Write a text file in UTF-8, whole or not at all."""
    with whole(path) as file:
        file.write(text.encode())
    return path


def file_digest(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def png(image_CHW: np.ndarray) -> bytes:
    """Encode uint8 (1 or 3, H, W) as PNG, the same bytes every time."""
    image = Image.fromarray(image_CHW[0] if len(image_CHW) == 1 else image_CHW.transpose(1, 2, 0))
    buffer = io.BytesIO()
    image.save(buffer, "png", compress_level=4)
    return buffer.getvalue()


def pixels(images: pa.ChunkedArray) -> np.ndarray:
    """Decode an `image` column of equal-sized PNGs to (N, C, H, W) uint8."""
    return unpng(pc.struct_field(images, "bytes").to_pylist())


def unpng(encoded: Iterable[bytes]) -> np.ndarray:
    """Decode what `png` made, of one size, to (N, C, H, W) uint8. Raises UserError if one is broken."""
    import cv2

    decoded: list[np.ndarray] = []
    for data in encoded:
        # Of no bytes at all OpenCV does not say None.
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
        if image is None:
            raise UserError("an image is not a PNG that can be read. Run the stage that made it again.")
        decoded.append(image)
    stack = np.stack(decoded)
    return stack[:, None] if stack.ndim == 3 else np.ascontiguousarray(stack[..., ::-1].transpose(0, 3, 1, 2))


def image_column(encoded: Iterable[bytes | None], paths: Iterable[str | None]) -> pa.Array:
    """Pair encoded images with their file names in the Hugging Face image layout; None stays null."""
    rows = [None if b is None else {"bytes": b, "path": p} for b, p in zip(encoded, paths, strict=True)]
    return pa.array(rows, IMAGE)


def sample_table(rows: int, **columns: Any) -> pa.Table:
    """A table of the SAMPLE schema from the given columns; those not given are null."""
    arrays = []
    for field in SAMPLE:
        given = columns.pop(field.name, None)
        arrays.append(pa.nulls(rows, field.type) if given is None else pa.array(given, field.type))
    if columns:
        raise KeyError(f"not in the schema: {', '.join(columns)}")
    return pa.Table.from_arrays(arrays, schema=SAMPLE)
