import shutil
from dataclasses import replace

import numpy as np
import pytest

from tasks.device import Device, prepare
from tasks.errors import UserError
from tasks.params import EvaluateParams, Machine
from tasks.probing import (
    Images,
    Outcome,
    Splits,
    Trial,
    arm_images,
    fit,
    gather,
    order,
    spread,
    summarise,
    synthetic_rows,
    trials,
)
from tests import making

ARMS = ["real", "synthetic", "unfiltered", "random_drop", "real_synthetic"]
PARAMS = EvaluateParams(arms=ARMS, seeds=2, images=1_200, batch=40)


@pytest.fixture(scope="module")
def device() -> Device:
    return prepare(Machine(device="cpu", threads=1), "fp32")


def gathered(data) -> Splits:
    real = data / "real"
    return gather(real / "train", real / "calibrate", real / "test", data / "synthetic", data / "scores")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return making.stages(tmp_path_factory.mktemp("probing") / "data")


@pytest.fixture(scope="module")
def splits(data):
    return gathered(data)


@pytest.fixture(scope="module")
def outcomes(splits, device):
    return [fit(trial, splits, PARAMS, device) for trial in trials(PARAMS, splits)]


def made(labels):
    return Images(making.pictures(labels, 0), labels, np.arange(len(labels)).astype(str))


def test_arms_hold_the_images_that_they_promise(splits):
    ids = {arm: arm_images(Trial(arm, 0), splits, 0).ids.tolist() for arm in ARMS}
    real, drawn = splits.train.ids.tolist(), splits.synthetic.ids.tolist()
    kept = [i for i, reason in zip(drawn, splits.reasons, strict=True) if reason is None]
    assert ids["real"] == real
    assert ids["synthetic"] == kept
    assert ids["unfiltered"] == drawn[:48]
    assert ids["real_synthetic"] == real + kept
    assert len(ids["random_drop"]) == 48
    assert ids["random_drop"] != kept


def test_random_drop_loses_as_many_of_each_class_and_is_redrawn_per_seed():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400)
    kept = rng.random(400) < np.array([0.9, 0.5, 0.2, 0.0])[labels]
    drawn = [synthetic_rows("random_drop", labels, kept, np.random.default_rng(s)) for s in (1, 1, 2)]
    for rows in drawn:
        assert np.array_equal(np.bincount(labels[rows], minlength=4), np.bincount(labels[kept], minlength=4))
        assert len(set(rows)) == len(rows)
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_trials_of_every_arm_and_seed_have_the_same_budget(outcomes):
    assert len({(o.trial.arm, o.trial.seed) for o in outcomes}) == 10
    assert {o.curve[-1]["images"] for o in outcomes} == {1_200}


def test_a_trial_is_the_same_alone_and_after_others(splits, outcomes, device):
    again = fit(Trial("random_drop", 1), splits, PARAMS, device)
    before = next(o for o in outcomes if o.trial == again.trial)
    assert np.array_equal(again.predicted, before.predicted)
    assert again.curve == before.curve


def test_seeds_differ(outcomes):
    curves = [tuple(p["loss"] for p in o.curve) for o in outcomes]
    assert len(set(curves)) == len(curves)


def test_the_probe_learns_what_can_be_learnt_and_metrics_say_so(splits, outcomes):
    metrics = summarise(PARAMS, splits, outcomes)
    for arm in ARMS:
        found = metrics["accuracy"][arm]
        assert found["mean"] > 0.9, arm
        assert len(found["per_seed"]) == 2
        assert found["mean"] == pytest.approx(np.mean(found["per_seed"]), abs=1e-6)
        assert list(found["per_class"]) == making.CLASSES
        assert np.mean(list(found["per_class"].values())) == pytest.approx(found["mean"], abs=1e-5)
    assert metrics["kept_ratio"] == 0.8
    assert metrics["after"]["frechet_distance"] == 3.0
    assert metrics["notes"] == []


def test_wrong_labels_cost_accuracy(splits, device):
    """The measure can fall: with labels turned round, the synthetic arm knows nothing of the truth."""
    turned = replace(splits, synthetic=splits.synthetic.take(np.arange(60)))
    turned.synthetic.y[:] = (turned.synthetic.y + 1) % 3
    outcome = fit(Trial("synthetic", 0), turned, PARAMS, device)
    assert (outcome.predicted == splits.test.y).mean() < 0.2


