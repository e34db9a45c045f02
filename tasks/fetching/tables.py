"""Parquet files in the Hugging Face image layout: an image struct of bytes and path, beside a label."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.errors import UserError, first_line
from tasks.fetching.source import SPLITS, Item, Source, in_order

ROWS = 100


def parquet(path: Path, allow_synthetic: bool) -> Source:
    """List a Parquet file or a folder of them. Raises UserError if there is no image column.

    Files without one (a manifest, say) are ignored where others have it. Labels are class
    indices, or words, or null; -1 is null too.
    """
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*.parquet") if p.is_file())
    root = path.parent if path.is_file() else path
    tables = [_Table(file, file.relative_to(root).as_posix()) for file in files]
    for table in tables:
        if table.synthetic and not allow_synthetic:
            raise UserError(
                f"ingest.source: {table.path} says of itself `synthetic: true`.\n"
                "Training on generated images degrades a generator. "
                "If it is meant, set ingest.allow_synthetic to true."
            )
    ours = [table for table in tables if table.image]
    if not ours:
        raise UserError(
            f"ingest.source: {path}: no Parquet column of images, which is a struct of bytes and path "
            f"(found: {', '.join(tables[0].schema.names[:8])})."
        )
    names = next((t.names for t in ours if t.names), None)
    if names is None:
        names = in_order(str(value) for table in ours for value in table.values())
    labels = {name: n for n, name in enumerate(names)}

    def items() -> Iterator[Item]:
        for table in ours:
            yield from table.items(labels)

    total = sum(table.rows for table in ours)
    return Source("Parquet", names, total, items, ignored=len(tables) - len(ours))


class _Table:
    """One Parquet file: which columns hold what, as its schema tells."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        try:
            with pq.ParquetFile(path) as file:
                self.schema, self.rows = file.schema_arrow, file.metadata.num_rows
        except (OSError, pa.ArrowException) as error:
            told = f"not readable as Parquet ({first_line(error)})"
            raise UserError(f"ingest.source: {path}: {told}.") from None
        metadata = self.schema.metadata or {}
        self.synthetic = metadata.get(b"synthetic", b"").lower() == b"true"
        features = _features(metadata)
        self.image = self._column("image", lambda f: _holds_images(f.type))
        labelled = [n for n, f in features.items() if f.get("_type") == "ClassLabel"]
        self.label = labelled[0] if labelled else self._column("label", lambda f: f.name == "labels")
        self.names: list[str] | None = None
        if labelled:
            self.names = [str(n) for n in features[labelled[0]].get("names") or []] or None
        words = [part for part in re.split(r"[/\-_.]", name.lower()) if part in SPLITS]
        self.split = SPLITS[words[-1]] if words else None

    def _column(self, usual: str, fits: Any) -> str | None:
        names = [f.name for f in self.schema if fits(f) or (usual == "label" == f.name)]
        return usual if usual in names else names[0] if names else None

    def values(self) -> list[Any]:
        """The labels that occur, without null and -1."""
        if self.label is None:
            return []
        column = pq.read_table(self.path, columns=[self.label], partitioning=None)[self.label]
        return [v for v in column.unique().to_pylist() if v is not None and v != -1]

    def items(self, labels: dict[str, int]) -> Iterator[Item]:
        """Each row as an image to check, a hundred in memory at a time."""
        columns = [c for c in (self.image, self.label) if c]
        row = 0
        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(ROWS, columns=columns):
                images = batch.column(self.image).to_pylist()
                given = batch.column(self.label).to_pylist() if self.label else [None] * len(images)
                for image, value in zip(images, given, strict=True):
                    yield self._item(row, image, self._number(value, labels))
                    row += 1

    def _number(self, value: Any, labels: dict[str, int]) -> int | None:
        if value is None or value == -1:
            return None
        number = value if self.names and isinstance(value, int) else labels.get(str(value), -1)
        if not 0 <= number < len(labels):
            raise UserError(
                f"ingest.source: {self.path}: label {value!r} is none of the {len(labels)} classes "
                f"that the schema of the file names."
            )
        return number

    def _item(self, row: int, image: Any, label: int | None) -> Item:
        held = {"bytes": image} if isinstance(image, bytes) else image or {}
        source = "/".join([self.name, f"{row:06d}", *filter(None, [held.get("path")])])
        data = held.get("bytes")
        return Item(source, ValueError("no bytes in this row") if data is None else data,
                    len(data or b""), label, self.split)  # fmt: skip


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _features(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    try:
        found = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {n: f for n, f in found.items() if isinstance(f, dict)} if isinstance(found, dict) else {}
