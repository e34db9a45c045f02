from dataclasses import replace

import numpy as np
import pytest

from tasks.params import EvaluateParams
from tasks.probing import Outcome, Trial, fit, summarise, trials
from tasks.probing.summary import spread
from tests import making
from tests.tasks.probing.sets import alike, gathered, outcome

ARMS = ["real", "synthetic", "unfiltered", "random_drop", "real_synthetic"]
PARAMS = EvaluateParams(arms=ARMS, seeds=2, images=1_200, batch=40)


def test_differences_are_paired_by_seed():
    truth = np.arange(30) % 3
    splits = alike(truth)
    found = [
        outcome("real", 0, 27, truth),
        outcome("synthetic", 0, 24, truth),
        outcome("real", 1, 21, truth),
        outcome("synthetic", 1, 15, truth),
    ]
    params = EvaluateParams(arms=["real", "synthetic"], seeds=2)
    metrics = summarise(params, splits, found)
    real = metrics["accuracy"]["real"]
    assert list(real) == [
        "mean",
        "std",
        "per_seed",
        "low",
        "high",
        "per_class",
        "per_class_interval",
        "images",
    ]
    assert (real["mean"], real["per_seed"], real["images"]) == (0.8, [0.9, 0.7], 30)
    assert real["std"] == pytest.approx(0.1414, abs=1e-4)
    assert real["per_class"] == {"bar": 0.8, "line": 0.8, "row": 0.8}
    assert list(metrics["difference"]) == ["synthetic_minus_real"]
    assert metrics["difference"]["synthetic_minus_real"]["per_seed"] == [-0.1, -0.2]
    assert metrics["difference"]["synthetic_minus_real"]["mean"] == pytest.approx(-0.15)


def measured(right, seeds=2, classes=3, **changes):
    """Metrics of arms whose probes labelled the given images correctly, (seeds, images) bool an arm."""
    truth = np.arange(len(next(iter(right.values()))[0])) % classes
    params = EvaluateParams(arms=list(right), seeds=seeds)
    found = [outcome(a, s, hits[s], truth) for s in range(seeds) for a, hits in right.items()]
    return summarise(params, alike(truth, **changes), found)


def test_every_mean_lies_in_its_interval_whole_and_per_class():
    rng = np.random.default_rng(0)
    right = {arm: rng.random((3, 240)) < share for arm, share in (("real", 0.8), ("real_synthetic@2", 0.9))}
    metrics = measured(right, seeds=3)
    for found in metrics["accuracy"].values():
        assert found["low"] < found["mean"] < found["high"]
        assert list(found["per_class_interval"]) == making.CLASSES
        for name, of_class in found["per_class_interval"].items():
            assert of_class["low"] < found["per_class"][name] < of_class["high"]
            assert of_class["high"] - of_class["low"] > found["high"] - found["low"]
    gain = metrics["difference"]["real_synthetic@2_minus_real"]
    assert 0 < gain["low"] < gain["mean"] < gain["high"]
    for name, of_class in gain["per_class"].items():
        a, b = (metrics["accuracy"][arm]["per_class"][name] for arm in ("real_synthetic@2", "real"))
        assert of_class["mean"] == pytest.approx(a - b, abs=1e-6)
        assert of_class["low"] < of_class["mean"] < of_class["high"]


def test_a_difference_is_paired_by_test_image():
    """The same eight images apart: sure where both arms err on the same others, not where they don't."""
    rows = np.arange(300)
    nested = {"real": [rows >= 100], "real_synthetic": [rows >= 92]}
    apart = {"real": [rows >= 100], "real_synthetic": [rows < 208]}
    sure, unsure = (
        measured(right, seeds=1)["difference"]["real_synthetic_minus_real"] for right in (nested, apart)
    )
    assert sure["mean"] == unsure["mean"] == pytest.approx(8 / 300, abs=1e-6)
    assert sure["low"] > 0 > unsure["low"]


def test_intervals_repeat_and_do_not_depend_on_the_other_arms():
    rng = np.random.default_rng(1)
    right = {arm: rng.random((2, 60)) < 0.8 for arm in ("real", "synthetic", "unfiltered")}
    once, again = measured(right), measured(right)
    assert once == again
    fewer = measured({arm: right[arm] for arm in ("unfiltered", "real")})
    assert fewer["accuracy"]["real"] == once["accuracy"]["real"]


def test_an_arm_that_asks_for_too_much_is_told_with_its_mend():
    truth = np.arange(30) % 3
    params = EvaluateParams(arms=["real", "real_synthetic@2"], seeds=1)
    found = [outcome("real", 0, 27, truth), Outcome(Trial("real_synthetic@2", 0), 0, None, [])]
    metrics = summarise(params, alike(truth, truth[:24]), found)
    assert metrics["accuracy"]["real_synthetic@2"]["mean"] is None
    assert metrics["accuracy"]["real_synthetic@2"]["low"] is None
    assert metrics["difference"]["real_synthetic@2_minus_real"]["low"] is None
    assert metrics["difference"]["real_synthetic@2_minus_real"]["per_class"]["bar"]["mean"] is None
    assert metrics["notes"] == [
        "real_synthetic@2: not measured; 2 times 30 real images ask for 60 kept ones, class by class, "
        "and 36 are lacking. Raise generate.num_samples."
    ]


def test_what_the_scores_say_of_their_measures_is_passed_on():
    said = {"interval": {"recall": {"low": 0.5, "high": float("nan")}}, "set_notes": ["few"], "other": 1}
    metrics = measured({"real": np.ones((2, 9), bool)}, measures=said)
    assert metrics["interval"] == {"recall": {"low": 0.5, "high": None}}
    assert metrics["set_notes"] == ["few"]
    assert not {"shortage", "extractors", "other"} & set(metrics)


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


def test_spread_of_one_seed_has_no_deviation():
    assert spread([0.5]) == {"mean": 0.5, "std": None, "per_seed": [0.5]}
    assert spread([]) == {"mean": None, "std": None, "per_seed": []}
    assert spread([None, 1.0, 0.0])["std"] == pytest.approx(0.707107)
