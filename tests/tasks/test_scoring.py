"""Nothing is dropped without a reason, and each reason finds what it names."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import judging, scoring
from tasks.device import prepare
from tasks.params import CalibrateParams, FilterParams, Machine
from tasks.shards import Shards, read_shard, seal
from tests import making

DEVICE = prepare(Machine(device="cpu", threads=1), "fp32")
ON = {"probability": 0.02, "copy_distance": 0.002, "outlier_distance": 1.0, "sibling_distance": 0.002}


def params(**changes):
    return FilterParams(**{**ON, "margin": None, "precision": "fp32", **changes})


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    root = tmp_path_factory.mktemp("reference")
    train = making.real(root / "train", 30, seed=1)
    held_out = making.real(root / "calibrate", 20, seed=2)
    folder = root / "out"
    folder.mkdir()
    judging.fit_judge(train, CalibrateParams(images=4_000, batch=32, precision="fp32"), DEVICE, folder)
    judging.measure_real(train, held_out, DEVICE, folder)
    return seal(folder), train


def score(folder, reference, x, labels, classes=making.CLASSES, **changes):
    synthetic = making.shards(folder / "synthetic", making.samples(x, labels, "s"), classes)
    out = folder / "scores"
    out.mkdir()
    for shard in Shards.open(synthetic).paths:
        scoring.measure_shard(shard, reference, DEVICE, out)
    metrics = scoring.judge_rows(synthetic, reference, scoring.bounds(params(**changes), reference), out)
    seal(out, classes=classes)
    rows = [row for p in Shards.open(out).paths for row in read_shard(p).to_pylist()]
    return rows, metrics, out


@pytest.fixture(scope="module")
def planted(tmp_path_factory, reference):
    """Sound images, with copies of train images, wrong labels and repeats among them."""
    folder, train = reference
    labels = np.arange(45) % 3
    x = making.pictures(labels, seed=3)
    real = Shards.open(train)
    x[:5], labels[:5] = real.pixels()[:5], real.labels()[:5]
    labels[10:15] = (labels[10:15] + 1) % 3
    x[31:34], labels[31:34] = x[30], labels[30]
    return score(tmp_path_factory.mktemp("planted"), folder, x, labels, probability=0.0)


def test_planted_faults_are_found(planted):
    rows, _, _ = planted
    assert [r["reason"] for r in rows[:5]] == ["copy"] * 5
    assert all("unlike_label" in r["reasons"] for r in rows[10:15])
    assert [r["reason"] for r in rows[31:34]] == ["duplicate"] * 3
    assert rows[30]["kept"]
    assert sum(r["kept"] for r in rows) >= 24


def test_copies_name_their_original(planted, reference):
    rows, _, _ = planted
    originals = Shards.open(reference[1]).table(["id"])["id"].to_pylist()[:5]
    assert [r["nearest_train"] for r in rows[:5]] == originals
    assert all(r["train_distance"] < 1e-2 for r in rows[:5])


def test_every_dropped_sample_has_its_reasons(planted):
    for row in planted[0]:
        assert row["kept"] == (row["reason"] is None) == (row["reasons"] == [])
        assert row["reason"] is None or row["reason"] == row["reasons"][0]
        assert set(row["reasons"]) <= set(scoring.REASONS)
        assert sum(row["probabilities"]) == pytest.approx(1, abs=5e-3)


def test_metrics_count_what_the_rows_say(planted):
    rows, metrics, out = planted
    kept = sum(r["kept"] for r in rows)
    assert (metrics["samples"], metrics["kept"]) == (45, kept)
    assert sum(metrics["rejected"].values()) == 45 - kept
    assert sum(c["kept"] for c in metrics["per_class"].values()) == kept
    assert json.loads((out / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    assert metrics["after"].keys() == metrics["before"].keys() == metrics["scale"].keys()


def test_the_work_leaves_nothing_but_scores(planted):
    names = {p.name for p in planted[2].iterdir()}
    assert names == {"index.json", "metrics.json", *(f"shard-{n:05d}.parquet" for n in range(3))}


def test_everything_switched_off_keeps_everything(tmp_path, reference):
    labels = np.arange(9) % 3
    off = dict.fromkeys(ON, None)
    rows, metrics, _ = score(tmp_path, reference[0], making.pictures(labels, 9), labels, **off)
    assert all(r["kept"] for r in rows)
    assert metrics["kept_ratio"] == 1


def test_everything_dropped_is_measured_all_the_same(tmp_path, reference):
    labels = np.arange(9) % 3
    rows, metrics, _ = score(
        tmp_path, reference[0], making.pictures(labels, 9), (labels + 1) % 3, copy_distance=1.0
    )
    assert not any(r["kept"] for r in rows)
    assert metrics["kept"] == 0
    assert metrics["after"]["frechet_distance"] is None


def test_a_lone_sample_has_no_sibling(tmp_path, reference):
    rows, _, _ = score(tmp_path, reference[0], making.pictures(np.array([1]), 9), np.array([1]))
    assert rows[0]["sibling_distance"] == np.inf
    assert rows[0]["nearest_sibling"] is None


@given(st.lists(st.integers(0, 4), min_size=2, max_size=30))
def test_of_each_crowd_the_first_stays(points):
    features = np.array(points, np.float32)[:, None] * 10
    distance, row = scoring.siblings(features)
    for n in range(len(points)):
        assert n not in row[n]
    limit, one_class = np.array([1.0]), np.zeros(len(points), int)
    repeats = scoring._repeats(distance, row, limit, one_class, np.ones(len(points), bool))
    stays = {p for p, r in zip(points, repeats, strict=True) if not r}
    assert stays == set(points)
    for p in stays:
        assert not repeats[points.index(p)]
