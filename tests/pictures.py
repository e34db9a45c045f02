"""Encoded images and folders of them, for tests of ingest and preprocess."""

import io
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tasks import fetching, imaging, splitting
from tasks.params import IngestParams, PreprocessParams
from tasks.shards import seal


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


def ingested(source: Path, out: Path, workers: int = 1, **params) -> Path:
    """The ingest stage without its flow: a sealed folder."""
    out.mkdir(parents=True)
    chosen = IngestParams(source=str(source), **params)
    return seal(out, **fetching.keep(fetching.fetch(str(source), out), out, chosen, workers))


def preprocessed(raw: Path, out: Path, workers: int = 1, **params) -> Path:
    """The preprocess stage without its flow: a sealed folder of three."""
    out.mkdir(parents=True)
    chosen = PreprocessParams(**{"size": 16, "channels": 3, **params})
    spool = imaging.spool(raw, out.with_name(f"{out.name}.spool"), chosen, workers)
    return seal(out, **splitting.split(spool, out, raw, chosen))
