"""Duplicates, groups and splits are decided by content alone, and no group straddles two splits."""

import io
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tasks.errors import UserError
from tasks.shards import Shards
from tasks.splitting.dealing import Groups, deal
from tasks.splitting.twins import near_pairs
from tests import pictures as p

SPLITS = ("train", "calibrate", "test")
SHARES = {"train": 0.7, "calibrate": 0.1, "test": 0.2}


def splits(out):
    """Source path -> split of every image that was kept."""
    return {
        source: split
        for split in SPLITS
        for source in Shards.open(out / split).table(["source"])["source"].to_pylist()
    }


def rejects(out):
    rows = pq.read_table(out / "rejects.parquet").to_pylist()
    return {r["source"]: r["reason"] for r in rows}


def made(tmp_path, files, name="x", ingest=None, **params):
    raw = p.ingested(p.write(tmp_path / f"{name}.in", files), tmp_path / f"{name}.raw", **ingest or {})
    return p.preprocessed(raw, tmp_path / f"{name}.real", **params)


def saved_again(data, quality=85):
    """The same picture as a JPEG: a near-duplicate."""
    return p.encoded(Image.open(io.BytesIO(data)).convert("RGB"), "jpeg", quality=quality, subsampling=0)


def other_file(data, kind="bmp"):
    """The same pixels in other bytes."""
    return p.encoded(Image.open(io.BytesIO(data)), kind)


