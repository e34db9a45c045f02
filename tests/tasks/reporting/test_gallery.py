"""The gallery's data: every sample is in it, with its own pixels, and the page stays small."""

import base64
import io
import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tasks.reporting import gallery
from tests import making
from tests.reports import PARAMS, gathered, report, rescore

LIMIT = 15_000_000


def data_of(data):
    return json.loads(gallery.collect(gathered(data), data / "synthetic", data / "scores")["data"])


def tile(found, sheets, n):
    """The pixels (side, side, 3) that the page cuts out for the n-th image of `sheets`."""
    each, across, cell, side = found["across"] ** 2, found["across"], found["cell"], found["side"]
    sheet = Image.open(io.BytesIO(base64.b64decode(found[sheets][n // each])))
    x, y = n % each % across * cell, n % each // across * cell
    return np.asarray(sheet.convert("RGB"))[y : y + side, x : x + side]


@pytest.fixture
def data(tmp_path):
    data = making.stages(tmp_path / "data")
    near = [[f"train{(n + k) % 60:05d}" for k in range(3)] for n in range(60)]
    near[1] = ["not there"]
    rescore(
        data / "scores",
        realism=pa.array([1 + n / 7 for n in range(60)], pa.float32()),
        in_manifold=pa.array([n % 2 == 0 for n in range(60)]),
        family_score=pa.nulls(60, pa.float32()),
        margin=pa.array([float("nan"), None, *[1e-7] * 58], pa.float32()),
        neighbours=pa.array(near),
        nearest_copy=pa.array([None] * 59 + ["train00007"]),
        duplicate_of=pa.array(["drawn00005"] + [None] * 59),
    )
    return data


def test_every_sample_has_its_own_pixels_and_its_neighbours_theirs(data):
    splits, found = gathered(data), data_of(data)
    assert found["id"] == splits.synthetic.ids.tolist()
    for n in (0, 31, 59):
        assert np.array_equal(tile(found, "sheets", n)[..., 0], splits.synthetic.x[n, 0])
        names = [found["realId"][k] for k in found["nearest"][n]]
        assert names == [f"train{(n + k) % 60:05d}" for k in range(3)]
        first = found["nearest"][n][0]
        assert np.array_equal(tile(found, "realSheets", first)[..., 0], splits.train.x[n % 60, 0])
    assert found["nearest"][1] == []
    assert found["copied"][:59] == [-1] * 59
    assert found["realId"][found["copied"][59]] == "train00007"
    assert found["sibling"][:3] == [5, 1, 2]


def test_every_column_of_numbers_is_shown_and_none_that_is_empty(data):
    found = {score["name"]: score for score in data_of(data)["scores"]}
    assert {"probability", "realism", "in manifold", "margin"} <= found.keys()
    assert not {"family score", "label", "kept", "id", "nearest train"} & found.keys()
    assert found["realism"]["values"][:3] == [1, 1.143, 1.286]
    assert found["in manifold"]["flag"]
    assert found["in manifold"]["values"][:2] == [1, 0]
    assert found["margin"]["values"][:3] == [None, None, 1e-7]


def test_reasons_are_those_of_each_dropped_sample(data):
    found = data_of(data)
    assert found["reasons"] == ["copied", "unsure"]
    assert [found["why"][n] for n in (0, 1, 5, 10)] == [[1], [], [0], [1]]


def test_the_judge_is_told_by_its_likeliest_classes():
    shares = pa.chunked_array([pa.array([[0.1, 0.7, 0.1, 0.0999, 0.0001], None], pa.list_(pa.float32()))])
    assert gallery.said({"probabilities": shares}) == [[1, 70.0, 0, 10.0, 2, 10.0], []]


def test_seeds_keep_all_their_digits(tmp_path):
    data = making.stages(tmp_path / "data")
    table = making.samples(
        making.pictures(np.zeros(60), 4), np.arange(60) % 3, "drawn", seed=[2**63 - 1 - n for n in range(60)]
    )
    again = making.shards(tmp_path / "synthetic", table, making.CLASSES)
    found = json.loads(gallery.collect(gathered(data), again, data / "scores")["data"])
    assert found["seed"][:2] == ["9223372036854775807", "9223372036854775806"]


def test_scores_that_name_no_more_than_the_nearest_will_do(tmp_path):
    found = data_of(making.stages(tmp_path / "data"))
    assert {len(line) for line in found["nearest"]} == {1}
    assert set(found["copied"]) == {-1}


def test_too_many_samples_are_thinned_evenly():
    rows = gallery.chosen(25, most=10)
    assert rows.tolist() == [0, 2, 5, 7, 10, 12, 15, 17, 20, 22]
    assert gallery.chosen(10, most=10).tolist() == list(range(10))


def test_neighbours_beyond_the_bound_are_left_out_the_farthest_first(data):
    splits = gathered(data)
    found = {
        "id": pa.chunked_array([["a", "b"]]),
        "neighbours": pa.chunked_array([[["train00001", "train00002"], ["train00003", "train00004"]]]),
        "nearest_copy": pa.chunked_array([[None, "train00009"]]),
    }
    near = gallery.neighbours(splits, found, most=3)
    assert splits.train.ids[near.rows].tolist() == ["train00001", "train00003", "train00009"]
    assert near.nearest == [[0], [1]]
    assert near.copied == [-1, 2]


def test_large_images_get_tiles_that_fit_and_colours_stay_in_their_cells():
    x = np.zeros((30, 3, 100, 100), np.uint8)
    x[::2, 0] = 255
    packed = gallery.pack([x, x[:3]], area=33 * 48 * 48)
    assert (packed.side, packed.cell, packed.quality) == (48, 48, None)
    lossy = gallery.pack([x[:, :, :28, :28]], budget=1)
    assert (lossy.cell, lossy.quality) == (32, gallery.QUALITIES[-1])
    found = {"across": lossy.across, "cell": lossy.cell, "side": lossy.side, "s": lossy.sets[0]}
    assert tile(found, "s", 0)[..., 0].mean() > 230
    assert tile(found, "s", 1).mean() < 10


def test_grey_stays_grey_when_it_is_compressed():
    x = np.random.default_rng(0).integers(0, 256, (40, 1, 16, 16), dtype=np.uint8)
    packed = gallery.pack([x], budget=9_000)
    assert packed.quality is not None
    assert sum(map(len, packed.sets[0])) <= 9_000
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(packed.sets[0][0]))).convert("RGB")).astype(int)
    assert np.ptp(sheet, axis=2).max() <= 2


@pytest.mark.parametrize(("size", "channels", "blank", "lossless"), [(28, 1, 0.8, True), (32, 3, 0.0, False)])
def test_ten_thousand_samples_stay_under_the_limit(tmp_path, monkeypatch, size, channels, blank, lossless):
    """Grey noise on a blank ground, lossless; and noise in colour, the worst that there is to compress."""
    monkeypatch.setattr(making, "SIZE", size)
    count = 10_000
    labels = np.arange(count) % 3
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (count, channels, size, size), dtype=np.uint8)
    x[rng.random(x.shape) < blank] = 0
    data = tmp_path / "data"
    real = making.samples(x[::-1], labels, "train")
    for name in ("train", "calibrate", "test"):
        table = real if name == "train" else real.slice(0, 36)
        making.shards(data / "real" / name, table, making.CLASSES, size=2_000, channels=channels)
    drawn = making.samples(x, labels, "drawn", seed=rng.integers(2**62, 2**63 - 1, count).tolist())
    facts = {"channels": channels, "generate": {}, "environment": {}}
    making.shards(data / "synthetic", drawn, making.CLASSES, size=2_000, **facts)
    making.scores(data / "scores", data / "synthetic", [None if n % 5 else "copied" for n in range(count)])
    more = {f"measure_{k}": pa.array(rng.random(count), pa.float32()) for k in range(15)}
    near = pa.array([[f"train{(n + k) % count:05d}" for k in range(3)] for n in range(count)])
    rescore(data / "scores", neighbours=near, **more)
    making.checkpoint(data / "checkpoint")
    wrong = {arm: [1, 1] for arm in PARAMS.arms}
    page = report(data, tmp_path / "report", wrong) / "report.html"
    assert page.stat().st_size < LIMIT
    text = page.read_text()
    assert f"All {count:,} samples" in text
    assert ("compressed to WebP" not in text) == lossless
