"""Export: kept images, the manifest of every sample ever drawn, and the card, as one dataset folder.

The folder is self-contained and in the Hugging Face layout: `datasets`, pandas, DuckDB and Polars
read it as it is. Samples are streamed, so memory holds one synthetic and one exported shard.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.errors import UserError
from tasks.params import ExportParams
from tasks.shards import IMAGE, Shards, read_shard, spans, write_shard

DRAWN = ["id", "label", "sha256", "family", "seed", "source_ids", "family_score"]
SYNTHETIC_MARK = {b"synthetic": b"true"}
FACTS = b"mintage"


@dataclass(frozen=True)
class Source:
    """A sealed synthetic set and the scores of the same samples, shard for shard."""

    drawn: Shards
    scores: Path

    @classmethod
    def open(cls, synthetic: Path, scores: Path) -> "Source":
        """Open both. Raises UserError if either is unsealed or they hold different shards."""
        drawn, scored = Shards.open(synthetic), Shards.open(scores).index["shards"]
        if scored != drawn.index["shards"]:
            raise UserError(
                f"{scores}: scores {len(scored)} shards, but {synthetic} holds {len(drawn.paths)}. "
                "Run `dvc repro filter`."
            )
        return cls(drawn, scores)

    def kept(self) -> int:
        """How many samples the filter kept. Raises UserError if it kept none: there is nothing to export."""
        columns = [self._scores(path, ["kept"])["kept"] for path in self.drawn.paths]
        kept = sum(pc.sum(column).as_py() or 0 for column in columns)
        if not kept:
            raise UserError(
                f"{self.scores}: kept 0 of {self.drawn.rows:,} samples, so there is nothing to export.\n"
                "Its metrics.json counts the reasons; train longer, or loosen `filter` in params.yaml."
            )
        return kept

    def pairs(self) -> Iterator[tuple[str, pa.Table, pa.Table]]:
        """Each shard's name, samples and scores, row by row the same. Raises UserError if they aren't."""
        for path in self.drawn.paths:
            samples, scores = read_shard(path), self._scores(path)
            if samples["id"].to_pylist() != scores["id"].to_pylist():
                raise UserError(
                    f"{self.scores / path.name}: scores other samples than {path}. Run `dvc repro filter`."
                )
            _check(path, samples, scores)
            yield path.name, samples, scores

    def _scores(self, path: Path, columns: list[str] | None = None) -> pa.Table:
        return read_shard(self.scores / path.name, columns)


def recommended(report: Path) -> float | None:
    """How many synthetic images evaluate recommends for each real one; None if it could not tell.

    Raises UserError if the report can't be read.
    """
    path = report / "metrics.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("recommendation") or {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable ({error}). Run `dvc repro`, which makes it.") from None
    return found.get("ratio")


def write_samples(
    source: Source, params: ExportParams, folder: Path, ratio: float | None = None
) -> dict[str, int]:
    """Write `images/` and `manifest.parquet` into `folder`.

    Their metadata tell the recommended `ratio`, and what the samples were computed on: with that alone the
    same seeds give the same bytes again.
    Returns how many were drawn and kept, and how many files hold the kept ones.
    Raises UserError if samples and scores disagree, or if a kept image's bytes have changed.
    """
    kept = source.kept()
    count = len(spans(kept, params.shard_size))
    files = [image_name(n, count) for n in range(count)]
    told = {
        "recommended_synthetic_per_real": ratio,
        "environment": source.drawn.index.get("environment", {}),
    }
    marks = {**SYNTHETIC_MARK, FACTS: json.dumps(told).encode()}
    (folder / "images").mkdir()
    waiting: list[pa.Table] = []
    placed = written = 0
    manifest: pq.ParquetWriter | None = None
    for name, samples, scores in source.pairs():
        rows = manifest_rows(source, name, samples, scores, placed, files, params.shard_size)
        rows = described(rows, source.drawn.classes, marks)
        if manifest is None:
            manifest = pq.ParquetWriter(folder / "manifest.parquet", rows.schema, compression="zstd")
        manifest.write_table(rows, row_group_size=10_000)
        images = image_rows(samples.filter(scores["kept"]), image_columns(source.drawn))
        waiting.append(described(images, source.drawn.classes, marks))
        placed += waiting[-1].num_rows
        while placed - written >= params.shard_size or (placed == kept and written < kept):
            ready = pa.concat_tables(waiting)
            write_shard(folder / files[written // params.shard_size], ready.slice(0, params.shard_size))
            written += min(params.shard_size, ready.num_rows)
            waiting = [ready.slice(params.shard_size)]
    if manifest is not None:
        manifest.close()
    return {"drawn": source.drawn.rows, "kept": kept, "files": count}


def image_name(number: int, of: int) -> str:
    """The name of an exported file of images, which tells the split and how many there are."""
    return f"images/train-{number:05d}-of-{of:05d}.parquet"


def image_columns(drawn: Shards) -> dict[str, str]:
    """The columns of the exported images and their types; sources and conditions if the samples have any."""
    columns = {"id": "string", "image": "image", "label": "int64", "sha256": "string"}
    if drawn.index.get("parents"):
        columns |= {"source_ids": "string"}
    return columns | ({"condition": "image"} if drawn.condition else {})


def image_rows(kept: pa.Table, columns: Iterable[str]) -> pa.Table:
    """These columns of the kept samples: what a classifier trains on, its key, and what it was made from."""
    rows = {name: kept[name] for name in columns} | {"label": kept["label"].cast(pa.int64())}
    return pa.table(rows)


def manifest_rows(
    source: Source,
    shard: str,
    samples: pa.Table,
    scores: pa.Table,
    placed: int,
    files: list[str],
    shard_size: int,
) -> pa.Table:
    """Everything known of a shard's samples but their pixels; `placed` were kept in earlier shards."""
    kept = scores["kept"].to_pylist()
    index, classes = source.drawn.index, source.drawn.classes
    places: list[int | None] = []
    for keep in kept:
        places.append(placed if keep else None)
        placed += keep
    label = samples["label"].to_pylist()
    columns: dict[str, Any] = {
        "id": samples["id"],
        "shard": pa.array([None if p is None else files[p // shard_size] for p in places], pa.string()),
        "row": pa.array([None if p is None else p % shard_size for p in places], pa.int64()),
        "source_shard": pa.array([shard] * len(kept), pa.string()),
        "class": pa.array([classes[n] if n is not None and classes else None for n in label], pa.string()),
        "checkpoint": pa.array([index.get("checkpoint")] * len(kept), pa.string()),
        "recipe": pa.array([index.get("recipe")] * len(kept), pa.string()),
    }
    columns |= {name: samples[name] for name in DRAWN if name not in columns}
    columns["label"] = columns["label"].cast(pa.int64())
    columns |= {name: scores[name] for name in scores.column_names if name not in columns}
    return pa.table(columns)


def _check(path: Path, samples: pa.Table, scores: pa.Table) -> None:
    """Hold what the filter said, and the bytes that generate sealed, against what is about to go out."""
    for row, (kept, reason) in enumerate(
        zip(scores["kept"].to_pylist(), scores["reason"].to_pylist(), strict=True)
    ):
        if kept is None or bool(kept) == (reason is not None):
            raise UserError(
                f"{path}: row {row}: kept is {kept} and its reason {reason!r}, which contradict. "
                "Run `dvc repro filter`."
            )
    going = samples.filter(scores["kept"]).select(["id", "image", "sha256"])
    for sample in going.to_pylist():
        if hashlib.sha256(sample["image"]["bytes"]).hexdigest() != sample["sha256"]:
            raise UserError(
                f"{path}: sample {sample['id']}: its image's bytes have changed since they were drawn. "
                "Remove the folder and run `dvc repro generate`."
            )


def described(table: pa.Table, classes: list[str], marks: Mapping[bytes, bytes]) -> pa.Table:
    """Say in the schema what each column is, for `datasets`, and the `marks` that hold for all of it."""
    features = {field.name: _feature(field, classes) for field in table.schema}
    facts = json.dumps({"info": {"features": features}}, ensure_ascii=False)
    return table.replace_schema_metadata({b"huggingface": facts.encode(), **marks})


def _feature(field: pa.Field, classes: list[str]) -> dict[str, Any]:
    if field.type == IMAGE:
        return {"_type": "Image"}
    if field.name == "label" and classes:
        return {"_type": "ClassLabel", "names": classes}
    if pa.types.is_list(field.type):
        return {"_type": "List", "feature": _feature(field.type.value_field.with_name("item"), [])}
    names = {"halffloat": "float16", "float": "float32", "double": "float64"}
    return {"_type": "Value", "dtype": names.get(str(field.type), str(field.type))}
