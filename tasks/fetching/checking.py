"""Every image is decoded once before it is kept: broken, foreign, oversized and double ones are named."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
from PIL import UnidentifiedImageError

from tasks.errors import UserError
from tasks.fetching.pairing import differ
from tasks.fetching.source import Item, Reject, Source
from tasks.opening import open_image
from tasks.params import IngestParams
from tasks.progress import Progress
from tasks.shards import image_column, read_shard, sample_table, shard_name, write_shard
from tasks.workers import spread

BATCH_IMAGES, BATCH_BYTES = 128, 32 << 20
SHARD_BYTES = 256 << 20
REJECTS = pa.schema([(name, pa.string()) for name in ("source", "sha256", "reason", "detail")])


@dataclass(frozen=True)
class Kept:
    """An image that passed, and the shard and row it was written to."""

    item: Item
    sha256: str
    shard: int


class Good(NamedTuple):
    """An image that was decoded whole: its sha256, its bytes, and those of its partner, if it has one."""

    sha256: str
    data: bytes
    partner: bytes | None = None


def verify(job: tuple[list[Item], int]) -> list[Good | Reject]:
    """Decode a batch fully: what is good of it, or a Reject, for each. Never raises."""
    items, max_pixels = job
    return [_verify(item, max_pixels) for item in items]


def _verify(item: Item, max_pixels: int) -> Good | Reject:
    digest = None
    try:
        data = _bytes(item.data)
        digest = hashlib.sha256(data).hexdigest()
        partner = None if item.partner is None else _bytes(item.partner)
        if not data or partner == b"":
            return Reject(item.source, "empty", "0 bytes", digest)
        opened = [data] if partner is None else [data, partner]
        with ExitStack() as stack:
            images = [stack.enter_context(open_image(each)) for each in opened]
            width, height = max((image.size for image in images), key=math.prod)
            if width * height > max_pixels:
                detail = f"{width} x {height} pixels, more than ingest.max_pixels"
                return Reject(item.source, "too_large", detail, digest)
            if partner is not None and (apart := differ(*images)):
                return Reject(item.source, "unlike_sizes", apart, digest)
            for image in images:
                image.load()
        return Good(digest, data, partner)
    except UnidentifiedImageError:
        return Reject(item.source, "foreign", "none of the image formats that are read", digest)
    # Pillow's decoders raise SyntaxError, ValueError, struct.error, IndexError and more on bad bytes.
    except Exception as error:
        said = " ".join(str(error).split())[:120]
        return Reject(item.source, "broken", f"{type(error).__name__}: {said}", digest)


def _bytes(data: bytes | Path | Exception) -> bytes:
    if isinstance(data, Exception):
        raise data
    return data.read_bytes() if isinstance(data, Path) else data


def gather(source: Source, folder: Path, params: IngestParams, workers: int | None = None) -> dict[str, Any]:
    """Write a source's good images as shards to `folder`, the others to rejects.parquet.

    Returns the facts of the index. Raises UserError, naming the worst files, if too many are
    broken, a class is left empty, or nothing is left.
    """
    rejects = list(source.rejects)
    kept: list[Kept] = []
    with Progress("ingest", source.total) as progress:
        for number, (items, results) in enumerate(_shards(source, params, workers, rejects, progress)):
            write_shard(folder / shard_name(number), _table(items, results))
            kept += [Kept(_light(i), good.sha256, number) for i, good in zip(items, results, strict=True)]
    _refuse(params, kept, rejects)
    doubles = settle(kept)
    _drop(folder, kept, doubles)
    rejects += doubles.values()
    rejects.sort(key=lambda r: (r.source, r.reason))
    write_shard(folder / "rejects.parquet", pa.Table.from_pylist([vars(r) for r in rejects], REJECTS))
    left = [k for n, k in enumerate(kept) if n not in doubles]
    _refuse_empty(source, left, rejects)
    pairs = {"pairs": params.pairs} if params.pairs else {}
    return pairs | {
        "classes": source.classes,
        "synthetic": False,
        "source": source.description,
        "counts": {
            "accepted": len(left),
            "rejected": dict(sorted(Counter(r.reason for r in rejects).items())),
            "ignored": source.ignored,
        },
    }


def _light(item: Item) -> Item:
    return Item(item.source, b"", item.size, item.label, item.split)


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    size = 0
    for item in items:
        if batch and (len(batch) == BATCH_IMAGES or size + item.size > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += item.size
    if batch:
        yield batch


def _shards(
    source: Source, params: IngestParams, workers: int | None, rejects: list[Reject], progress: Progress
) -> Iterator[tuple[list[Item], list[Good]]]:
    """Cut what passes into shards of at most shard_size images and SHARD_BYTES; note what does not."""
    sent: list[list[Item]] = []

    def jobs() -> Iterator[tuple[list[Item], int]]:
        for batch in _batches(source.items()):
            sent.append([_light(item) for item in batch])
            yield batch, params.max_pixels

    items: list[Item] = []
    good: list[Good] = []
    size = 0
    for results in spread(verify, jobs(), source.total, workers):
        for item, result in zip(sent.pop(0), results, strict=True):
            if isinstance(result, Reject):
                rejects.append(result)
                continue
            if items and (
                len(items) == params.shard_size
                or size + len(result.data) + len(result.partner or b"") > SHARD_BYTES
            ):
                yield items, good
                items, good, size = [], [], 0
            items.append(item)
            good.append(result)
            size += len(result.data) + len(result.partner or b"")
        progress.add(len(results))
    if items:
        yield items, good


def _table(items: list[Item], results: list[Good]) -> pa.Table:
    names = [PurePosixPath(item.source).name for item in items]
    return sample_table(
        len(items),
        id=[good.sha256[:16] for good in results],
        image=image_column([good.data for good in results], names),
        condition=image_column([good.partner for good in results], names),
        label=[i.label for i in items],
        sha256=[good.sha256 for good in results],
        source=[i.source for i in items],
        split=[i.split for i in items],
    )


def settle(kept: list[Kept]) -> dict[int, Reject]:
    """Decide which copies of the same bytes go: position in `kept` -> why.

    A copy in a given test split (then: calibrate) stays and the others go; copies with
    different labels all go, as nobody can tell which label is right.
    """
    copies: dict[str, list[int]] = defaultdict(list)
    for n, k in enumerate(kept):
        copies[k.sha256[:16]].append(n)
    gone: dict[int, Reject] = {}

    def reject(n: int, reason: str, detail: str) -> None:
        gone[n] = Reject(kept[n].item.source, reason, detail, kept[n].sha256)

    for group in copies.values():
        if len(group) == 1:
            continue
        given = {kept[n].item.split for n in group}
        best = next((s for s in ("test", "calibrate") if s in given), None)
        if best is not None:
            inside = [n for n in group if kept[n].item.split == best]
            for n in group:
                if n not in inside:
                    reject(n, f"duplicate_of_{best}", kept[inside[0]].item.source)
        else:
            inside = group
        inside = sorted(inside, key=lambda n: kept[n].item.source)
        labels = {kept[n].item.label for n in inside}
        if len(labels) > 1:
            for n in inside:
                other = next(m for m in inside if kept[m].item.label != kept[n].item.label)
                reject(n, "conflicting_labels", kept[other].item.source)
        else:
            for n in inside[1:]:
                reject(n, "duplicate", kept[inside[0]].item.source)
    return gone


def _drop(folder: Path, kept: list[Kept], gone: dict[int, Reject]) -> None:
    """Write the shards that hold a double again, without it."""
    touched = {kept[n].shard for n in gone}
    stay: dict[int, list[bool]] = defaultdict(list)
    for n, k in enumerate(kept):
        if k.shard in touched:
            stay[k.shard].append(n not in gone)
    for number, mask in stay.items():
        path = folder / shard_name(number)
        write_shard(path, read_shard(path).filter(pa.array(mask)))


def _refuse(params: IngestParams, kept: list[Kept], rejects: list[Reject]) -> None:
    total = len(kept) + len(rejects)
    if not total:
        raise UserError("ingest.source: holds no images. Give one that has some.")
    if len(rejects) <= params.max_reject_fraction * total and kept:
        return
    raise UserError(
        f"ingest.source: {len(rejects):,} of {total:,} images are unusable "
        f"(ingest.max_reject_fraction is {params.max_reject_fraction:g}):{_worst(rejects)}\n"
        "Mend or remove them, or raise ingest.max_reject_fraction."
    )


def _refuse_empty(source: Source, left: list[Kept], rejects: list[Reject]) -> None:
    found = {k.item.label for k in left}
    empty = [name for label, name in enumerate(source.classes) if label not in found]
    if not left or empty:
        what = f"class {empty[0]!r} is" if len(empty) == 1 else f"classes {', '.join(empty[:5])} are"
        raise UserError(
            f"ingest.source: {what if empty else 'nothing is'} left empty after the check.{_worst(rejects)}\n"
            "Add usable images, or remove the class."
        )


def _worst(rejects: list[Reject]) -> str:
    """Three lines: the first files of the most frequent reasons."""
    reasons = Counter(r.reason for r in rejects).most_common(3)
    lines = []
    for reason, count in reasons:
        files = [r for r in rejects if r.reason == reason]
        detail = f" ({files[0].detail})" if files[0].detail else ""
        names = ", ".join(r.source for r in files[:3])
        lines.append(f"\n  {reason}: {count:,}, such as {names}{detail}"[:240])
    return "".join(lines)
