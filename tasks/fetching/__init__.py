"""From `ingest.source`, a path or URL of any kind, to original image bytes in shards."""

import hashlib
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.fetching.checking import gather
from tasks.fetching.datasets import named, named_url
from tasks.fetching.downloading import download
from tasks.fetching.files import file_names, folder, tarred, zipped
from tasks.fetching.pairing import TWO_FILES
from tasks.fetching.remote import is_remote
from tasks.fetching.source import Source
from tasks.fetching.tables import parquet
from tasks.opening import SUFFIXES
from tasks.params import IngestParams

DOWNLOAD = "download"


def fetch(params: IngestParams, work: Path) -> Path:
    """The local file or folder of a source; what lies at a URL is fetched into `work`, and gone on with.

    Raises UserError if it is missing, and PassingError, which is worth a retry, if a download fails.
    """
    url, watched = params.source, True
    if Path(url).suffix.lower() in (".yaml", ".yml") and not is_remote(url) and Path(url).is_file():
        url, watched = named_url(Path(url)) or url, False
    if is_remote(url):
        if watched == (params.revision is not None):
            raise UserError(
                f"ingest.revision: DVC itself tells when {url} changes; set it to null."
                if watched
                else f"ingest.revision: DVC watches {params.source}, not the URL in it, so give the revision "
                "that is meant: a commit or tag for hf://, else any word; another one fetches again."
            )
        # Another URL or revision is another source, though the recipe is the same.
        told = hashlib.sha256(f"{url} {params.revision}".encode()).hexdigest()[:16]
        return download(url, params.revision, work / DOWNLOAD / told, max_bytes(params))
    if params.revision is not None:
        raise UserError("ingest.revision: only a file with a `url:` has revisions; set it to null.")
    path = Path(url).expanduser()
    if not path.exists():
        raise UserError(f"ingest.source: {url}: not found. Give a folder, file or URL that exists.")
    return path


def keep(path: Path, folder: Path, params: IngestParams, workers: int | None = None) -> dict[str, Any]:
    """Write what lies at `path` as shards of original bytes and rejects.parquet to `folder`.

    Returns the facts of its index. Raises UserError if it holds no or too few usable images.
    """
    for old in folder.glob("*.parquet"):
        old.unlink()  # of a try that was cut off
    facts = gather(look(path, params), folder, params, workers)
    shutil.rmtree(folder / DOWNLOAD, ignore_errors=True)
    return facts


def look(path: Path, params: IngestParams) -> Source:
    """List a source of whatever kind it is, told by its content before its name.

    Raises UserError if it is of no kind that is read, corrupt, or holds no images.
    """
    source = _listed(path, params)
    if params.pairs in TWO_FILES and not source.paired:
        raise UserError(
            f"ingest.source: {path}: of {source.description} no files can be paired "
            f"(ingest.pairs: {params.pairs}). Give a folder or a zip archive, or set it to null."
        )
    return source


def _listed(path: Path, params: IngestParams) -> Source:
    most = max_bytes(params)
    suffix = path.suffix.lower()
    if path.is_dir():
        names = file_names(path)
        suffixes = {os.path.splitext(name)[1].lower() for name in names}  # noqa: PTH122
        tables = ".parquet" in suffixes and SUFFIXES.isdisjoint(suffixes)
        return parquet(path, params.allow_synthetic) if tables else folder(path, names, most, params.pairs)
    if suffix in (".yaml", ".yml"):
        return named(path)
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic == b"PAR1" or suffix == ".parquet":
        return parquet(path, params.allow_synthetic)
    if magic in (b"PK\x03\x04", b"PK\x05\x06") or suffix == ".zip":
        return zipped(path, most, params.pairs)
    if suffix in (".tar", ".tgz", ".gz", ".xz", ".bz2") or tarfile.is_tarfile(path):
        return tarred(path, most)
    raise UserError(
        f"ingest.source: {path}: of no kind that is read. Give a folder of class folders, a .zip, .tar or "
        ".tar.gz of one, Parquet in the Hugging Face image layout, or a file such as "
        "data/sources/mnist5k.yaml."
    )


def max_bytes(params: IngestParams) -> int:
    """No file of max_pixels is larger: eight bytes hold a pixel of four 16-bit channels."""
    return 8 * params.max_pixels + (1 << 20)


def anywhere(params: IngestParams) -> dict[str, Any]:
    """What a recipe holds of the params: all but where the source lies, which decides no byte."""
    return params.model_dump(mode="json", exclude={"source"})
