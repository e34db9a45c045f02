"""What passes the check is cut into shards; what does not is named with its reason."""

import pyarrow.parquet as pq
import pytest

from tasks import fetching
from tasks.shards import Shards
from tests import pictures as p


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
    assert p.rejects(out) == {
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
    assert p.rejects(out) == {
        "train/cat/a2.png": "duplicate",
        "train/cat/b.png": "conflicting_labels",
        "train/dog/b.png": "conflicting_labels",
        "train/cat/c.png": "duplicate_of_test",
    }
    ids = [r["id"] for r in p.rows(out)]
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
    text = p.refused(p.write(tmp_path / "in", files), tmp_path)
    assert all(word in text for word in ["ingest.", *words]), text
