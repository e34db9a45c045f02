"""Image files in folders and in archives; archives are read in place, never unpacked to disk."""

import os
import posixpath
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.errors import UserError, first_line
from tasks.fetching.pairing import TWO_FILES, match, refuse_none, unpaired
from tasks.fetching.source import Item, Reject, Source, arrange, in_order
from tasks.opening import FOREIGN, SUFFIXES

# What zipfile and tarfile raise on bytes that are no archive, or are packed in a way they can't read.
BROKEN_ARCHIVE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
)


@dataclass(frozen=True)
class Found:
    """A file of a source: its path there, its size, and what is wrong with it, if anything."""

    path: str
    size: int
    wrong: Reject | None = None


def folder(root: Path, names: list[str], max_bytes: int, pairs: str | None = None) -> Source:
    """List a folder of class folders by its `file_names`. Raises UserError if it holds no images."""
    found = list(_walk(root, names))
    ours = {f.path: root / name for f, name in found}
    return _source(
        "folder of images", root, [f for f, _ in found], max_bytes, lambda f: ours[f.path], pairs=pairs
    )


def file_names(root: Path) -> list[str]:
    """All files below a folder, as paths that the file system knows them by, in order."""
    top = os.fspath(root)
    names: list[str] = []
    seen = set()
    for here, folders, files in os.walk(top, followlinks=True):
        # A linked folder is welcome, once: links can make a loop.
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        below = "" if here == top else os.path.relpath(here, top) + os.sep
        names += [below + name for name in files]
    return sorted(names)


def _walk(root: Path, names: list[str]) -> Iterator[tuple[Found, str]]:
    """What there is under each name."""
    top = os.fspath(root)
    for name in names:
        # A name in an old encoding can't be written to Parquet as it is.
        text = os.fsencode(name).decode("utf-8", "replace").replace(os.sep, "/")
        try:
            status = os.stat(os.path.join(top, name))  # noqa: PTH116, PTH118  (a Path for each is slow)
        except OSError as error:
            yield Found(text, 0, Reject(text, "unreadable", error.strerror or "")), name
            continue
        if stat.S_ISREG(status.st_mode):
            yield Found(text, status.st_size), name


def zipped(path: Path, max_bytes: int, pairs: str | None = None) -> Source:
    """List a zip archive. Raises UserError if it is corrupt, locked, or holds paths that lead out of it."""
    try:
        archive = zipfile.ZipFile(path)
    except BROKEN_ARCHIVE as error:
        raise _corrupt(path, error) from None
    members = {}
    for info in archive.infolist():
        if info.is_dir():
            continue
        name = inside(path, info.filename.replace("\\", "/"))
        if info.flag_bits & 1:
            raise UserError(
                f"ingest.source: {path}: member {name!r} is encrypted. Repack the archive without a password."
            )
        kind = stat.S_IFMT(info.external_attr >> 16)
        wrong = None
        if kind not in (0, stat.S_IFREG):
            wrong = Reject(name, "link", "not a plain file in the archive")
        members[name] = (Found(name, info.file_size, wrong), info)

    def read(found: Found) -> bytes | Exception:
        # The declared size bounds what is read: zipfile stops there, and its checksum then fails.
        try:
            return archive.read(members[found.path][1])
        except BROKEN_ARCHIVE as error:
            return error

    listed = [members[name][0] for name in sorted(members)]
    return _source("zip archive", path, listed, max_bytes, read, pairs=pairs)


def tarred(path: Path, max_bytes: int) -> Source:
    """List a tar archive, packed or not. Raises UserError if it is corrupt or has paths that lead out."""
    listed = []
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                name = inside(path, member.name)
                if member.isdir():
                    continue
                plain = member.isreg()
                wrong = None if plain else Reject(name, "link", "not a plain file in the archive")
                listed.append(Found(name, member.size, wrong))
    except BROKEN_ARCHIVE as error:
        raise _corrupt(path, error) from None

    def walk() -> Iterator[Callable[[], bytes]]:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                if not member.isdir():
                    file = archive.extractfile(member) if member.isreg() else None
                    yield file.read if file else bytes

    return _source("tar archive", path, listed, max_bytes, walk=walk)


