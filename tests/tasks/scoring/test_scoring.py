"""Nothing is dropped without a reason, and each reason finds what it names."""

import json

import numpy as np
import pytest

from tasks import judging, originals, scoring
from tasks.device import prepare
from tasks.params import CalibrateParams, FilterParams, Machine
from tasks.scoring.limits import RULES
from tasks.shards import Shards, read_shard, seal
from tests import making

DEVICE = prepare(Machine(device="cpu", threads=1), "fp32")
ON = {"unlike_label": 0.02, "copied": 0.002, "duplicate": 0.002, "outlier": 0.0}


def params(**changes):
    return FilterParams(**{**dict.fromkeys(RULES), **ON, "precision": "fp32", **changes})


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    root = tmp_path_factory.mktemp("reference")
    train = making.real(root / "train", 30, seed=1)
    held_out = making.real(root / "calibrate", 20, seed=2)
    folder = root / "out"
    folder.mkdir()
    judging.fit_judge(train, CalibrateParams(images=4_000, batch=32, precision="fp32"), DEVICE, folder)
    originals.measure_real(train, held_out, DEVICE, folder)
    return seal(folder), train


def score(folder, known, x, labels, classes=making.CLASSES, wanted=None, **changes):
    reference, train = known
    synthetic = making.shards(
        folder / "synthetic", making.samples(x, labels, "s"), classes, wanted=wanted or {}
    )
    out = folder / "scores"
    out.mkdir()
    for shard in Shards.open(synthetic).paths:
        scoring.measure_shard(shard, reference, train, DEVICE, out)
    metrics = scoring.judge_rows(synthetic, reference, params(**changes), DEVICE, out)
    seal(out, classes=classes)
    rows = [row for p in Shards.open(out).paths for row in read_shard(p).to_pylist()]
    return rows, metrics, out


@pytest.fixture(scope="module")
def planted(tmp_path_factory, reference):
    """Sound images, with train images, copies of them, wrong labels and repeats among them."""
    _, train = reference
    labels = np.arange(45) % 3
    x = making.pictures(labels, seed=3)
    real = Shards.open(train)
    x[:5], labels[:5] = real.pixels()[:5], real.labels()[:5]
    x[5:8], labels[5:8] = np.roll(real.pixels()[5:8], 1, axis=3), real.labels()[5:8]
    labels[10:15] = (labels[10:15] + 1) % 3
    x[31:34], labels[31:34] = x[30], labels[30]
    return score(tmp_path_factory.mktemp("planted"), reference, x, labels, unlike_label=0.0)


def test_planted_faults_are_found(planted):
    rows, _, _ = planted
    assert [r["reason"] for r in rows[:8]] == ["identical"] * 5 + ["copied"] * 3
    assert all("unlike_label" in r["reasons"] for r in rows[10:15])
    assert [r["reason"] for r in rows[31:34]] == ["duplicate"] * 3
    assert rows[30]["kept"]
    assert sum(r["kept"] for r in rows) >= 24


def test_copies_name_their_original(planted, reference):
    rows, _, _ = planted
    ids = Shards.open(reference[1]).table(["id"])["id"].to_pylist()
    assert [r["nearest_copy"] for r in rows[:8]] == ids[:8]
    assert [r["neighbours"][0] for r in rows[:5]] == [r["nearest_train"] for r in rows[:5]] == ids[:5]
    assert all(r["train_distance"] < 1e-2 for r in rows[:5])
    assert all(len(r["neighbours"]) == 3 for r in rows)


def test_repeats_name_the_one_that_stays(planted):
    rows, _, _ = planted
    assert [r["duplicate_of"] for r in rows[31:34]] == [rows[30]["id"]] * 3
    assert rows[30]["duplicate_of"] is None
    assert all(r["sibling_residual"] == pytest.approx(0, abs=1e-6) for r in rows[30:34])


