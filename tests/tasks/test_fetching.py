"""Sources of every kind become the same shards, and bad input is answered in plain words."""

import contextlib
import hashlib
import http.server
import io
import os
import stat
import tarfile
import threading
import zipfile

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import fetching
from tasks.errors import PassingError, UserError
from tasks.fetching.source import arrange, in_order
from tasks.shards import Shards
from tests import pictures as p


def rows(out):
    return Shards.open(out).table(["id", "image", "label", "sha256", "source", "split"]).to_pylist()


def rejects(out):
    table = pq.read_table(out / "rejects.parquet").to_pylist()
    return {row["source"]: row["reason"] for row in table}


def refused(source, tmp_path, **params):
    with pytest.raises(UserError) as caught:
        p.ingested(source, tmp_path / "refused", **params)
    text = str(caught.value)
    assert len(text.splitlines()) <= 6
    return text


def test_folder_keeps_bytes_labels_and_paths(tmp_path):
    files = p.classes()
    out = p.ingested(p.write(tmp_path / "in", files | {"notes.txt": b"hello"}), tmp_path / "raw")
    shards = Shards.open(out)
    assert shards.classes == ["cat", "dog"]
    assert shards.index["synthetic"] is False
    assert shards.index["counts"] == {"accepted": 8, "rejected": {}, "ignored": 1}
    assert [r["source"] for r in rows(out)] == sorted(files)
    for row in rows(out):
        data = files[row["source"]]
        assert row["image"] == {"bytes": data, "path": row["source"].split("/")[1]}
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        assert row["id"] == row["sha256"][:16]
        assert shards.classes[row["label"]] == row["source"].split("/")[0]
        assert row["split"] is None
    assert pq.read_table(out / "rejects.parquet").num_rows == 0


@pytest.mark.parametrize("packed", ["zip", "tar", "tar.gz", "leading.zip", "leading", "dotted.tar"])
def test_same_content_in_any_packing_gives_the_same_shards(tmp_path, packed):
    files = {f"{split}/{name}": data for split, start in (("train", 0), ("Test", 50), ("val", 80))
             for name, data in p.classes(3, start=start).items()}  # fmt: skip
    plain = p.ingested(p.write(tmp_path / "plain", files), tmp_path / "raw")
    prefix = {"leading": "some/where/", "leading.zip": "some/where/", "dotted.tar": "./"}.get(packed, "")
    moved = {prefix + name: files[name] for name in sorted(files)}
    kind = packed.split(".", 1)[-1]
    source = tmp_path / f"source.{kind}"
    if kind == "zip":
        p.write_zip(source, moved)
    elif kind.startswith("tar"):
        p.write_tar(source, moved, "w:gz" if kind == "tar.gz" else "w")
    else:
        p.write(source, moved)
    assert rows(p.ingested(source, tmp_path / "other")) == rows(plain)
    assert {(r["source"].split("/")[0], r["split"]) for r in rows(plain)} == {
        ("train", "train"), ("Test", "test"), ("val", "calibrate")}  # fmt: skip


def test_order_and_place_and_workers_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.workers.MANY", 0)
    monkeypatch.setattr("tasks.fetching.checking.BATCH_IMAGES", 3)
    files = p.classes(5) | {"cat/bad.jpg": b"no image", "dog/copy.png": p.classes(5)["dog/000.png"]}
    one = p.ingested(p.write(tmp_path / "a", files), tmp_path / "raw1", 1, max_reject_fraction=0.5)
    turned = dict(reversed(files.items()))
    two = p.ingested(p.write(tmp_path / "b", turned), tmp_path / "raw2", 2, max_reject_fraction=0.5)
    assert [f.name for f in sorted(one.iterdir())] == [f.name for f in sorted(two.iterdir())]
    for file in one.iterdir():
        assert file.read_bytes() == (two / file.name).read_bytes()


def test_shards_are_cut_by_number_and_by_bytes(tmp_path, monkeypatch):
    source = p.write(tmp_path / "in", p.classes(6))
    few = p.ingested(source, tmp_path / "few", shard_size=5)
    assert [pq.read_metadata(s).num_rows for s in Shards.open(few).paths] == [5, 5, 2]
    monkeypatch.setattr("tasks.fetching.checking.SHARD_BYTES", 1)
    assert len(Shards.open(p.ingested(source, tmp_path / "single")).paths) == 12


