"""A remote source brought here a block at a time, and gone on with after a cut.

What was fetched lies in `store`, under a name made of the file's path, size and version, so that what
is still the same is not fetched twice; `tree` shows it under the source's own names.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from tasks.errors import PassingError
from tasks.fetching.files import inside
from tasks.fetching.remote import AT_ONCE, BLOCK, Host, Remote
from tasks.opening import SUFFIXES
from tasks.progress import Progress

PAUSES = (1.0, 4.0)  # between the tries of one file; after that the flow tries again


def download(url: str, revision: str | None, home: Path, max_bytes: int) -> Path:
    """The file or folder at a URL as one below `home`; of a folder, what would be read of it.

    Other files, and images of more than `max_bytes`, have a stand-in of their size that takes no space.
    Raises UserError in plain words; PassingError if another try may go on where this one ended.
    """
    host = Host(url, revision)
    files = host.files()
    chosen, limit = files, None
    if host.is_folder:
        images = [f for f in files if f.suffix in SUFFIXES]
        chosen = images or [f for f in files if f.suffix == ".parquet"]
        limit = max_bytes if images else None
    wanted = [f for f in chosen if limit is None or (f.size or 0) <= limit]
    shutil.rmtree(home / "tree", ignore_errors=True)
    (home / "store").mkdir(parents=True, exist_ok=True)
    fetch_all(host, wanted, home / "store", limit)
    here = {f.key for f in wanted}
    for file in files:
        place = home / "tree" / inside(url, file.name)
        place.parent.mkdir(parents=True, exist_ok=True)
        if file.key in here:
            place.symlink_to((home / "store" / file.key).resolve())
        else:
            place.touch()
            os.truncate(place, file.size or 0)
    return home / "tree" if host.is_folder else place


def fetch_all(host: Host, files: list[Remote], store: Path, limit: int | None = None) -> None:
    """Fetch files side by side into `store`, at most `limit` bytes of each. One that fails stops all."""
    pool = ThreadPoolExecutor(AT_ONCE)
    total = sum(file.size or 0 for file in files)
    with Progress("ingest, fetching", total, unit="MB", each=1 << 20) as progress:
        fetching = Fetching(host, store, limit, progress)
        try:
            # Whoever watches progress knows its run, and the run's server, by the context.
            jobs = [pool.submit(copy_context().run, fetching.one, file) for file in files]
            for job in wait(jobs, return_when=FIRST_EXCEPTION).done:
                job.result()
        finally:
            fetching.stop.set()
            pool.shutdown(cancel_futures=True)


@dataclass
class Fetching:
    """What all fetched files share; `stop` ends them at the next block."""

    host: Host
    store: Path
    limit: int | None
    progress: Progress
    stop: Event = field(default_factory=Event)

    def one(self, file: Remote) -> None:
        """Fetch a file, in several tries if its host stumbles, each from where the last one ended."""
        place = self.store / file.key
        if file.version and place.is_file():
            self.progress.add(place.stat().st_size)
            return
        for pause in (*PAUSES, None):
            try:
                return self._copy(file, place)
            except PassingError:
                if pause is None or self.stop.wait(pause):
                    raise

    def _copy(self, file: Remote, place: Path) -> None:
        partial = place.with_suffix(".partial")
        with self._counting() as count:
            with open(partial, "ab") as local:
                # Without a version nobody can tell whether the rest belongs to what is there.
                at = local.tell() if file.version else 0
                count(at)
                if at == 0 or at != file.size:
                    with self.host.plainly(file):
                        remote, at = self.host.open(file, at)
                    local.truncate(at)
                    count(at)
                    with remote:
                        while not self.stop.is_set() and (self.limit is None or at <= self.limit):
                            with self.host.plainly(file):
                                block = remote.read(BLOCK)
                            if not block:
                                break
                            at += local.write(block)
                            count(at)
                os.fsync(local.fileno())
            if self.stop.is_set():
                return
            if file.size is not None and at != file.size:
                if at > file.size:
                    partial.unlink()
                with self.host.plainly(file):
                    raise ConnectionError(f"{at:,} of {file.size:,} bytes came")
            os.replace(partial, place)

    @contextmanager
    def _counting(self) -> Iterator[Callable[[int], None]]:
        """A function that is told how many bytes of a file are here; the next try counts them anew."""
        counted = 0

        def count(at: int) -> None:
            nonlocal counted
            self.progress.add(at - counted)
            counted = at

        try:
            yield count
        except BaseException:
            count(0)
            raise