def test_a_training_image_is_dropped_whatever_the_params(tmp_path, reference):
    real = Shards.open(reference[1])
    x = np.concatenate([real.pixels()[:2], making.pictures(np.arange(6) % 3, 9)])
    labels = np.concatenate([real.labels()[:2], np.arange(6) % 3])
    rows, metrics, _ = score(tmp_path, reference, x, labels, **dict.fromkeys(ON, None))
    assert [r["reason"] for r in rows] == ["identical"] * 2 + [None] * 6
    assert metrics["before"]["copied_rate"] == 0.25
    assert metrics["rejected"]["copied"] == 0
    assert metrics["after"]["copied_rate"] == 0


def test_a_switch_decides_what_is_dropped_and_not_what_is_measured(tmp_path, reference):
    real = Shards.open(reference[1])
    labels = np.concatenate([real.labels()[:3], np.arange(9) % 3, [0, 0]])
    x = np.concatenate([np.roll(real.pixels()[:3], 1, axis=3), making.pictures(np.arange(9) % 3, 9)])
    x = np.concatenate([x, x[[3, 3]]])
    rows, metrics, _ = score(tmp_path, reference, x, labels, **dict.fromkeys(ON, None))
    assert all(r["kept"] for r in rows)
    assert metrics["after"]["copied_rate"] == pytest.approx(3 / 14, abs=1e-6)
    assert metrics["after"]["duplicate_rate"] == pytest.approx(2 / 14, abs=1e-6)
    assert [r["duplicate_of"] for r in rows[-2:]] == [rows[3]["id"]] * 2


def test_looks_drop_noise_blur_and_blanks(tmp_path, reference):
    labels = np.arange(12) % 3
    x = making.pictures(labels, 9)
    x[0], x[1], x[2] = 0, 128, 255
    rows, _, _ = score(tmp_path, reference, x, labels, flat=0.002, blurred=0.002)
    assert all("flat" in r["reasons"] for r in rows[:3])
    assert not any("flat" in r["reasons"] for r in rows[3:])


def test_a_shortage_says_how_many_lack_and_what_would_fill_it(tmp_path, reference, caplog):
    labels = np.array([0] * 10 + [1] * 10)
    x = making.pictures(labels, 9)
    x[:5] = 0
    wanted = {"bar": 10, "line": 10, "row": 0}
    _, metrics, _ = score(tmp_path, reference, x, labels, wanted=wanted, **dict.fromkeys(ON), flat=0.0)
    lacking = {"lacks": 5, "oversample": 2.0}
    assert metrics["shortage"] == {
        "bar": lacking, "line": {"lacks": 0, "oversample": None}, "row": {"lacks": 0, "oversample": None}
    }  # fmt: skip
    scoring.tell_shortage(metrics["shortage"])
    assert "lacking bar 5; generate.oversample: 2 would fill them" in caplog.text
    scoring.tell_shortage({"bar": {"lacks": 5, "oversample": 0.0}})
    assert "of bar none was kept" in caplog.text


def test_every_dropped_sample_has_its_reasons(planted):
    for row in planted[0]:
        assert row["kept"] == (row["reason"] is None) == (row["reasons"] == [])
        assert row["reason"] is None or row["reason"] == row["reasons"][0]
        assert set(row["reasons"]) <= set(scoring.MEANINGS)
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
    rows, metrics, _ = score(tmp_path, reference, making.pictures(labels, 9), labels, **off)
    assert all(r["kept"] for r in rows)
    assert metrics["kept_ratio"] == 1


def test_everything_dropped_is_measured_all_the_same(tmp_path, reference):
    labels = np.arange(9) % 3
    x = making.pictures(labels, 9)
    rows, metrics, _ = score(tmp_path, reference, x, (labels + 1) % 3, flat={"value": 1.0})
    assert not any(r["kept"] for r in rows)
    assert metrics["kept"] == 0
    assert metrics["after"]["frechet_distance"] is None


def test_a_lone_sample_has_no_sibling(tmp_path, reference):
    rows, _, _ = score(tmp_path, reference, making.pictures(np.array([1]), 9), np.array([1]))
    assert rows[0]["sibling_distance"] == np.inf
    assert rows[0]["nearest_sibling"] is None