def test_differences_are_paired_by_seed():
    truth = np.arange(30) % 3
    splits = Splits(making.CLASSES, *[made(truth)] * 4, np.full(30, None), {})

    def outcome(arm, seed, right):
        return Outcome(Trial(arm, seed), 30, np.where(np.arange(30) < right, truth, truth + 1), [])

    found = [
        outcome("real", 0, 27),
        outcome("synthetic", 0, 24),
        outcome("real", 1, 21),
        outcome("synthetic", 1, 15),
    ]
    params = EvaluateParams(arms=["real", "synthetic"], seeds=2)
    metrics = summarise(params, splits, found)
    assert metrics["accuracy"]["real"] == {
        "mean": 0.8,
        "std": pytest.approx(0.1414, abs=1e-4),
        "per_seed": [0.9, 0.7],
        "per_class": {"bar": 0.8, "line": 0.8, "row": 0.8},
        "images": 30,
    }
    assert list(metrics["difference"]) == ["synthetic_minus_real"]
    assert metrics["difference"]["synthetic_minus_real"]["per_seed"] == [-0.1, -0.2]
    assert metrics["difference"]["synthetic_minus_real"]["mean"] == pytest.approx(-0.15)


def test_nothing_kept_is_measured_as_nothing_with_a_note(tmp_path, device):
    splits = gathered(making.stages(tmp_path / "data", reasons=["copy"] * 60))
    params = PARAMS.model_copy(update={"images": 80, "seeds": 1})
    metrics = summarise(params, splits, [fit(t, splits, params, device) for t in trials(params, splits)])
    for arm in ("synthetic", "unfiltered", "random_drop"):
        assert metrics["accuracy"][arm]["mean"] is None
        assert metrics["accuracy"][arm]["images"] == 0
        assert any(note.startswith(arm) for note in metrics["notes"])
    assert metrics["accuracy"]["real"]["mean"] is not None
    assert metrics["accuracy"]["real"]["std"] is None
    assert metrics["difference"]["synthetic_minus_real"]["mean"] is None


def test_a_class_with_nothing_kept_is_told(tmp_path, device):
    reasons = ["copy" if n % 3 == 1 else None for n in range(60)]
    splits = gathered(making.stages(tmp_path / "data", reasons=reasons))
    params = EvaluateParams(arms=["synthetic"], seeds=1, images=400, batch=40)
    metrics = summarise(params, splits, [fit(t, splits, params, device) for t in trials(params, splits)])
    assert metrics["accuracy"]["synthetic"]["per_class"]["line"] == 0
    assert metrics["notes"] == ["class 'line': no synthetic image was kept."]


@pytest.mark.parametrize("classes", [[], ["only"]])
def test_accuracy_needs_labels_of_two_classes(splits, classes):
    unlabelled = replace(splits, classes=classes)
    assert trials(PARAMS, unlabelled) == []
    metrics = summarise(PARAMS, unlabelled, [])
    assert "labels" in metrics["notes"][0]
    assert metrics["accuracy"]["synthetic"]["mean"] is None
    assert metrics["before"]["frechet_distance"] == 3.5


def test_what_is_no_number_is_null(splits):
    odd = replace(splits, measures={"after": {"frechet_distance": float("nan"), "kid": 0.5}})
    assert summarise(PARAMS, odd, [])["after"] == {"frechet_distance": None, "kid": 0.5}


def test_order_sees_every_image_once_a_pass():
    rows = order(7, 20).tolist()
    assert len(rows) == 20
    assert sorted(rows[:7]) == sorted(rows[7:14]) == list(range(7))


def test_spread_of_one_seed_has_no_deviation():
    assert spread([0.5]) == {"mean": 0.5, "std": None, "per_seed": [0.5]}
    assert spread([]) == {"mean": None, "std": None, "per_seed": []}
    assert spread([None, 1.0, 0.0])["std"] == pytest.approx(0.707107)


def test_scores_of_other_samples_are_refused(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "data")
    (copy / "scores/shard-00001.parquet").unlink()
    shutil.copy(copy / "scores/shard-00002.parquet", copy / "scores/shard-00001.parquet")
    with pytest.raises(UserError, match="other samples"):
        gathered(copy)


def test_splits_of_other_classes_are_refused(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "data")
    shutil.rmtree(copy / "real/test")
    making.real(copy / "real/test", 4, 3, ["a", "b"])
    with pytest.raises(UserError, match="2 classes"):
        gathered(copy)
