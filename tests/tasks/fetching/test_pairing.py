"""Pairs: which file is the image, which one comes with it, and what has no partner."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tasks import imaging
from tasks.errors import UserError
from tasks.fetching.pairing import match, unpaired
from tasks.shards import Shards
from tests.pictures import (
    encoded,
    ingested,
    made,
    noise,
    parquet,
    preprocessed,
    refused,
    rejects,
    splits,
    write,
    write_tar,
    write_zip,
)

NAMES = st.lists(st.from_regex(r"[a-z]{1,3}", fullmatch=True), min_size=1, max_size=8, unique=True)


def mask(seed, size=16, width=None):
    """A bright square whose place the seed decides, as PNG."""
    image = np.zeros((size, width or size), np.uint8)
    image[seed % 8 : seed % 8 + 6, seed % 5 : seed % 5 + 6] = 255
    return encoded(Image.fromarray(image))


def photographs(each=4, names=("cat", "dog")):
    """Photographs in class folders, each beside a mask of the same stem."""
    files = {}
    for k, name in enumerate(names):
        for n in range(each):
            files[f"{name}/{n:03d}.jpg"] = encoded(noise(k * each + n), "jpeg", quality=95)
            files[f"{name}/{n:03d}.png"] = mask(k * each + n)
    return files


def folders(each=4):
    """The same in folders a/ (masks) and b/ (photographs)."""
    place = {".png": "a", ".jpg": "b"}
    return {f"{place[path[-4:]]}/{path}": data for path, data in photographs(each).items()}


def side_by_side(each=4, width=32):
    files = {}
    for path, data in photographs(each).items():
        if path.endswith("jpg"):
            both = Image.new("RGB", (width, 16))
            both.paste(Image.open(io.BytesIO(photographs(each)[path[:-3] + "png"])), (0, 0))
            both.paste(Image.open(io.BytesIO(data)), (16, 0))
            files[path[:-3] + "png"] = encoded(both)
    return files


def by_source(real, column="condition"):
    """By source path: what each image came with, or the image, whatever its split."""
    found = {}
    for split in ("train", "calibrate", "test"):
        shards = Shards.open(real / split)
        found |= dict(zip(shards.table(["source"])["source"].to_pylist(), shards.pixels(column), strict=True))
    return found


@pytest.mark.parametrize(
    ("pairs", "files"),
    [("stem", photographs(5)), ("a_to_b", folders(5)), ("left_to_right", side_by_side(5))],
)
def test_an_image_keeps_its_pair_into_its_split(tmp_path, pairs, files):
    real = made(
        tmp_path, files, ingest={"pairs": pairs}, condition="paired", channels=1, near_duplicates=False
    )
    found = by_source(real)
    assert len(found) == 10
    for source, drawn in found.items():
        name, number = source.split("/")
        truth = Image.open(io.BytesIO(mask(("cat", "dog").index(name) * 5 + int(number[:3]))))
        assert np.array_equal(drawn[0], np.asarray(truth)), source
    assert Shards.open(real / "train").condition == {"name": "paired", "channels": 1, "ids": 0}
    assert not rejects(real)


def test_the_second_of_the_direction_is_the_image(tmp_path):
    there = made(
        tmp_path, side_by_side(5), "there", {"pairs": "left_to_right"}, condition="paired", channels=1
    )
    turned = {name: Image.open(io.BytesIO(data)) for name, data in side_by_side(5).items()}
    other = {}
    for name, image in turned.items():
        whole = Image.new("RGB", (32, 16))
        whole.paste(image.crop((16, 0, 32, 16)), (0, 0))
        whole.paste(image.crop((0, 0, 16, 16)), (16, 0))
        other[name] = encoded(whole)
    back = made(tmp_path, other, "back", {"pairs": "right_to_left"}, condition="paired", channels=1)
    for column in ("image", "condition"):
        one, same = (by_source(real, column) for real in (there, back))
        assert sorted(one) == sorted(same)
        assert all(np.array_equal(one[source], same[source]) for source in one)


def test_folders_may_be_taken_either_way():
    paths = ["a/1.png", "b/1.jpg"]
    assert match(paths, "a_to_b") == ({1: 0}, {})
    assert match(paths, "b_to_a") == ({0: 1}, {})
    assert unpaired("train/B/cat/1.png", "a_to_b") == "train/cat/1.png"
    assert unpaired("train/b/1.png", "stem") == "train/b/1.png"


def test_a_zip_is_paired_as_a_folder_is(tmp_path):
    raw = ingested(write_zip(tmp_path / "x.zip", photographs()), tmp_path / "raw", pairs="stem")
    rows = Shards.open(raw).table(["source", "image", "condition"]).to_pylist()
    assert len(rows) == 8
    for row in rows:
        assert row["condition"]["bytes"] == photographs()[row["source"][:-3] + "png"]
        assert row["image"]["bytes"] == photographs()[row["source"]]
    assert Shards.open(raw).index["pairs"] == "stem"


def test_what_is_no_pair_is_put_aside_with_the_reason(tmp_path):
    files = photographs(8)
    del files["cat/000.png"], files["cat/001.jpg"]
    files["dog/000.gif"] = encoded(noise(90).convert("L"), "gif")
    files["dog/001.png"] = mask(3, size=20)
    files["dog/002.png"] = b"no image"
    raw = ingested(write(tmp_path / "in", files), tmp_path / "raw", pairs="stem", max_reject_fraction=0.5)
    assert rejects(raw) == {
        "cat/000.jpg": "no_pair",
        "cat/001.png": "no_pair",
        "dog/000.jpg": "unclear_pair",
        "dog/000.png": "unclear_pair",
        "dog/000.gif": "unclear_pair",
        "dog/001.jpg": "unlike_sizes",
        "dog/002.jpg": "foreign",
    }
    details = {r["source"]: r["detail"] for r in pq.read_table(raw / "rejects.parquet").to_pylist()}
    assert details["dog/001.jpg"] == "the image has 16 x 16 pixels, its pair 20 x 20"
    assert Shards.open(raw).rows == 11


def test_sizes_are_compared_as_they_are_seen(tmp_path):
    """A camera that was held upright writes a wide image, and how to turn it."""
    files = photographs(5)
    tall = Image.fromarray(np.asarray(noise(70, 24))[:, :16].copy())
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = tall.rotate(90, expand=True)
    files["cat/000.jpg"] = encoded(wide, "jpeg", exif=exif)
    files["cat/000.png"] = mask(0, 24, 16)
    files["dog/000.png"] = mask(0, 16, 24)
    files["dog/000.jpg"] = files["cat/000.jpg"]
    files["dog/000.jpg"] = encoded(wide.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "jpeg", exif=exif)
    raw = ingested(write(tmp_path / "in", files), tmp_path / "raw", pairs="stem", max_reject_fraction=0.5)
    assert rejects(raw) == {"dog/000.jpg": "unlike_sizes"}


def test_the_larger_of_a_pair_is_the_one_that_is_too_large(tmp_path):
    files = photographs(5) | {"cat/000.png": mask(0, 40)}
    raw = ingested(
        write(tmp_path / "in", files), tmp_path / "raw", pairs="stem", max_pixels=900, max_reject_fraction=0.5
    )
    (row,) = pq.read_table(raw / "rejects.parquet").to_pylist()
    assert (row["source"], row["reason"]) == ("cat/000.jpg", "too_large")
    assert row["detail"].startswith("40 x 40 pixels")


def test_partners_count_towards_the_bytes_of_a_shard_and_of_a_worker_s_batch(tmp_path, monkeypatch):
    source = write(tmp_path / "in", photographs(5))
    raw = ingested(source, tmp_path / "raw", pairs="stem")
    table = Shards.open(raw).table(["id", "image", "condition"])
    sizes = {
        name: [len(each["bytes"]) for each in table[name].to_pylist()] for name in ("image", "condition")
    }
    assert imaging._lengths(table).tolist() == [sum(each) for each in zip(*sizes.values(), strict=True)]
    assert imaging._lengths(table.drop(["condition"])).tolist() == sizes["image"]
    monkeypatch.setattr("tasks.splitting.SHARD_BYTES", 0)
    plain = preprocessed(raw, tmp_path / "plain", condition="paired")
    spool = [
        len(each["bytes"]) for each in Shards.open(plain / "train").table(["image"])["image"].to_pylist()
    ]
    monkeypatch.setattr("tasks.splitting.SHARD_BYTES", 2 * max(spool))
    paired = preprocessed(raw, tmp_path / "paired", condition="paired")
    images = Shards.open(paired / "train").table(["image", "condition"])
    whole = [sum(len(row[n]["bytes"]) for n in ("image", "condition")) for row in images.to_pylist()]
    for path in Shards.open(paired / "train").paths:
        rows = pq.read_metadata(path).num_rows
        assert rows == 1 or sum(whole[:rows]) <= 2 * max(spool)
        whole = whole[rows:]


def test_too_many_without_a_pair_stop_the_stage(tmp_path):
    files = photographs()
    for n in range(3):
        del files[f"cat/{n:03d}.png"]
    said = refused(write(tmp_path / "in", files), tmp_path, pairs="stem")
    assert "no_pair: 3" in said
    assert "cat/000.jpg" in said


@pytest.mark.parametrize("pairs", ["stem", "a_to_b", "b_to_a"])
def test_a_source_without_any_pair_is_refused_with_the_mend(tmp_path, pairs):
    files = {f"cat/{n}.png": encoded(noise(n)) for n in range(4)}
    said = refused(write(tmp_path / "in", files), tmp_path, pairs=pairs)
    assert f"ingest.pairs: {pairs} takes" in said


def test_what_has_no_files_to_pair_is_refused(tmp_path):
    """A tar archive is read in turn, so no two of its files are there at once."""
    table = parquet(tmp_path / "x.parquet", [encoded(noise(n)) for n in range(3)])
    for source in (write_tar(tmp_path / "x.tar.gz", photographs()), table):
        said = refused(source, tmp_path / source.stem / "out", pairs="stem")
        assert "Give a folder or a zip archive" in said


def test_halves_of_an_odd_width_are_put_aside(tmp_path):
    files = side_by_side(5)
    files["cat/000.png"] = encoded(noise(80, 31))
    real = made(tmp_path, files, ingest={"pairs": "left_to_right"}, condition="paired", near_duplicates=False)
    assert rejects(real) == {"cat/000.png": "undecodable"}
    assert len(splits(real)) == 9


def test_paired_without_pairs_is_refused(tmp_path):
    raw = ingested(write(tmp_path / "in", side_by_side()), tmp_path / "raw")
    with pytest.raises(UserError, match=r"Set ingest\.pairs"):
        preprocessed(raw, tmp_path / "real", condition="paired")


@settings(max_examples=30)
@given(NAMES, NAMES)
def test_every_file_is_in_a_pair_or_put_aside(photos, masks):
    paths = [f"{n}.jpg" for n in photos] + [f"{n}.png" for n in masks]
    found, alone = match(paths, "stem")
    assert {paths[n][:-4] for n in found} == set(photos) & set(masks)
    assert len(found) * 2 + len(alone) == len(paths)
