"""Folders, archives and tables at a URL become the shards that they are here; failures take a line."""

import sys
import tomllib

import pytest

from tasks import fetching
from tasks.errors import PassingError, UserError
from tasks.fetching.remote import PACKAGES
from tasks.params import IngestParams
from tasks.shards import Shards
from tests import pictures as p
from tests.house import ROOT
from tests.tasks.fetching import conftest

FILES = p.classes(3) | {
    "cat/notes.txt": b"about",
    "dog/vector.svg": b"<svg/>",
    "cat/copy.png": p.classes(3)["dog/000.png"],
}


def stored(s3, files, prefix="set/"):
    for name, data in files.items():
        s3.put_object(Bucket="photos", Key=prefix + name, Body=data)


def alike(one, other):
    assert [f.name for f in sorted(one.iterdir())] == [f.name for f in sorted(other.iterdir())]
    for file in one.iterdir():
        assert file.read_bytes() == (other / file.name).read_bytes(), file.name


def test_a_folder_in_a_bucket_is_the_folder_here(tmp_path, s3):
    stored(s3, FILES)
    here = p.ingested(p.write(tmp_path / "in", FILES), tmp_path / "here", max_reject_fraction=1)
    there = p.ingested("s3://photos/set", tmp_path / "there", max_reject_fraction=1)
    alike(here, there)
    assert p.rejects(there) == {
        "dog/vector.svg": "foreign",
        "cat/copy.png": "conflicting_labels",
        "dog/000.png": "conflicting_labels",
    }
    assert Shards.open(there).index["counts"]["ignored"] == 1


def test_archives_and_tables_in_a_bucket(tmp_path, s3):
    files = {
        "in.tar.gz": p.write_tar(tmp_path / "in.tar.gz", FILES).read_bytes(),
        "t/train.parquet": p.parquet(
            tmp_path / "x", [p.picture(n) for n in range(4)], [0, 1, 0, 1], p.CLASS_LABEL
        ).read_bytes(),
        "t/README.md": b"about",
    }
    stored(s3, files, "")
    archive = p.ingested("s3://photos/in.tar.gz", tmp_path / "a", max_reject_fraction=1)
    alike(archive, p.ingested(tmp_path / "in.tar.gz", tmp_path / "b", max_reject_fraction=1))
    assert Shards.open(p.ingested("s3://photos/t/", tmp_path / "c")).classes == ["cat", "dog"]


def test_only_what_is_read_is_fetched(tmp_path, s3):
    stored(s3, p.classes(3) | {"cat/film.mp4": bytes(5_000), "cat/huge.png": bytes(2_000_000)})
    params = IngestParams(source="s3://photos/set", max_pixels=1)
    tree = fetching.fetch(params, tmp_path)
    assert (tree / "cat/film.mp4").stat().st_size == 5_000
    assert (tree / "cat/huge.png").stat().st_size == 2_000_000
    stored_here = [f.stat().st_size for f in tree.parent.joinpath("store").iterdir()]
    assert len(stored_here) == 6
    assert max(stored_here) < 5_000


def test_a_page_of_links_is_a_folder(tmp_path, web):
    files = {k.replace("cat", "a cat"): v for k, v in FILES.items()}
    p.write(web.folder / "set", files)
    (tmp_path / "web.yaml").write_text(f"url: {web.url}/set/")
    there = p.ingested(tmp_path / "web.yaml", tmp_path / "there", max_reject_fraction=1, revision="1")
    alike(p.ingested(web.folder / "set", tmp_path / "here", max_reject_fraction=1), there)
    assert not any("svg" in path for verb, path, _ in web.asked if verb == "GET")


@pytest.mark.parametrize("web", [conftest.Hub], indirect=True)
def test_a_dataset_of_the_hub_at_a_commit(tmp_path, web, monkeypatch):
    for name, value in (
        ("ENDPOINT", web.url),
        ("HUGGINGFACE_CO_URL_TEMPLATE", web.url + "/{repo_id}/resolve/{revision}/{filename}"),
    ):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    p.write(web.folder / "data", FILES)
    (tmp_path / "hub.yaml").write_text("url: hf://datasets/us/set/data")
    there = p.ingested(tmp_path / "hub.yaml", tmp_path / "there", max_reject_fraction=1, revision="c0ffee")
    alike(p.ingested(web.folder / "data", tmp_path / "here", max_reject_fraction=1), there)
    assert "not found" in p.refused(tmp_path / "hub.yaml", tmp_path, revision="gone")


def test_a_key_that_leads_out_is_refused(tmp_path, s3):
    stored(s3, p.classes(1) | {"../out.png": b"x"})
    assert "leads out" in p.refused("s3://photos/set", tmp_path)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("s3://no-such-bucket/in.zip", "not found"),
        ("s3://photos/none.zip", "not found"),
        ("s3://photos/", "not found"),
    ],
)
def test_what_is_not_there_is_told_in_a_line(tmp_path, s3, source, words):
    text = p.refused(source, tmp_path)
    assert f"ingest.source: {source}: {words}" in text
    assert len(text.splitlines()) == 1


def test_missing_credentials_are_told_in_a_line(tmp_path, s3, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    text = p.refused("s3://photos/in.zip", tmp_path)
    assert "no credentials" in text
    assert "AWS_PROFILE" in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("scheme", PACKAGES)
def test_a_missing_package_names_its_extra(tmp_path, monkeypatch, scheme):
    import fsspec  # noqa: F401

    package, extra, _ = PACKAGES[scheme]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(part.startswith(package) for part in extras[extra])
    for name in [n for n in sys.modules if n.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, scheme, raising=False)
    (tmp_path / "x.yaml").write_text(f"url: {scheme}://photos/in")
    text = p.refused(tmp_path / "x.yaml", tmp_path, revision="1")
    assert f"`{extra}`: pip install {package}" in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, UserError), (403, UserError), (410, UserError), (429, PassingError), (503, PassingError)],
)
def test_whether_another_try_may_do_is_told_by_the_status(tmp_path, web, monkeypatch, status, kind):
    monkeypatch.setattr("tasks.fetching.downloading.PAUSES", ())
    (web.folder / "in.zip").write_bytes(b"x")
    web.fails = [status] * 3
    with pytest.raises(UserError) as caught:
        fetching.fetch(IngestParams(source=f"{web.url}/in.zip"), tmp_path)
    assert type(caught.value) is kind
    assert "Traceback" not in str(caught.value)


def test_a_host_that_does_not_answer_may_later(tmp_path):
    with pytest.raises(PassingError, match="not downloaded"):
        fetching.fetch(IngestParams(source="http://127.0.0.1:9/in.zip"), tmp_path)
