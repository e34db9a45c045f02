"""A source is found or downloaded, told by its content, and answered in plain words if it can't be used."""

import pytest

from tasks import fetching
from tasks.errors import UserError
from tasks.params import IngestParams
from tasks.shards import Shards
from tests import pictures as p
from tests.house import ROOT


def test_missing_source(tmp_path):
    text = p.refused(tmp_path / "nowhere", tmp_path)
    assert "ingest.source" in text
    assert "nowhere" in text


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "parquet", "yaml", "csv", ""])
def test_files_that_are_not_what_they_say(tmp_path, kind):
    source = tmp_path / f"in.{kind}"
    source.write_bytes(b"\x00\xffnothing of the kind" * 50)
    assert str(source) in p.refused(source, tmp_path)


def test_a_url_is_fetched_and_not_kept(tmp_path, web):
    p.write_zip(web.folder / "in.zip", p.classes())
    out = p.ingested(f"{web.url}/in.zip?download=1", tmp_path / "raw")
    assert sorted(f.name for f in out.iterdir()) == ["index.json", "rejects.parquet", "shard-00000.parquet"]
    assert Shards.open(out).rows == 8


def test_a_url_in_a_file_needs_its_revision(tmp_path, web):
    """DVC sees the file alone, so params.yaml has to say when its source is another."""
    p.write(web.folder / "in", p.classes())
    named = tmp_path / "web.yaml"
    named.write_text(f"url: {web.url}/in/")
    assert "DVC watches" in p.refused(named, tmp_path)
    assert Shards.open(p.ingested(named, tmp_path / "raw", revision="1")).rows == 8


@pytest.mark.parametrize("source", ["https://host/in.zip", ".", str(ROOT / "data/sources/digits.yaml")])
def test_what_dvc_watches_has_no_revision(tmp_path, source):
    with pytest.raises(UserError, match=r"ingest\.revision.*null"):
        fetching.fetch(IngestParams(source=source, revision="1"), tmp_path)


@pytest.mark.parametrize("source", ["hf://datasets/a/b", "https://host/folder/"])
def test_a_url_that_dvc_can_not_watch_is_sent_to_a_file(source):
    with pytest.raises(ValueError, match=r"ingest\.revision"):
        IngestParams(source=source)


def test_a_url_of_another_kind_is_named(tmp_path):
    (tmp_path / "x.yaml").write_text("url: ftp://host/x.zip")
    assert "'ftp://host/x.zip'" in p.refused(tmp_path / "x.yaml", tmp_path)


def test_what_a_cut_off_try_wrote_is_not_kept(tmp_path):
    source = p.write(tmp_path / "in", p.classes())
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "shard-00007.parquet").write_bytes(b"half")
    params = IngestParams(source=str(source))
    fetching.keep(fetching.fetch(params, raw), raw, params)
    assert sorted(f.name for f in raw.iterdir()) == ["rejects.parquet", "shard-00000.parquet"]


def test_where_a_source_lies_is_not_in_the_recipe():
    one, two = (IngestParams(source=s) for s in ("/a/x.zip", "/b/x.zip"))
    assert fetching.anywhere(one) == fetching.anywhere(two)
    assert "source" not in fetching.anywhere(one)
