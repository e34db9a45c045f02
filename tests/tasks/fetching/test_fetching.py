"""A source is found or downloaded, told by its content, and answered in plain words if it can't be used."""

import http.server
import io
import threading

import pytest

from tasks import fetching
from tasks.errors import PassingError, UserError
from tests import pictures as p


def test_missing_source(tmp_path):
    text = p.refused(tmp_path / "nowhere", tmp_path)
    assert "ingest.source" in text
    assert "nowhere" in text


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "parquet", "yaml", "csv", ""])
def test_files_that_are_not_what_they_say(tmp_path, kind):
    source = tmp_path / f"in.{kind}"
    source.write_bytes(b"\x00\xffnothing of the kind" * 50)
    assert str(source) in p.refused(source, tmp_path)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    """A web server on loopback, for tmp_path/web."""
    (tmp_path / "web").mkdir()
    handler = lambda *a: _Quiet(*a, directory=str(tmp_path / "web"))  # noqa: E731
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_url_is_downloaded_and_not_kept(tmp_path, served):
    p.write_zip(tmp_path / "web/in.zip", p.classes())
    out = tmp_path / "raw"
    out.mkdir()
    found = fetching.fetch(f"{served}/in.zip?token=1", out)
    fetching.keep(found, out, fetching.IngestParams(source="x"))
    assert sorted(f.name for f in out.iterdir()) == ["rejects.parquet", "shard-00000.parquet"]


def test_downloads_that_fail(tmp_path, served):
    with pytest.raises(UserError, match="404") as caught:
        fetching.fetch(f"{served}/none.zip", tmp_path)
    assert not isinstance(caught.value, PassingError)
    with pytest.raises(UserError, match="not downloaded") as caught:
        fetching.fetch("http://127.0.0.1:9/in.zip", tmp_path)
    assert isinstance(caught.value, PassingError)


def test_a_download_cut_short_is_noticed(tmp_path, monkeypatch):
    answer = io.BytesIO(b"half")
    answer.headers = {"Content-Length": "8"}
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: answer)
    with pytest.raises(PassingError, match="4 of 8 bytes"):
        fetching.fetch("http://example.org/in.zip", tmp_path)


def test_where_a_source_lies_is_not_in_the_recipe():
    one, two = (fetching.IngestParams(source=s) for s in ("/a/x.zip", "/b/x.zip"))
    assert fetching.anywhere(one) == fetching.anywhere(two)
    assert "source" not in fetching.anywhere(one)
