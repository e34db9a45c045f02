"""A download that is cut goes on from where it ended; what was fetched whole is not fetched again."""

from contextvars import ContextVar

import pytest

from tasks import fetching, progress
from tasks.errors import PassingError
from tasks.fetching import downloading, remote
from tasks.params import IngestParams
from tests import pictures as p
from tests.tasks.fetching import conftest

DATA = bytes(range(256)) * 400
RUN: ContextVar[str] = ContextVar("RUN", default="")


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch):
    monkeypatch.setattr(downloading, "BLOCK", 10_000)
    monkeypatch.setattr(remote, "BLOCK", 10_000)
    monkeypatch.setattr(downloading, "PAUSES", (0.0, 0.0))


def fetched(source, home):
    return fetching.fetch(IngestParams(source=source), home)


@pytest.fixture
def told(monkeypatch):
    """What watchers are told: how many bytes, and the value of `RUN` where they are told it."""
    found = []
    monkeypatch.setattr(progress, "WATCH_SECONDS", 0)
    monkeypatch.setattr(progress, "watchers", [lambda bar: found.append((bar.done, RUN.get()))])
    return found


def gets(web):
    return [part for verb, _, part in web.asked if verb == "GET"]


def test_a_break_is_gone_on_from(tmp_path, web):
    (web.folder / "in.zip").write_bytes(DATA)
    web.breaks = [50_000]
    assert fetched(f"{web.url}/in.zip", tmp_path).read_bytes() == DATA
    first, second = gets(web)
    assert first is None
    assert 0 < int(second[6:-1]) <= 50_000


def test_a_byte_is_counted_once_however_often_it_breaks(tmp_path, web, told):
    (web.folder / "in.zip").write_bytes(DATA)
    web.breaks = [50_000, 30_000]
    fetched(f"{web.url}/in.zip", tmp_path)
    assert len(gets(web)) == 3
    assert max(told)[0] == told[-1][0] == len(DATA)


def test_what_a_stopped_run_had_fetched_whole_is_counted(tmp_path, web, told, monkeypatch):
    (web.folder / "in.zip").write_bytes(DATA)
    with monkeypatch.context() as patch:
        patch.setattr(downloading.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("not now")))
        with pytest.raises(OSError, match="not now"):
            fetched(f"{web.url}/in.zip", tmp_path)
    assert told[-1][0] == 0
    assert fetched(f"{web.url}/in.zip", tmp_path).read_bytes() == DATA
    assert len(gets(web)) == 1
    assert told[-1][0] == len(DATA)


def test_watchers_are_told_in_the_context_of_the_run(tmp_path, web, told):
    (web.folder / "in.zip").write_bytes(DATA)
    token = RUN.set("ours")
    try:
        fetched(f"{web.url}/in.zip", tmp_path)
    finally:
        RUN.reset(token)
    assert len(told) > 2
    assert {run for _, run in told} == {"ours"}


@pytest.mark.parametrize("web", [conftest.Web], indirect=True)
def test_a_web_server_without_parts_is_read_from_the_start(tmp_path, web):
    (web.folder / "in.zip").write_bytes(DATA)
    web.breaks = [50_000]
    assert fetched(f"{web.url}/in.zip", tmp_path).read_bytes() == DATA
    assert len(gets(web)) == 2


def test_the_next_run_goes_on_too(tmp_path, web):
    (web.folder / "in.zip").write_bytes(DATA)
    web.breaks = [20_000, 20_000, 20_000]
    with pytest.raises(PassingError):
        fetched(f"{web.url}/in.zip", tmp_path)
    (partial,) = tmp_path.rglob("*.partial")
    assert 20_000 < partial.stat().st_size <= 60_000
    assert fetched(f"{web.url}/in.zip", tmp_path).read_bytes() == DATA
    assert int(gets(web)[-1][6:-1]) == 60_000


def test_whole_files_are_not_fetched_again_and_changed_ones_are(tmp_path, s3, monkeypatch):
    for n in range(5):
        s3.put_object(Bucket="photos", Key=f"set/a/{n}.png", Body=p.picture(n))
    tried = []
    copy = downloading.Fetching._copy
    monkeypatch.setattr(
        downloading.Fetching, "_copy", lambda self, f, at: (tried.append(f.name), copy(self, f, at))
    )
    fetched("s3://photos/set", tmp_path)
    assert sorted(tried) == [f"a/{n}.png" for n in range(5)]
    s3.put_object(Bucket="photos", Key="set/a/3.png", Body=p.picture(9))
    s3.put_object(Bucket="photos", Key="set/a/7.png", Body=p.picture(7))
    s3.delete_object(Bucket="photos", Key="set/a/0.png")
    tree = fetched("s3://photos/set", tmp_path)
    assert sorted(tried[5:]) == ["a/3.png", "a/7.png"]
    assert {f.name: f.read_bytes() for f in (tree / "a").iterdir()} == {
        f"{n}.png": p.picture(9 if n == 3 else n) for n in (1, 2, 3, 4, 7)
    }


def test_a_cut_in_a_bucket_is_gone_on_from(tmp_path, s3, monkeypatch):
    s3.put_object(Bucket="photos", Key="in.zip", Body=DATA)
    opened = []
    open_at = remote.Host.open

    def unsteady(self, file, at):
        opened.append(at)
        found, at = open_at(self, file, at)
        if len(opened) < 3:
            read, left = found.read, [2]

            def breaking(count):
                left[0] -= 1
                if left[0] < 0:
                    raise TimeoutError("it came and went")
                return read(count)

            found.read = breaking
        return found, at

    monkeypatch.setattr(remote.Host, "open", unsteady)
    assert fetched("s3://photos/in.zip", tmp_path).read_bytes() == DATA
    assert opened == [0, 20_000, 40_000]


def test_memory_holds_a_block_and_not_the_file(tmp_path, s3, monkeypatch):
    s3.put_object(Bucket="photos", Key="in.zip", Body=DATA)
    sizes = []
    open_at = remote.Host.open

    def watched(self, file, at):
        found, at = open_at(self, file, at)
        fetch = found._fetch_range
        found._fetch_range = found.cache.fetcher = lambda start, end: (
            sizes.append(end - start),
            fetch(start, end),
        )[1]
        return found, at

    monkeypatch.setattr(remote.Host, "open", watched)
    fetched("s3://photos/in.zip", tmp_path)
    assert max(sizes) == 10_000
    assert len(sizes) == 11


def test_a_full_disk_is_not_called_a_broken_network(tmp_path, web, monkeypatch):
    (web.folder / "in.zip").write_bytes(DATA)
    monkeypatch.setattr(
        downloading.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space left"):
        fetched(f"{web.url}/in.zip", tmp_path)
