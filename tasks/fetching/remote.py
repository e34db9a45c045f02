"""Files that lie elsewhere, as fsspec shows them: listed, opened at any byte, and errors in plain words."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from tasks.errors import PassingError, UserError, first_line

WEB = ("http", "https")
# What each other scheme needs: its package, the extra that brings that, and where credentials are looked for.
PACKAGES = {
    "s3": ("s3fs", "s3", "in AWS_PROFILE or AWS_ACCESS_KEY_ID; for a public bucket, FSSPEC_S3_ANON=true"),
    "gs": (
        "gcsfs",
        "gcs",
        "in GOOGLE_APPLICATION_CREDENTIALS; for a public bucket, FSSPEC_GS_TOKEN=anon",
    ),
    "hf": ("huggingface_hub", "hf", "in HF_TOKEN, or where `hf auth login` puts them"),
}
VERSIONS = ("ETag", "etag", "md5Hash", "xet_hash", "blob_id", "Content-MD5", "Last-Modified")
BLOCK = 8 << 20
AT_ONCE = 16
TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class Remote:
    """A file elsewhere: its path as fsspec has it, its name in the source, and what tells its version."""

    path: str
    name: str
    size: int | None
    version: str | None

    @property
    def suffix(self) -> str:
        """The end of its name, in small letters."""
        return PurePosixPath(self.name).suffix.lower()

    @property
    def key(self) -> str:
        """A file name that is another one for another version."""
        told = json.dumps([self.path, self.size, self.version])
        return hashlib.sha256(told.encode()).hexdigest()[:32]


def is_remote(source: str) -> bool:
    """Whether a source is a URL that is read here."""
    return urlsplit(source).scheme in (*WEB, *PACKAGES)


@dataclass(frozen=True)
class Host:
    """Where a URL leads: a file or a folder, in the state that `revision` names, if its host keeps any.

    What fails raises UserError in a line or two, and PassingError where another try may do.
    """

    url: str
    revision: str | None

    @property
    def scheme(self) -> str:
        """How it is reached."""
        return urlsplit(self.url).scheme

    @property
    def web(self) -> bool:
        """Whether it is a plain web server, which has no folders but pages of links."""
        return self.scheme in WEB

    @cached_property
    def system(self) -> Any:
        """Its file system in fsspec."""
        import fsspec

        options: dict[str, Any] = {}
        if self.web:
            import aiohttp

            # A large file takes its time, so only silence is limited.
            limits = aiohttp.ClientTimeout(
                total=None, sock_connect=TIMEOUT_SECONDS, sock_read=TIMEOUT_SECONDS
            )
            options = {"client_kwargs": {"trust_env": True, "timeout": limits}}
        try:
            return fsspec.filesystem(self.scheme, skip_instance_cache=True, **options)
        except ImportError:
            package, extra, _ = PACKAGES[self.scheme]
            raise UserError(
                f"ingest.source: {self.url}: the package {package} is missing, of the extra `{extra}`: "
                f"pip install {package}"
            ) from None

    @cached_property
    def root(self) -> str:
        """Its path there."""
        with self.plainly():
            if self.scheme == "hf":
                return self.system.resolve_path(self.url, revision=self.revision).unresolve()
            return self.system._strip_protocol(self.url)

    @cached_property
    def is_folder(self) -> bool:
        """Whether it holds files; on the web, whether it ends in a slash."""
        if self.web:
            return urlsplit(self.url).path.endswith("/")
        with self.plainly():
            return self.system.info(self.root)["type"] == "directory"

    def files(self) -> list[Remote]:
        """The file, or all files below the folder in order of name."""
        with self.plainly():
            if not self.is_folder:
                name = PurePosixPath(unquote(urlsplit(self.url).path)).name or "file"
                return [_remote(self.root, name, self.system.info(self.root))]
            start = self.root.rstrip("/") + "/"
            below = {p: i for p, i in self.system.find(self.root, detail=True).items() if not p.endswith("/")}
            if self.web:
                below = self._asked(start, below)
            found = [
                _remote(p, unquote(n) if self.web else n, info)
                for p, info in below.items()
                if (n := p.removeprefix(start))
            ]
            if not found:
                raise FileNotFoundError(self.root)
        return sorted(found, key=lambda file: file.name)

    def _asked(self, start: str, links: Mapping[str, Any]) -> dict[str, Any]:
        """A page of links tells no sizes, and has links that only sort it."""
        paths = [path for path in links if not {"?", "#"} & set(path.removeprefix(start))]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return dict(zip(paths, pool.map(self.system.info, paths), strict=True))

    def open(self, file: Remote, at: int) -> tuple[Any, int]:
        """A file to read from byte `at`; from 0 where a web server gives no parts, or has another version."""
        if not self.web:
            remote = self.system.open(file.path, block_size=BLOCK, cache_type="none")
            remote.seek(at)
            return remote, at
        headers = {"Accept-Encoding": "identity"}
        if at:
            headers |= {"Range": f"bytes={at}-", "If-Range": file.version or ""}
        # Without blocks it is one stream, and with a size it is not asked for that again.
        remote = self.system.open(file.path, block_size=0, size=file.size or 1, headers=headers)
        return remote, at if remote.r.status == 206 else 0

    @contextmanager
    def plainly(self, file: Remote | None = None) -> Iterator[None]:
        """Say in a line what the packages behind fsspec each say in their own way."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            cause = error.__cause__
            # fsspec's web files call whatever fails a missing file.
            masked = self.web and isinstance(error, FileNotFoundError) and isinstance(cause, Exception)
            raise self._plain(cause if masked else error, file) from None  # type: ignore[arg-type]

    def _plain(self, error: Exception, file: Remote | None) -> Exception:
        if type(error).__module__ == "builtins" and not isinstance(error, OSError | ValueError):
            return error  # a bug of ours
        said = first_line(error)
        where = f"ingest.source: {self.url}" + (f", {file.name}" if file and self.is_folder else "")
        status = _status(error)
        _, _, looked = PACKAGES.get(self.scheme, ("", "", ""))
        if isinstance(error, FileNotFoundError) or status == 404:
            private = f"; if it is not public, credentials are looked for {looked}" if looked else ""
            return UserError(f"{where}: not found ({said}). Check the name{private}.")
        if isinstance(error, PermissionError) or status in (401, 403) or "Credential" in type(error).__name__:
            return UserError(
                f"{where}: no credentials that may read it ({said}). "
                + (f"They are looked for {looked}." if looked else "Check the URL.")
            )
        final = 400 <= status < 500 and status not in (408, 429)
        return (UserError if final else PassingError)(
            f"{where}: not downloaded ({said}).\n"
            "Check the URL and the network, or download it yourself and give the file's path."
        )


def _remote(path: str, name: str, info: Mapping[str, Any]) -> Remote:
    return Remote(path, name, info.get("size"), next((str(info[v]) for v in VERSIONS if info.get(v)), None))


def _status(error: Exception) -> int:
    """The HTTP status that an error of any of the packages holds; 0: none."""
    answer = getattr(error, "response", None)
    told = [getattr(error, "status", 0), getattr(error, "code", 0), getattr(answer, "status_code", 0)]
    return next((status for status in told if isinstance(status, int) and status), 0)