def test_shares_are_met_and_indexes_say_what_is_there(tmp_path):
    out = made(tmp_path, p.classes(20))
    assert Counter(splits(out).values()) == {"train": 28, "calibrate": 4, "test": 8}
    for split, each in (("train", 14), ("calibrate", 2), ("test", 4)):
        shards = Shards.open(out / split)
        assert shards.shape == (3, 16, 16)
        assert shards.index["class_counts"] == {"cat": each, "dog": each}
        assert shards.pixels().shape == (4 * each // 2, 3, 16, 16)
        assert Counter(shards.labels().tolist()) == {0: each, 1: each}
        assert set(shards.table(["split"])["split"].to_pylist()) == {split}
        ids = shards.table(["id"])["id"].to_pylist()
        assert ids == sorted(ids)
    assert rejects(out) == {}


def test_the_split_follows_content_not_order_or_name_or_workers(tmp_path, monkeypatch):
    files = p.classes(12)
    one = made(tmp_path, files, "one")
    again = made(tmp_path, dict(reversed(files.items())), "two", {"shard_size": 5})
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
    other = made(tmp_path, renamed, "four")
    for split in SPLITS:
        ids = [Shards.open(o / split).table(["id"])["id"].to_pylist() for o in (one, other)]
        assert ids[0] == ids[1]
    assert splits(made(tmp_path, files, "five", seed=1)) != splits(one)


def test_exact_and_near_duplicates(tmp_path):
    files = p.classes(12)
    copy, near = files["cat/000.png"], files["dog/000.png"]
    files |= {"cat/copy.bmp": other_file(copy)}
    files |= {f"dog/near{q}.jpg": saved_again(near, q) for q in (80, 85, 90)}
    out = made(tmp_path, files)
    index = Shards.open(out / "train").index
    assert index["classes"] == ["cat", "dog"]
    assert set(rejects(out).values()) == {"duplicate"}
    assert len({"cat/000.png", "cat/copy.bmp"} & splits(out).keys()) == 1
    twins = {s for name, s in splits(out).items() if name.startswith("dog/near") or name == "dog/000.png"}
    assert len(twins) == 1
    assert sum(name.startswith("dog/near") for name in splits(out)) == 3
    apart = made(tmp_path, files, "apart", near_duplicates=False)
    assert len(splits(apart)) == len(splits(out))


def test_the_same_pixels_under_two_labels(tmp_path):
    files = p.classes(12)
    files["dog/liar.bmp"] = other_file(files["cat/003.png"])
    out = made(tmp_path, files)
    assert rejects(out) == {"dog/liar.bmp": "conflicting_labels", "cat/003.png": "conflicting_labels"}


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
    out = made(tmp_path, train | test | extra)
    found = splits(out)
    assert {n for n, s in found.items() if s == "test"} == test.keys() | {
        n for n in extra if n.startswith("test")
    }
    assert rejects(out) == {n: "duplicate_of_test" for n in extra if n.startswith("train")}
    counts = Counter(found.values())
    assert counts["calibrate"] == 4
    assert counts["train"] == 28


def test_given_calibrate_and_test_stay(tmp_path):
    files = {f"{s}/{n}": d for k, s in enumerate(("train", "val", "test"))
             for n, d in p.classes(6, start=50 * k).items()}  # fmt: skip
    files["train/cat/again.jpg"] = saved_again(files["val/cat/000.png"])
    files["val/dog/again.jpg"] = saved_again(files["test/dog/000.png"])
    out = made(tmp_path, files)
    named = {"train": "train", "val": "calibrate", "test": "test"}
    assert all(named[source.split("/")[0]] == split for source, split in splits(out).items())
    assert rejects(out) == {
        "train/cat/again.jpg": "duplicate_of_calibrate",
        "val/dog/again.jpg": "duplicate_of_test",
    }


def test_groups_stay_together(tmp_path):
    files = {f"{c}/video{v}_{n}.png": p.picture(100 * k + 10 * v + n)
             for k, c in enumerate(("cat", "dog")) for v in range(8) for n in range(3)}  # fmt: skip
    out = made(tmp_path, files, group_by=r"(\w+/video\d+)_")
    by_group = {}
    for source, split in splits(out).items():
        by_group.setdefault(source.split("_")[0], set()).add(split)
    assert len(by_group) == 16
    assert all(len(found) == 1 for found in by_group.values())
    # A whole match is a key as well; one patient in two classes is one group.
    out = made(tmp_path, files, "two", group_by=r"video\d+")
    by_group = {}
    for source, split in splits(out).items():
        by_group.setdefault(source.split("/")[1][:6], set()).add(split)
    assert all(len(found) == 1 for found in by_group.values())


def test_a_train_image_of_a_test_group_is_rejected(tmp_path):
    files = {f"train/{n}": d for n, d in p.classes(9).items()} | {
        f"test/{n}": d for n, d in p.classes(2, start=50).items()
    }
    out = made(tmp_path, files, group_by=r"cat/000")
    assert rejects(out) == {"train/cat/000.png": "group_in_test"}


@pytest.mark.parametrize(
    ("pattern", "word"), [("(", "no regular expression"), ("patient", "matches no image")]
)
def test_group_by_that_can_not_work(tmp_path, pattern, word):
    with pytest.raises(UserError, match=word) as caught:
        made(tmp_path, p.classes(5), group_by=pattern)
    assert "preprocess.group_by" in str(caught.value)


def test_train_per_class_cuts_train_alone(tmp_path):
    files = p.classes(20)
    whole, cut = made(tmp_path, files, "whole"), made(tmp_path, files, "cut", train_per_class=5)
    assert Shards.open(cut / "train").index["class_counts"] == {"cat": 5, "dog": 5}
    assert splits(cut).items() <= splits(whole).items()
    assert Counter(rejects(cut).values()) == {"train_per_class": 18}
    less = made(tmp_path, files, "less", train_per_class=3)
    assert splits(less).items() <= splits(cut).items()


def test_too_few_images_for_three_splits(tmp_path):
    with pytest.raises(
        UserError, match=r"class 'eel' has no image in calibrate: 2 images in 2 groups"
    ) as caught:
        made(tmp_path, p.classes(9) | {f"eel/{n}.png": p.picture(90 + n) for n in range(2)})
    assert len(str(caught.value).splitlines()) <= 6
    three = made(tmp_path, p.classes(3), "three")
    assert Counter(splits(three).values()) == {"train": 2, "calibrate": 2, "test": 2}


def test_unlabelled_images_are_split_too(tmp_path):
    out = made(tmp_path, {f"{n}.png": p.picture(n) for n in range(20)})
    assert Counter(splits(out).values()) == {"train": 14, "calibrate": 2, "test": 4}
    assert Shards.open(out / "train").classes == []
    assert Shards.open(out / "train").index["class_counts"] == {}


def test_one_image_that_can_not_be_prepared_is_a_reject(tmp_path, monkeypatch):
    from tasks import imaging

    decode, failed = imaging.decode, []

    def once(*arguments):
        if not failed:
            failed.append(1)
            raise SyntaxError("broken PNG file")
        return decode(*arguments)

    monkeypatch.setattr("tasks.imaging.decode", once)
    out = made(tmp_path, p.classes(6))
    assert list(rejects(out).values()) == ["undecodable"]
    assert len(splits(out)) == 11


def test_shards_are_cut_by_number_and_by_bytes(tmp_path, monkeypatch):
    out = made(tmp_path, p.classes(10), shard_size=6)
    assert [pq.read_metadata(s).num_rows for s in Shards.open(out / "train").paths] == [6, 6, 2]
    monkeypatch.setattr("tasks.splitting.SHARD_BYTES", 1)
    assert len(Shards.open(p.preprocessed(tmp_path / "x.raw", tmp_path / "y") / "train").paths) == 14


# Dealing


groupings = st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=60
)  # a group is its members' labels


