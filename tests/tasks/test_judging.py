"""The judge learns the real classes, and keeps what held-out real images measure."""

import json

import numpy as np
import pytest

from tasks import judging, originals
from tasks.device import prepare
from tasks.errors import UserError
from tasks.params import CalibrateParams, Machine
from tasks.shards import Shards, file_digest, seal
from tests import making

DEVICE = prepare(Machine(device="cpu", threads=1), "fp32")
PARAMS = CalibrateParams(images=3_000, batch=32, precision="fp32")


def calibrate(root, classes=making.CLASSES, name="reference"):
    train, held_out = root / "train", root / "calibrate"
    if not train.exists():
        making.real(train, 20, seed=1, classes=classes)
        making.real(held_out, 10, seed=2, classes=classes)
    folder = root / name
    folder.mkdir()
    judging.fit_judge(train, PARAMS, DEVICE, folder)
    metrics = originals.measure_real(train, held_out, DEVICE, folder)
    return seal(folder), metrics


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    root = tmp_path_factory.mktemp("calibrated")
    return root, *calibrate(root)


def test_judge_tells_the_held_out_classes_apart(calibrated):
    _, folder, metrics = calibrated
    assert metrics["accuracy"] >= 0.95
    assert json.loads((folder / "metrics.json").read_text())["judge"]["images"] == {
        "train": 60,
        "calibrate": 30,
    }


def test_reference_keeps_features_of_both_splits(calibrated):
    root, folder, _ = calibrated
    real = judging.Reference(folder)
    assert real.features("train").shape == (60, real.facts["dimensions"])
    assert list(real.ids("calibrate")) == Shards.open(root / "calibrate").table(["id"])["id"].to_pylist()


def test_same_params_same_bytes(calibrated):
    root, folder, _ = calibrated
    again, _ = calibrate(root, name="again")
    assert file_digest(folder / "index.json") == file_digest(again / "index.json")


def test_unlabelled_images_are_judged_by_what_rotations_teach(tmp_path):
    folder, metrics = calibrate(tmp_path, classes=[])
    real = judging.Reference(folder)
    assert real.facts["task"] == "rotations"
    assert "accuracy" not in metrics
    assert real.probabilities("calibrate") is None
    assert np.isnan(real.column("calibrate", "probability")).all()
    assert np.isfinite(real.column("calibrate", "train_distance")).all()


def test_a_missing_reference_is_named(tmp_path):
    with pytest.raises(UserError, match="dvc repro calibrate"):
        _ = judging.Reference(tmp_path / "none").facts
