"""Encoded images, sources made of them, and what ingest and preprocess make of those."""

import io
import json
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tasks import fetching, imaging, splitting
from tasks.errors import UserError
from tasks.params import IngestParams, PreprocessParams
from tasks.shards import IMAGE, Shards, seal

SPLITS = ("train", "calibrate", "test")
CLASS_LABEL = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}


def noise(seed: int, size: int = 16, channels: int = 3) -> Image.Image:
    """An image of smooth noise; another seed is another image."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)
    return image if channels == 3 else image.convert("L")


def encoded(image: Image.Image, kind: str = "png", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(seed: int, kind: str = "png", size: int = 16) -> bytes:
    return encoded(noise(seed, size), kind)


def huge_png(side: int) -> bytes:
    """A PNG that declares side x side pixels, in a few bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(1_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def classes(each: int = 4, names: tuple[str, ...] = ("cat", "dog"), start: int = 0) -> dict[str, bytes]:
    """Class folders as a mapping of paths to bytes, every image another."""
    numbers = iter(range(start, start + each * len(names)))
    return {f"{name}/{n:03d}.png": picture(next(numbers)) for name in names for n in range(each)}


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def parquet(path: Path, images, labels=None, features=None, kind=None, **metadata) -> Path:
    """A file in the Hugging Face image layout; with `features`, its schema names the classes."""
    columns = {"image": pa.array([{"bytes": i, "path": f"{n}.png"} for n, i in enumerate(images)], IMAGE)}
    if labels is not None:
        columns["label"] = pa.array(labels, kind)
    table = pa.table(columns)
    if features:
        metadata["huggingface"] = json.dumps({"info": {"features": features}})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


def ingested(source: Path, out: Path, workers: int = 1, **params) -> Path:
    """The ingest stage without its flow: a sealed folder."""
    out.mkdir(parents=True)
    chosen = IngestParams(source=str(source), **params)
    return seal(out, **fetching.keep(fetching.fetch(chosen, out), out, chosen, workers))


def preprocessed(raw: Path, out: Path, workers: int = 1, **params) -> Path:
    """The preprocess stage without its flow: a sealed folder of three."""
    out.mkdir(parents=True)
    chosen = PreprocessParams(**{"size": 16, "channels": 3, **params})
    spool = imaging.spool(raw, out.with_name(f"{out.name}.spool"), chosen, workers)
    return seal(out, **splitting.split(spool, out, raw, chosen))


def made(
    tmp_path: Path, files: dict[str, bytes], name: str = "x", ingest: dict | None = None, **params
) -> Path:
    """Both stages, from files in a folder to three splits."""
    raw = ingested(write(tmp_path / f"{name}.in", files), tmp_path / f"{name}.raw", **ingest or {})
    return preprocessed(raw, tmp_path / f"{name}.real", **params)


def refused(source: Path, tmp_path: Path, **params) -> str:
    """What ingest says to a source that it refuses: a few lines."""
    with pytest.raises(UserError) as caught:
        ingested(source, tmp_path / "refused", **params)
    text = str(caught.value)
    assert len(text.splitlines()) <= 6
    return text


def rows(out: Path) -> list[dict]:
    return Shards.open(out).table(["id", "image", "label", "sha256", "source", "split"]).to_pylist()


def rejects(out: Path) -> dict[str, str]:
    """Source path -> reason of every image that was not kept."""
    table = pq.read_table(out / "rejects.parquet").to_pylist()
    return {row["source"]: row["reason"] for row in table}


def splits(out: Path) -> dict[str, str]:
    """Source path -> split of every image that was kept."""
    return {
        source: split
        for split in SPLITS
        for source in Shards.open(out / split).table(["source"])["source"].to_pylist()
    }
