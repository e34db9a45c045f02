"""The ingest flow: from params to a sealed out, or to plain words and no out at all."""

import pytest

from flows import footer
from flows.ingest import ingest
from tasks import fetching
from tasks.errors import PassingError, UserError
from tasks.params import IngestParams, Machine
from tasks.shards import Shards
from tests import pictures as p

pytestmark = pytest.mark.usefixtures("prefect")


def test_ingest(tmp_path):
    p.write(tmp_path / "in", p.classes())
    out = ingest(IngestParams(source=str(tmp_path / "in")), tmp_path / "data/raw")
    assert out == tmp_path / "data/raw"
    assert Shards.open(out).rows == 8
    assert str(tmp_path) not in (out / "index.json").read_text()


@pytest.mark.parametrize("files", [{}, {"a/1.txt": b"x"}, {"a/1.png": b""}, {"a/1.png": p.huge_png(30_000)}])
def test_wrong_input_leaves_no_out(tmp_path, files):
    (tmp_path / "in").mkdir()
    p.write(tmp_path / "in", files)
    with pytest.raises(UserError, match=r"ingest\."):
        ingest(IngestParams(source=str(tmp_path / "in")), tmp_path / "data/raw")
    assert not (tmp_path / "data/raw").exists()


def test_a_failed_run_leaves_the_former_out_alone(tmp_path):
    source = p.write(tmp_path / "in", p.classes())
    out = ingest(IngestParams(source=str(source)), tmp_path / "data/raw")
    before = {f.name: f.read_bytes() for f in out.iterdir()}
    with pytest.raises(UserError):
        ingest(IngestParams(source=str(tmp_path / "nowhere")), tmp_path / "data/raw")
    assert {f.name: f.read_bytes() for f in out.iterdir()} == before


@pytest.mark.parametrize(("failures", "tries"), [(2, 3), (9, 3)])
def test_a_download_that_breaks_off_is_tried_again(tmp_path, monkeypatch, failures, tries):
    source, tried = p.write(tmp_path / "in", p.classes()), []

    def unsteady(_, work):
        tried.append(work)
        if len(tried) <= failures:
            raise PassingError("ingest.source: not downloaded")
        return source

    monkeypatch.setattr(footer, "RETRY_SECONDS", 0)
    monkeypatch.setattr(fetching, "fetch", unsteady)
    params = IngestParams(source="http://example.org/x.zip")
    if failures < tries:
        assert Shards.open(ingest(params, tmp_path / "data/raw", Machine(max_retries=2))).rows == 8
    else:
        with pytest.raises(UserError, match="not downloaded"):
            ingest(params, tmp_path / "data/raw", Machine(max_retries=2))
    assert len(tried) == tries


def test_what_was_fetched_is_there_when_the_same_command_runs_again(tmp_path, monkeypatch):
    source, found = p.write(tmp_path / "in", p.classes()), []

    def cut_off(_, work):
        found.append((work / "download/part").is_file())
        (work / "download").mkdir(exist_ok=True)
        (work / "download/part").write_bytes(b"fetched")
        if len(found) == 1:
            raise UserError("ingest.source: cut off")
        return source

    monkeypatch.setattr(fetching, "fetch", cut_off)
    params = IngestParams(source="http://example.org/x.zip")
    with pytest.raises(UserError, match="cut off"):
        ingest(params, tmp_path / "data/raw")
    out = ingest(params, tmp_path / "data/raw")
    assert found == [False, True]
    assert sorted(f.name for f in out.iterdir()) == ["index.json", "rejects.parquet", "shard-00000.parquet"]
