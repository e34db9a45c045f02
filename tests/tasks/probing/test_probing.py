from dataclasses import replace

import numpy as np
import pytest
import torch

from tasks import probing
from tasks.params import EvaluateParams
from tasks.probing import Trial, fit, order, summarise, trials
from tests import making

ARMS = ["real", "synthetic", "unfiltered", "random_drop", "real_synthetic"]
PARAMS = EvaluateParams(arms=ARMS, seeds=2, images=1_200, batch=40)


@pytest.fixture(scope="module")
def outcomes(splits, device):
    return [fit(trial, splits, PARAMS, device) for trial in trials(PARAMS, splits)]


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
        assert found["low"] <= found["mean"] <= found["high"]
    assert metrics["kept_ratio"] == 0.8
    assert metrics["after"]["frechet_distance"] == 3.0
    assert metrics["notes"] == []


def test_wrong_labels_cost_accuracy(splits, device):
    """The measure can fall: with labels turned round, the synthetic arm knows nothing of the truth."""
    turned = replace(splits, synthetic=splits.synthetic.take(np.arange(60)))
    turned.synthetic.y[:] = (turned.synthetic.y + 1) % 3
    outcome = fit(Trial("synthetic", 0), turned, PARAMS, device)
    assert (outcome.predicted == splits.test.y).mean() < 0.2


def test_order_sees_every_image_once_a_pass():
    rows = order(7, 20).tolist()
    assert len(rows) == 20
    assert sorted(rows[:7]) == sorted(rows[7:14]) == list(range(7))


def test_only_the_augmented_arm_is_augmented(splits, device, monkeypatch):
    seen = []
    monkeypatch.setattr(probing, "augmented", lambda x, names: seen.append(tuple(names)) or x)
    params = PARAMS.model_copy(update={"images": 40, "augment": ["flip", "erase"]})
    outcome = fit(Trial("real_augmented", 0), splits, params, device)
    assert seen == [("flip", "erase")]
    assert outcome.images == len(splits.train.y)
    seen.clear()
    fit(Trial("real", 0), splits, params, device)
    assert seen == [()]


def test_augmentation_changes_the_training_and_repeats(splits, device):
    params = PARAMS.model_copy(update={"images": 400})
    plain, once, again = (
        fit(Trial(arm, 0), splits, params, device).curve
        for arm in ("real", "real_augmented", "real_augmented")
    )
    assert once == again
    assert plain[0]["loss"] != once[0]["loss"]


def test_soft_labels_that_are_certain_are_the_labels_themselves(splits, device):
    """So the soft arm differs from the hard one in its labels alone."""
    params = PARAMS.model_copy(update={"images": 400})
    certain = replace(splits, probabilities=np.eye(3, dtype=np.float32)[splits.synthetic.y])
    hard, soft = (fit(Trial(arm, 0), certain, params, device) for arm in ("synthetic", "synthetic_soft"))
    assert hard.curve[-1]["loss"] == pytest.approx(soft.curve[-1]["loss"], abs=1e-4)
    assert np.array_equal(hard.predicted, soft.predicted)


def test_the_soft_arm_learns_what_the_judge_says(splits, device):
    """Not the label that was asked for: a judge that turns the classes round teaches them so."""
    turned = np.roll(np.eye(3, dtype=np.float32), 1, axis=1)[splits.synthetic.y]
    found = fit(Trial("synthetic_soft", 0), replace(splits, probabilities=turned), PARAMS, device)
    assert (found.predicted == (splits.test.y + 1) % 3).mean() > 0.8


def test_an_arm_that_asks_for_too_much_is_not_trained(splits, device):
    found = fit(Trial("synthetic@5", 0), splits, PARAMS, device)
    assert (found.images, found.predicted, found.curve) == (0, None, [])


def test_the_curve_ends_with_the_finished_probe(splits, device):
    """A ratio is chosen by the last point, so the last point must be of the last step."""
    torch.manual_seed(0)
    for images in (40, 120, 520, 1_000):
        found = fit(Trial("real", 0), splits, PARAMS.model_copy(update={"images": images}), device)
        assert found.curve[-1]["images"] == images
        assert 0 <= found.curve[-1]["accuracy"] <= 1
