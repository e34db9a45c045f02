"""From `ingest.source`, a path or URL of any kind, to original image bytes in shards."""

import http.client
import shutil
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tasks.errors import PassingError, UserError
from tasks.fetching.checking import gather
from tasks.fetching.datasets import named
from tasks.fetching.files import folder, tarred, zipped
from tasks.fetching.source import Source
from tasks.fetching.tables import parquet
from tasks.opening import SUFFIXES
from tasks.params import IngestParams

TIMEOUT_SECONDS = 60
DOWNLOAD = "download"


def fetch(source: str, work: Path) -> Path:
    """The local file or folder of a source; a URL is downloaded into `work`.

    Raises UserError if it is missing, and PassingError, which is worth a retry, if a download fails.
    """
    if urlsplit(source).scheme not in ("http", "https"):
        path = Path(source).expanduser()
        if not path.exists():
            raise UserError(f"ingest.source: {source}: not found. Give a folder, file or URL that exists.")
        return path
    target = work / DOWNLOAD / (Path(unquote(urlsplit(source).path)).name or "file")
    target.parent.mkdir(exist_ok=True)
    try:
        with urllib.request.urlopen(source, timeout=TIMEOUT_SECONDS) as answer, open(target, "wb") as file:
            shutil.copyfileobj(answer, file)
            expected = int(answer.headers.get("Content-Length") or file.tell())
            if file.tell() != expected:
                raise ConnectionError(f"{file.tell():,} of {expected:,} bytes came")
    except (OSError, http.client.HTTPException, ValueError) as error:
        final = (
            isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code not in (408, 429)
        )
        raise (UserError if final else PassingError)(
            f"ingest.source: {source}: not downloaded ({error}).\n"
            "Check the URL and the network, or download it yourself and give the file's path."
        ) from None
    return target


def keep(path: Path, folder: Path, params: IngestParams, workers: int | None = None) -> dict[str, Any]:
    """Write what lies at `path` as shards of original bytes and rejects.parquet to `folder`.

    Returns the facts of its index. Raises UserError if it holds no or too few usable images.
    """
    facts = gather(look(path, params), folder, params, workers)
    shutil.rmtree(folder / DOWNLOAD, ignore_errors=True)
    return facts


def look(path: Path, params: IngestParams) -> Source:
    """List a source of whatever kind it is, told by its content before its name.

    Raises UserError if it is of no kind that is read, corrupt, or holds no images.
    """
    # No file of max_pixels is larger: eight bytes hold a pixel of four 16-bit channels.
    max_bytes = 8 * params.max_pixels + (1 << 20)
    suffix = path.suffix.lower()
    if path.is_dir():
        files = [p.suffix.lower() for p in path.rglob("*")]
        tables = ".parquet" in files and SUFFIXES.isdisjoint(files)
        return parquet(path, params.allow_synthetic) if tables else folder(path, max_bytes)
    if suffix in (".yaml", ".yml"):
        return named(path)
    with open(path, "rb") as file:
        magic = file.read(4)
    if magic == b"PAR1" or suffix == ".parquet":
        return parquet(path, params.allow_synthetic)
    if magic in (b"PK\x03\x04", b"PK\x05\x06") or suffix == ".zip":
        return zipped(path, max_bytes)
    if suffix in (".tar", ".tgz", ".gz", ".xz", ".bz2") or tarfile.is_tarfile(path):
        return tarred(path, max_bytes)
    raise UserError(
        f"ingest.source: {path}: of no kind that is read. Give a folder of class folders, a .zip, .tar or "
        ".tar.gz of one, Parquet in the Hugging Face image layout, or a file such as "
        "data/sources/mnist5k.yaml."
    )


def anywhere(params: IngestParams) -> dict[str, Any]:
    """What a recipe holds of the params: all but where the source lies, which decides no byte."""
    return params.model_dump(mode="json", exclude={"source"})
