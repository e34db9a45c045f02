"""Folders and archives of images become the same shards, and a damaged or hostile one is refused."""

import contextlib
import hashlib
import os
import stat
import tarfile
import zipfile

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import UserError
from tasks.shards import Shards
from tests import pictures as p


def test_folder_keeps_bytes_labels_and_paths(tmp_path):
    files = p.classes()
    out = p.ingested(p.write(tmp_path / "in", files | {"notes.txt": b"hello"}), tmp_path / "raw")
    shards = Shards.open(out)
    assert shards.classes == ["cat", "dog"]
    assert shards.index["synthetic"] is False
    assert shards.index["counts"] == {"accepted": 8, "rejected": {}, "ignored": 1}
    assert [r["source"] for r in p.rows(out)] == sorted(files)
    for row in p.rows(out):
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
    assert p.rows(p.ingested(source, tmp_path / "other")) == p.rows(plain)
    assert {(r["source"].split("/")[0], r["split"]) for r in p.rows(plain)} == {
        ("train", "train"), ("Test", "test"), ("val", "calibrate")}  # fmt: skip


def test_unlabelled_images_have_no_class(tmp_path):
    source = p.write(tmp_path / "in", {f"{n}.PNG": p.picture(n) for n in range(3)})
    out = p.ingested(source, tmp_path / "raw")
    assert Shards.open(out).classes == []
    assert {r["label"] for r in p.rows(out)} == {None}


def test_hidden_files_and_resource_forks_are_ignored(tmp_path):
    extra = {"__MACOSX/cat/._000.png": b"fork", "cat/.DS_Store": b"", "cat/._000.png": b"fork", "x.csv": b""}
    out = p.ingested(p.write_zip(tmp_path / "in.zip", p.classes() | extra), tmp_path / "raw")
    assert Shards.open(out).index["counts"] == {"accepted": 8, "rejected": {}, "ignored": 4}


def test_a_file_larger_than_its_pixels_could_need_is_not_read(tmp_path):
    files = p.classes(10) | {"cat/padded.png": p.picture(90) + bytes(1 << 21)}
    out = p.ingested(p.write(tmp_path / "in", files), tmp_path / "raw", max_pixels=1_000)
    assert p.rejects(out) == {"cat/padded.png": "too_large"}


@pytest.mark.parametrize(
    "name", ["../evil.png", "a/../../evil.png", "/etc/evil.png", "C:/evil.png", "..\\evil.png"]
)
@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_whose_paths_lead_out_is_refused(tmp_path, kind, name):
    if kind != "zip" and "\\" in name:
        name = "b/../../evil.png"
    files = p.classes() | {name: p.picture(99)}
    pack = p.write_zip if kind == "zip" else p.write_tar
    text = p.refused(pack(tmp_path / f"in.{kind}", files), tmp_path)
    assert "leads out" in text
    assert not list(tmp_path.rglob("evil*"))


def test_links_in_archives_are_rejected(tmp_path):
    path = p.write_tar(tmp_path / "in.tar", p.classes(10), "w")
    with tarfile.open(path, "a") as archive:
        for name, kind in (("cat/soft.png", tarfile.SYMTYPE), ("cat/hard.png", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    assert p.rejects(p.ingested(path, tmp_path / "raw")) == {"cat/soft.png": "link", "cat/hard.png": "link"}
    path = p.write_zip(tmp_path / "in.zip", p.classes(10))
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("cat/soft.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    assert p.rejects(p.ingested(path, tmp_path / "raw2")) == {"cat/soft.png": "link"}


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
    assert p.rejects(p.ingested(path, tmp_path / "raw")) == {"cat/000.png": "broken"}


def test_an_encrypted_archive_is_refused(tmp_path):
    path = p.write_zip(tmp_path / "in.zip", p.classes(1))
    whole = bytearray(path.read_bytes())
    central = whole.index(b"PK\x01\x02")
    whole[central + 8] |= 1
    path.write_bytes(whole)
    assert "password" in p.refused(path, tmp_path)


def test_linked_folders_are_followed_once(tmp_path):
    p.write(tmp_path / "far", p.classes(3, ("cat",)))
    p.write(tmp_path / "in", p.classes(3, ("dog",), start=50))
    (tmp_path / "in/cat").symlink_to(tmp_path / "far/cat")
    (tmp_path / "in/dog/again").symlink_to(tmp_path / "in")
    assert Shards.open(p.ingested(tmp_path / "in", tmp_path / "raw")).rows == 6


def test_a_name_in_an_old_encoding(tmp_path):
    p.write(tmp_path / "in", p.classes(3))
    (tmp_path / "in" / "cat" / os.fsdecode(b"caf\xe9.png")).write_bytes(p.picture(99))
    assert "cat/caf\ufffd.png" in {r["source"] for r in p.rows(p.ingested(tmp_path / "in", tmp_path / "raw"))}