def test_numbers_sort_as_numbers():
    assert in_order(["10", "9", "a", "02", "-1"]) == ["-1", "02", "9", "10", "a"]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["a/1.png", "b/1.png"], [("a", None), ("b", None)]),
        (["x/y/a/1.png", "x/y/b/1.png"], [("a", None), ("b", None)]),
        (["a/video1/1.png", "a/video2/1.png", "b/c/d/1.png"], [("a", None), ("a", None), ("b", None)]),
        (["1.png", "2.png"], [(None, None), (None, None)]),
        (["x/1.png", "x/2.png"], [("x", None), ("x", None)]),
        (["train/1.png", "test/1.png"], [(None, "train"), (None, "test")]),
        (["train/a/1.png", "valid/a/1.png"], [("a", "train"), ("a", "calibrate")]),
        (["d/Training/z/a/1.png", "d/TEST/z/b/1.png"], [("a", "train"), ("b", "test")]),
        (["train/1.png", "plane/1.png"], [("train", None), ("plane", None)]),
        (["a/1.png", "2.png"], [("a", None), (None, None)]),
    ],
)
def test_paths_tell_class_and_split(paths, expected):
    assert [(place.name, place.split) for place in arrange(paths)] == expected


def test_unlabelled_images_have_no_class(tmp_path):
    source = p.write(tmp_path / "in", {f"{n}.PNG": p.picture(n) for n in range(3)})
    out = p.ingested(source, tmp_path / "raw")
    assert Shards.open(out).classes == []
    assert {r["label"] for r in rows(out)} == {None}


def test_hidden_files_and_resource_forks_are_ignored(tmp_path):
    extra = {"__MACOSX/cat/._000.png": b"fork", "cat/.DS_Store": b"", "cat/._000.png": b"fork", "x.csv": b""}
    out = p.ingested(p.write_zip(tmp_path / "in.zip", p.classes() | extra), tmp_path / "raw")
    assert Shards.open(out).index["counts"] == {"accepted": 8, "rejected": {}, "ignored": 4}


def test_each_bad_image_is_rejected_with_its_reason(tmp_path):
    png, jpeg = p.picture(90), p.picture(91, "jpeg", 64)
    bad = {
        "cat/empty.png": b"",
        "cat/cut.png": png[: len(png) // 2],
        "cat/cut.JPG": jpeg[: len(jpeg) // 2],
        "cat/text.jpg": b"this is no image",
        "cat/vector.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "cat/vector.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "cat/huge.png": p.huge_png(30_000),
        "stray.png": p.picture(92),
    }
    source = p.write(tmp_path / "in", p.classes(10) | bad)
    out = p.ingested(source, tmp_path / "raw", max_reject_fraction=0.5)
    assert rejects(out) == {
        "cat/empty.png": "empty",
        "cat/cut.png": "broken",
        "cat/cut.JPG": "broken",
        "cat/text.jpg": "foreign",
        "cat/vector.eps": "foreign",
        "cat/vector.jpg": "foreign",
        "cat/huge.png": "too_large",
        "stray.png": "no_class",
    }
    assert Shards.open(out).rows == 20


def test_a_bomb_is_not_decoded(tmp_path, monkeypatch):
    source = p.write(tmp_path / "in", p.classes(10) | {"cat/huge.png": p.huge_png(30_000)})
    sizes = []
    load = fetching.checking.open_image

    def watched(data):
        image = load(data)
        decode = image.load
        image.load = lambda: (sizes.append(image.size), decode())[1]
        return image

    monkeypatch.setattr("tasks.fetching.checking.open_image", watched)
    p.ingested(source, tmp_path / "raw")
    assert len(sizes) == 20
    assert (30_000, 30_000) not in sizes


def test_a_file_larger_than_its_pixels_could_need_is_not_read(tmp_path):
    files = p.classes(10) | {"cat/padded.png": p.picture(90) + bytes(1 << 21)}
    out = p.ingested(p.write(tmp_path / "in", files), tmp_path / "raw", max_pixels=1_000)
    assert rejects(out) == {"cat/padded.png": "too_large"}


def test_copies_of_the_same_bytes(tmp_path):
    a, b, c = p.picture(900), p.picture(901), p.picture(902)
    files = {
        f"{s}/{n}": d
        for s, start in (("train", 0), ("test", 50))
        for n, d in p.classes(5, start=start).items()
    }
    files |= {
        "train/cat/a2.png": a, "train/cat/a1.png": a,
        "train/cat/b.png": b, "train/dog/b.png": b,
        "train/cat/c.png": c, "test/cat/c.png": c,
    }  # fmt: skip
    out = p.ingested(p.write(tmp_path / "in", files), tmp_path / "raw", max_reject_fraction=0)
    assert rejects(out) == {
        "train/cat/a2.png": "duplicate",
        "train/cat/b.png": "conflicting_labels",
        "train/dog/b.png": "conflicting_labels",
        "train/cat/c.png": "duplicate_of_test",
    }
    ids = [r["id"] for r in rows(out)]
    assert len(ids) == len(set(ids)) == 22


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, ["nothing at all"]),
        ({"a/1.txt": b"x", "a/2.txt": b"y"}, ["holds no images", "2 other files"]),
        ({"a/1.png": b""}, ["1 of 1", "empty", "a/1.png"]),
        ({"a/1.png": p.huge_png(30_000)}, ["too_large", "a/1.png", "30000 x 30000"]),
        ({"a/1.jpg": p.picture(1, "jpeg", 64)[:400]}, ["broken", "a/1.jpg", "max_reject_fraction"]),
        (p.classes(20) | {"eel/1.png": b"x"}, ["class 'eel'", "empty", "eel/1.png"]),
    ],
)
def test_folders_that_can_not_be_used(tmp_path, files, words):
    (tmp_path / "in").mkdir()
    text = refused(p.write(tmp_path / "in", files), tmp_path)
    assert all(word in text for word in ["ingest.", *words]), text