def inside(place: Path | str, name: str) -> str:
    """A file's name in an archive or elsewhere, tidied; one that leads out of its folder is refused."""
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in name.split("/"):
        raise UserError(
            f"ingest.source: {place}: member {name!r} leads out of its folder. Nothing was unpacked.\n"
            "Repack it with relative paths and without '..', or use another source."
        )
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _corrupt(path: Path, error: Exception) -> UserError:
    return UserError(
        f"ingest.source: {path}: corrupt, cut short, or not an archive ({first_line(error)}). "
        "Fetch or pack it again; zip, tar and tar.gz are read."
    )


def _source(
    description: str,
    root: Path,
    found: list[Found],
    max_bytes: int,
    read: Callable[[Found], bytes | Path | Exception] | None = None,
    walk: Callable[[], Iterator[Callable[[], bytes]]] | None = None,
    pairs: str | None = None,
) -> Source:
    """Sort files into images, rejects and others, and give each image its class, split and partner.

    `read` gets one file; where files can only be read in turn, `walk` gives a reader for each.
    """
    rejects: list[Reject] = []
    images, ignored = [], 0
    for n, file in enumerate(found):
        suffix = posixpath.splitext(file.path)[1].lower()
        hidden = file.path.startswith((".", "__MACOSX/")) or "/." in file.path or "/__MACOSX/" in file.path
        if hidden or suffix not in SUFFIXES | FOREIGN:
            ignored += 1
        else:
            images.append((n, file, suffix))
    if not images:
        others = f"{ignored:,} other files, such as {found[0].path}" if found else "nothing at all"
        raise UserError(
            f"ingest.source: {root}: holds no images; found {others}.\n"
            "Expected class folders with .jpg, .png, .webp, .bmp, .gif, .tif or .ppm files, or Parquet files."
        )
    partner: dict[int, Found] = {}
    if pairs in TWO_FILES:
        paths = [file.path for _, file, _ in images]
        found_pairs, alone = match(paths, pairs)
        if not found_pairs:
            raise refuse_none(root, paths, pairs)
        rejects += alone.values()
        partner = {images[n][0]: images[m][1] for n, m in found_pairs.items()}
        images = [images[n] for n in sorted(found_pairs)]
    places = arrange([unpaired(file.path, pairs) for _, file, _ in images])
    classes = in_order(p.name for p in places if p.name is not None)
    labels = {name: label for label, name in enumerate(classes)}
    wanted: dict[int, tuple[Found, str, int | None, str | None]] = {}
    for (n, file, suffix), place in zip(images, places, strict=True):
        other = partner.get(n)
        if wrong := file.wrong or (other and other.wrong):
            rejects.append(Reject(place.source, wrong.reason, wrong.detail))
        elif suffix in FOREIGN:
            rejects.append(Reject(place.source, "foreign", f"{suffix} is not read"))
        elif max(file.size, other.size if other else 0) > max_bytes:
            detail = f"{file.size:,} bytes, more than ingest.max_pixels can need"
            rejects.append(Reject(place.source, "too_large", detail))
        elif place.name is None and classes:
            rejects.append(Reject(place.source, "no_class", "not in a class folder, as others are"))
        else:
            label = None if place.name is None else labels[place.name]
            wanted[n] = (file, place.source, label, place.split)

    def items() -> Iterator[Item]:
        ours: Iterator[tuple[int, bytes | Path | Exception]]
        if walk is not None:
            ours = ((n, reader()) for n, reader in enumerate(walk()) if n in wanted)
        elif read is not None:
            ours = ((n, read(file)) for n, (file, *_) in wanted.items())
        for n, data in ours:
            file, source, label, split = wanted[n]
            beside = read(partner[n]) if read is not None and n in partner else None
            size = file.size + (partner[n].size if n in partner else 0)
            yield Item(source, data, size, label, split, beside)

    return Source(description, classes, len(wanted), items, rejects, ignored, pairs in TWO_FILES)
