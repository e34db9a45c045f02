"""Duplicates and splits are decided by content alone, and a given test split is left as it is."""

import io
from collections import Counter

import pyarrow.parquet as pq
import pytest
from PIL import Image

from tasks.errors import UserError
from tasks.shards import Shards
from tests import pictures as p


def saved_again(data, quality=85):
    """The same picture as a JPEG: a near-duplicate."""
    return p.encoded(Image.open(io.BytesIO(data)).convert("RGB"), "jpeg", quality=quality, subsampling=0)


def other_file(data, kind="bmp"):
    """The same pixels in other bytes."""
    return p.encoded(Image.open(io.BytesIO(data)), kind)


def test_shares_are_met_and_indexes_say_what_is_there(tmp_path):
    out = p.made(tmp_path, p.classes(20))
    assert Counter(p.splits(out).values()) == {"train": 28, "calibrate": 4, "test": 8}
    for split, each in (("train", 14), ("calibrate", 2), ("test", 4)):
        shards = Shards.open(out / split)
        assert shards.shape == (3, 16, 16)
        assert shards.index["class_counts"] == {"cat": each, "dog": each}
        assert shards.pixels().shape == (4 * each // 2, 3, 16, 16)
        assert Counter(shards.labels().tolist()) == {0: each, 1: each}
        assert set(shards.table(["split"])["split"].to_pylist()) == {split}
        ids = shards.table(["id"])["id"].to_pylist()
        assert ids == sorted(ids)
    assert p.rejects(out) == {}


def test_the_split_follows_content_not_order_or_name_or_workers(tmp_path, monkeypatch):
    files = p.classes(12)
    one = p.made(tmp_path, files, "one")
    again = p.made(tmp_path, dict(reversed(files.items())), "two", {"shard_size": 5})
    for file in one.rglob("*.parquet"):
        assert file.read_bytes() == (again / file.relative_to(one)).read_bytes()
    monkeypatch.setattr("tasks.workers.MANY", 0)
    monkeypatch.setattr("tasks.imaging.BATCH_IMAGES", 5)
    spread = p.preprocessed(tmp_path / "one.raw", tmp_path / "three", workers=2)
    for file in one.rglob("*.*"):
        assert file.read_bytes() == (spread / file.relative_to(one)).read_bytes()
    renamed = {
        f"{name.split('/')[0]}/{n + 7:05d}.png": data
        for n, (name, data) in enumerate(reversed(files.items()))
    }
    other = p.made(tmp_path, renamed, "four")
    for split in p.SPLITS:
        ids = [Shards.open(o / split).table(["id"])["id"].to_pylist() for o in (one, other)]
        assert ids[0] == ids[1]
    assert p.splits(p.made(tmp_path, files, "five", seed=1)) != p.splits(one)


def test_exact_and_near_duplicates(tmp_path):
    files = p.classes(12)
    copy, near = files["cat/000.png"], files["dog/000.png"]
    files |= {"cat/copy.bmp": other_file(copy)}
    files |= {f"dog/near{q}.jpg": saved_again(near, q) for q in (80, 85, 90)}
    out = p.made(tmp_path, files)
    index = Shards.open(out / "train").index
    assert index["classes"] == ["cat", "dog"]
    assert set(p.rejects(out).values()) == {"duplicate"}
    assert len({"cat/000.png", "cat/copy.bmp"} & p.splits(out).keys()) == 1
    twins = {s for name, s in p.splits(out).items() if name.startswith("dog/near") or name == "dog/000.png"}
    assert len(twins) == 1
    assert sum(name.startswith("dog/near") for name in p.splits(out)) == 3
    apart = p.made(tmp_path, files, "apart", near_duplicates=False)
    assert len(p.splits(apart)) == len(p.splits(out))


def test_the_same_pixels_under_two_labels(tmp_path):
    files = p.classes(12)
    files["dog/liar.bmp"] = other_file(files["cat/003.png"])
    out = p.made(tmp_path, files)
    assert p.rejects(out) == {"dog/liar.bmp": "conflicting_labels", "cat/003.png": "conflicting_labels"}


def test_a_given_test_split_is_never_changed(tmp_path):
    train = {f"train/{n}": d for n, d in p.classes(16).items()}
    test = {f"test/{n}": d for n, d in p.classes(5, start=100).items()}
    a, b, c = (test[f"test/cat/00{n}.png"] for n in range(3))
    extra = {
        "train/cat/exact.bmp": other_file(a),
        "train/dog/exact_liar.bmp": other_file(b),
        "train/cat/near.jpg": saved_again(c),
        "test/cat/own_copy.tif": other_file(a, "tiff"),
        "test/dog/own_liar.ppm": other_file(a, "ppm"),
    }
    out = p.made(tmp_path, train | test | extra)
    found = p.splits(out)
    assert {n for n, s in found.items() if s == "test"} == test.keys() | {
        n for n in extra if n.startswith("test")
    }
    assert p.rejects(out) == {n: "duplicate_of_test" for n in extra if n.startswith("train")}
    counts = Counter(found.values())
    assert counts["calibrate"] == 4
    assert counts["train"] == 28


def test_given_calibrate_and_test_stay(tmp_path):
    files = {f"{s}/{n}": d for k, s in enumerate(("train", "val", "test"))
             for n, d in p.classes(6, start=50 * k).items()}  # fmt: skip
    files["train/cat/again.jpg"] = saved_again(files["val/cat/000.png"])
    files["val/dog/again.jpg"] = saved_again(files["test/dog/000.png"])
    out = p.made(tmp_path, files)
    named = {"train": "train", "val": "calibrate", "test": "test"}
    assert all(named[source.split("/")[0]] == split for source, split in p.splits(out).items())
    assert p.rejects(out) == {
        "train/cat/again.jpg": "duplicate_of_calibrate",
        "val/dog/again.jpg": "duplicate_of_test",
    }


def test_train_per_class_cuts_train_alone(tmp_path):
    files = p.classes(20)
    whole, cut = p.made(tmp_path, files, "whole"), p.made(tmp_path, files, "cut", train_per_class=5)
    assert Shards.open(cut / "train").index["class_counts"] == {"cat": 5, "dog": 5}
    assert p.splits(cut).items() <= p.splits(whole).items()
    assert Counter(p.rejects(cut).values()) == {"train_per_class": 18}
    less = p.made(tmp_path, files, "less", train_per_class=3)
    assert p.splits(less).items() <= p.splits(cut).items()


def test_too_few_images_for_three_splits(tmp_path):
    with pytest.raises(
        UserError, match=r"class 'eel' has no image in calibrate: 2 images in 2 groups"
    ) as caught:
        p.made(tmp_path, p.classes(9) | {f"eel/{n}.png": p.picture(90 + n) for n in range(2)})
    assert len(str(caught.value).splitlines()) <= 6
    three = p.made(tmp_path, p.classes(3), "three")
    assert Counter(p.splits(three).values()) == {"train": 2, "calibrate": 2, "test": 2}


def test_unlabelled_images_are_split_too(tmp_path):
    out = p.made(tmp_path, {f"{n}.png": p.picture(n) for n in range(20)})
    assert Counter(p.splits(out).values()) == {"train": 14, "calibrate": 2, "test": 4}
    assert Shards.open(out / "train").classes == []
    assert Shards.open(out / "train").index["class_counts"] == {}


def test_an_unlabelled_image_of_a_labelled_set_is_rejected_unless_test_is_given_it(tmp_path):
    labels = {name: [0, 1, None, -1] for name in ("validation", "test", "more")}
    labels["train"] = [0, 1, 0, 1, None, -1]
    for k, (name, given) in enumerate(labels.items()):
        images = [p.picture(10 * k + n) for n in range(len(given))]
        p.parquet(tmp_path / f"in/{name}.parquet", images, given, p.CLASS_LABEL)
    out = p.preprocessed(p.ingested(tmp_path / "in", tmp_path / "raw"), tmp_path / "real")
    unlabelled = {f"{name}.parquet/{n:06d}/{n}.png" for name, given in labels.items()
                  for n, label in enumerate(given) if label in (None, -1)}  # fmt: skip
    tested = {source for source in unlabelled if source.startswith("test.")}
    assert len(tested) == 2
    assert p.rejects(out) == dict.fromkeys(unlabelled - tested, "no_label")
    nulls = {split: Shards.open(out / split).table(["label"])["label"].null_count for split in p.SPLITS}
    assert nulls == {"train": 0, "calibrate": 0, "test": 2}
    assert Counter(p.splits(out).values()) == {"train": 6, "calibrate": 2, "test": 4}
    assert {source for source, split in p.splits(out).items() if split == "test"} >= tested


def test_one_image_that_can_not_be_prepared_is_a_reject(tmp_path, monkeypatch):
    from tasks import imaging

    decode, failed = imaging.decode, []

    def once(*arguments):
        if not failed:
            failed.append(1)
            raise SyntaxError("broken PNG file")
        return decode(*arguments)

    monkeypatch.setattr("tasks.imaging.decode", once)
    out = p.made(tmp_path, p.classes(6))
    assert list(p.rejects(out).values()) == ["undecodable"]
    assert len(p.splits(out)) == 11


def test_shards_are_cut_by_number_and_by_bytes(tmp_path, monkeypatch):
    out = p.made(tmp_path, p.classes(10), shard_size=6)
    assert [pq.read_metadata(s).num_rows for s in Shards.open(out / "train").paths] == [6, 6, 2]
    monkeypatch.setattr("tasks.splitting.SHARD_BYTES", 1)
    assert len(Shards.open(p.preprocessed(tmp_path / "x.raw", tmp_path / "y") / "train").paths) == 14