@settings(max_examples=150, deadline=None)
@given(groupings, st.randoms(use_true_random=False))
def test_dealing_keeps_groups_whole_and_ignores_order(labelled, random):
    labels = [label for group in labelled for label in group]
    numbers = iter(range(len(labels)))
    groups = [[next(numbers) for _ in group] for group in labelled]
    order = [f"{hash((n, 7)) & 0xFFFFFF:08x}{n}" for n in range(len(labels))]
    dealt = deal(groups, labels, order, SHARES)
    where = {row: split for split, rows in dealt.items() for row in rows}
    assert sorted(where) == list(range(len(labels)))
    assert all(len({where[row] for row in group}) == 1 for group in groups)
    shuffled = [random.sample(group, len(group)) for group in random.sample(groups, len(groups))]
    again = deal(shuffled, labels, order, SHARES)
    assert {s: sorted(r) for s, r in again.items()} == {s: sorted(r) for s, r in dealt.items()}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(3, 60), min_size=1, max_size=5), st.integers(0, 1000))
def test_single_images_meet_shares(sizes, salt):
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    order = [f"{(n * 2654435761 + salt) % 2**32:08x}" for n in range(len(labels))]
    dealt = deal([[n] for n in range(len(labels))], labels, order, SHARES)
    for label, size in enumerate(sizes):
        for split, share in SHARES.items():
            count = sum(labels[row] == label for row in dealt[split])
            assert count >= 1
            assert abs(count - share * size) <= 2 or size < 10


def test_a_large_group_goes_to_train():
    groups = [list(range(50)), *[[n] for n in range(50, 100)]]
    dealt = deal(groups, [0] * 100, [f"{n:03d}" for n in range(100)], SHARES)
    assert 0 in dealt["train"]
    assert {s: len(r) for s, r in dealt.items()} == {"train": 70, "calibrate": 10, "test": 20}


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_groups_are_the_connected_parts(pairs):
    groups = Groups(20)
    for pair in pairs:
        groups.join(*pair)
    parts = [{n} for n in range(20)]
    for a, b in pairs:
        one, other = (next(part for part in parts if n in part) for n in (a, b))
        if one is not other:
            parts.remove(other)
            one |= other
    assert sorted(map(sorted, groups.members(range(20)))) == sorted(map(sorted, parts))


# Twins


def images(count, size=32, seed=0):
    return np.stack([np.moveaxis(np.asarray(p.noise(seed + n, size)), -1, 0) for n in range(count)])


def pairs_of(x):
    from tasks.imaging import thumbs

    return {tuple(pair) for pair in near_pairs(thumbs(x), lambda rows: x[rows]).tolist()}


def test_strangers_are_not_paired():
    assert pairs_of(images(300)) == set()


@pytest.mark.parametrize("change", ["jpeg", "noise", "brighter", "paler", "resized"])
def test_twins_are_found_among_strangers(change):
    x = images(200)
    rng = np.random.default_rng(1)
    twins = x[:40].astype(float)
    if change == "jpeg":
        pictures = [Image.fromarray(np.moveaxis(i, 0, -1)) for i in x[:40]]
        again = [Image.open(io.BytesIO(p.encoded(i, "jpeg", quality=75))) for i in pictures]
        twins = np.stack([np.moveaxis(np.asarray(i), -1, 0) for i in again])
    elif change == "noise":
        twins += rng.normal(0, 3, twins.shape)
    elif change == "brighter":
        twins += 20
    elif change == "paler":
        twins = 0.85 * twins + 10
    else:
        twins = np.stack([np.moveaxis(np.asarray(p.noise(n, 64).resize((32, 32))), -1, 0) for n in range(40)])
    found = pairs_of(np.concatenate([x, np.clip(twins, 0, 255).astype(np.uint8)]))
    assert found <= {(n, 200 + n) for n in range(40)}
    assert len(found) >= 38


def test_flat_images_are_twins_only_if_they_are_alike():
    x = np.zeros((6, 1, 16, 16), np.uint8)
    x[2:4], x[4:] = 128, 255
    x[1, 0, 3, 3] = 6
    assert pairs_of(x) == {(0, 1), (2, 3), (4, 5)}


def test_colour_tells_images_of_the_same_grey_apart():
    x = np.zeros((2, 3, 16, 16), np.uint8)
    x[:, :, :8] = 60
    x[0, 0] += 90
    x[1, 2] += 90
    assert pairs_of(x) == set()


def test_thousands_alike_do_not_need_all_pairs(monkeypatch):
    monkeypatch.setattr("tasks.splitting.twins.REACH", 4)
    x = np.repeat(images(1), 200, axis=0) // np.uint8(2)
    x += (np.arange(200) % 7).astype(np.uint8)[:, None, None, None]
    groups = Groups(200)
    found = pairs_of(x)
    assert len(found) < 200 * 4 * 8
    for pair in found:
        groups.join(*pair)
    assert len(groups.members(range(200))) == 1