def test_missing_source(tmp_path):
    text = refused(tmp_path / "nowhere", tmp_path)
    assert "ingest.source" in text
    assert "nowhere" in text


@pytest.mark.parametrize(
    "name", ["../evil.png", "a/../../evil.png", "/etc/evil.png", "C:/evil.png", "..\\evil.png"]
)
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_whose_paths_lead_out_is_refused(tmp_path, kind, name):
    if kind != "zip" and "\\" in name:
        name = "b/../../evil.png"
    files = p.classes() | {name: p.picture(99)}
    pack = p.write_zip if kind == "zip" else p.write_tar
    text = refused(pack(tmp_path / f"in.{kind}", files), tmp_path)
    assert "leads out" in text
    assert not list(tmp_path.rglob("evil*"))


def test_links_in_archives_are_rejected(tmp_path):
    path = p.write_tar(tmp_path / "in.tar", p.classes(10), "w")
    with tarfile.open(path, "a") as archive:
        for name, kind in (("cat/soft.png", tarfile.SYMTYPE), ("cat/hard.png", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    assert rejects(p.ingested(path, tmp_path / "raw")) == {"cat/soft.png": "link", "cat/hard.png": "link"}
    path = p.write_zip(tmp_path / "in.zip", p.classes(10))
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("cat/soft.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    assert rejects(p.ingested(path, tmp_path / "raw2")) == {"cat/soft.png": "link"}


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "parquet", "yaml", "csv", ""])
def test_files_that_are_not_what_they_say(tmp_path, kind):
    source = tmp_path / f"in.{kind}"
    source.write_bytes(b"\x00\xffnothing of the kind" * 50)
    assert str(source) in refused(source, tmp_path)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["zip", "tar.gz"]), st.integers(0, 2**32), st.data())
def test_a_damaged_archive_never_ends_in_a_traceback(tmp_path_factory, kind, seed, data):
    tmp = tmp_path_factory.mktemp("damaged")
    files = p.classes(2)
    path = tmp / f"in.{kind}"
    (p.write_zip if kind == "zip" else p.write_tar)(path, files)
    whole = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        whole = whole[: data.draw(st.integers(0, len(whole)))]
    else:
        for _ in range(3):
            whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    with contextlib.suppress(UserError):
        p.ingested(path, tmp / "raw")


def test_a_damaged_member_is_one_broken_image(tmp_path):
    path = p.write_zip(tmp_path / "in.zip", p.classes(10))
    whole = bytearray(path.read_bytes())
    whole[100] ^= 255
    path.write_bytes(whole)
    assert rejects(p.ingested(path, tmp_path / "raw")) == {"cat/000.png": "broken"}


def test_an_encrypted_archive_is_refused(tmp_path):
    path = p.write_zip(tmp_path / "in.zip", p.classes(1))
    whole = bytearray(path.read_bytes())
    central = whole.index(b"PK\x01\x02")
    whole[central + 8] |= 1
    path.write_bytes(whole)
    assert "password" in refused(path, tmp_path)


def test_linked_folders_are_followed_once(tmp_path):
    p.write(tmp_path / "far", p.classes(3, ("cat",)))
    p.write(tmp_path / "in", p.classes(3, ("dog",), start=50))
    (tmp_path / "in/cat").symlink_to(tmp_path / "far/cat")
    (tmp_path / "in/dog/again").symlink_to(tmp_path / "in")
    assert Shards.open(p.ingested(tmp_path / "in", tmp_path / "raw")).rows == 6


def test_a_name_in_an_old_encoding(tmp_path):
    p.write(tmp_path / "in", p.classes(3))
    (tmp_path / "in" / "cat" / os.fsdecode(b"caf\xe9.png")).write_bytes(p.picture(99))
    assert "cat/caf\ufffd.png" in {r["source"] for r in rows(p.ingested(tmp_path / "in", tmp_path / "raw"))}


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
