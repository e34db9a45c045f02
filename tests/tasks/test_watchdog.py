"""The watchdog sees what is ill and spares what is well; the examiner tells real images from bad draws."""

import json
import math
import re

import numpy as np
import pytest

from models.families import Alarm
from tasks import judging, originals, watchdog
from tasks.device import prepare
from tasks.params import CalibrateParams, Machine
from tasks.shards import Shards
from tasks.watchdog import Examiner, Finding, Watchdog
from tests import making

DEVICE = prepare(Machine(device="cpu", threads=1), "fp32")
ALARMS = {
    "loss": Alarm(0.5, 2.0, "it does not learn"),
    "gap": Alarm(-3.0, 3.0, "one has won", "raise gamma"),
}
WELL = {"loss": 1.0, "gap": 0.0, "other": 1e9}


def dog(**memory):
    """A watchdog that has seen enough steps to bark."""
    return Watchdog(ALARMS, {"steps": watchdog.EARLY, **memory})


def test_the_first_steps_are_spared_however_far_a_short_budget_is():
    watch, ill = dog(steps=0), {**WELL, "loss": 50.0}
    collapsed = {"classes_shown": 0.0, "variety": 0.0, "score": 0.0}
    for _ in range(watchdog.EARLY - 1):
        assert not watch.step(ill, 0.9)
        assert not watch.draw(collapsed, 0.9)
    assert watch.step(ill, 0.9)
    assert watch.draw(collapsed, 0.9)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["loss", "other"])
def test_what_is_no_number_is_found_at_once(name, value):
    found = dog().step({**WELL, name: value}, 0.0)
    assert found == Finding(f"{name} became {value}", "lower", "lr")


def test_a_healthy_training_is_left_alone():
    watch = dog()
    assert not any(watch.step(WELL, progress) for progress in np.linspace(0, 1, 200))


def test_bounds_are_held_only_after_a_grace():
    watch, ill = dog(), {**WELL, "loss": 50.0}
    assert not any(watch.step(ill, p) for p in np.linspace(0, watchdog.GRACE - 1e-9, 50))
    assert watch.step(ill, watchdog.GRACE)
    # What happened before then is forgotten: it counts for no mean.
    fresh = dog()
    for _ in range(50):
        fresh.step(ill, watchdog.GRACE / 2)
    assert not fresh.step(WELL, watchdog.GRACE)


@pytest.mark.parametrize(
    ("change", "what", "turn"),
    [
        ({"loss": 2.5}, "loss is 2.5, above 2: it does not learn", ("lower", "lr")),
        ({"loss": 0.25}, "loss is 0.25, below 0.5: it does not learn", ("lower", "lr")),
        ({"gap": 4.0}, "gap is 4, above 3: one has won", ("raise", "gamma")),
        ({"gap": -4.0}, "gap is -4, below -3: one has won", ("raise", "gamma")),
    ],
)
def test_either_bound_is_an_alarm_with_its_meaning_and_its_turn(change, what, turn):
    assert dog().step({**WELL, **change}, 0.5) == Finding(what, *turn)


def test_values_on_the_bounds_are_healthy():
    assert not dog().step({"loss": 2.0, "gap": -3.0}, 0.5)
    assert not dog().step({"loss": 0.5, "gap": 3.0}, 0.5)


def test_one_bad_step_is_forgiven_and_many_are_not():
    watch = dog()
    for _ in range(100):
        assert not watch.step(WELL, 0.5)
    assert not watch.step({**WELL, "loss": 15.0}, 0.5)
    assert watch.memory["means"]["loss"] == pytest.approx(1 + 14 / watchdog.MEMORY)
    steps = 1
    while not watch.step({**WELL, "loss": 4.0}, 0.5):
        steps += 1
    # 4 - 2.3 (1 - 1 / 20)^n > 2 where n > 2.7
    assert steps == 3


HEALTH = {"classes_shown": 1.0, "variety": 1.0, "score": 0.9}


def test_a_settled_training_must_show_some_variety():
    bad = {**HEALTH, "variety": 0.19}
    assert dog().draw(bad, watchdog.SETTLED - 1e-6) is None
    found = dog().draw(bad, watchdog.SETTLED)
    assert re.search("modes have collapsed.* 0.19 times", found.what)
    assert (found.verb, found.key) == ("lower", "lr")


def test_classes_may_come_late_but_not_be_lost():
    watch = dog()
    for shown in (0.1, 0.3, 0.8, 0.41):
        assert watch.draw({**HEALTH, "classes_shown": shown}, 1.0) is None
    assert watch.draw({**HEALTH, "classes_shown": 0.39}, watchdog.SETTLED - 1e-6) is None
    found = watch.draw({**HEALTH, "classes_shown": 0.39}, 1.0)
    assert re.search("finds 39% of them, and found 80% before", found.what)


@pytest.mark.parametrize(
    "change",
    [{}, {"variety": watchdog.VARIETY}, {"classes_shown": watchdog.CLASSES_SHOWN}, dict.fromkeys(HEALTH)],
)
def test_a_draw_at_its_bounds_or_that_cannot_be_told_is_no_finding(change):
    assert dog().draw({**HEALTH, **change}, 1.0) is None


def test_the_latest_state_within_the_tolerance_is_the_best():
    watch = dog()
    near = watchdog.TOLERANCE * 0.9
    assert watch.is_best(0.5, 10)
    assert watch.is_best(0.5 - near, 20)
    assert (watch.memory["best"], watch.memory["best_images"]) == (0.5, 20)
    # The tolerance is from the best score ever, so that it can not creep down step by step.
    assert not watch.is_best(0.5 - 2 * near, 30)
    assert watch.is_best(0.8, 40)
    assert not watch.is_best(0.5, 50)
    assert (watch.memory["best"], watch.memory["best_images"]) == (0.8, 40)


def test_a_draw_that_cannot_be_scored_is_kept_as_the_latest():
    watch = dog()
    assert watch.is_best(None, 10)
    assert watch.is_best(0.4, 20)
    assert watch.is_best(None, 30)
    assert (watch.memory["best"], watch.memory["best_images"]) == (0.4, 30)


def test_memory_is_plain_json_and_outlives_it():
    def run(cut):
        watch, found = dog(), []
        for n in range(60):
            if n == cut:
                watch = Watchdog(ALARMS, json.loads(json.dumps(watch.memory)))
            found.append(watch.step({**WELL, "loss": 1 + n / 20}, 0.1 + n / 100))
            if n % 10 == 0:
                found.append(watch.is_best(0.3 + n / 100 if n < 30 else 0.1, n))
        return found, watch.memory

    assert run(cut=37) == run(cut=None)
    assert any(run(None)[0])


def calibrated(root, classes=making.CLASSES):
    """A judge of 60 images that has seen 30 more."""
    train = making.real(root / "train", 20, seed=1, classes=classes)
    held_out = making.real(root / "calibrate", 10, seed=2, classes=classes)
    folder = root / "reference"
    folder.mkdir()
    params = CalibrateParams(images=3_000, batch=32, precision="fp32")
    judging.fit_judge(train, params, DEVICE, folder)
    originals.measure_real(train, held_out, DEVICE, folder)
    return Examiner(judging.Reference(folder), DEVICE), Shards.open(held_out)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return calibrated(tmp_path_factory.mktemp("labelled"))


def test_the_images_held_against_themselves_are_perfect(labelled):
    examiner, held_out = labelled
    found = examiner.examine(held_out.pixels(), held_out.labels())
    assert found == {"classes_shown": 1.0, "variety": pytest.approx(1.0, abs=1e-4), "score": 1.0}


def test_other_real_images_score_high(labelled):
    examiner, _ = labelled
    y = np.arange(90) % 3
    found = examiner.examine(making.pictures(y, seed=7), y)
    assert found["classes_shown"] == 1.0
    assert 0.6 < found["variety"] < 1.5
    assert found["score"] > 0.9
    assert not dog().draw(found, 1.0)


def test_one_image_a_class_has_no_variety(labelled):
    examiner, held_out = labelled
    y = np.arange(60) % 3
    found = examiner.examine(held_out.pixels()[:3][y], held_out.labels()[:3][y])
    assert found["classes_shown"] == 1.0
    assert found["variety"] < 0.01
    assert found["score"] < 0.9
    assert "collapsed" in dog().draw(found, 1.0).what


def test_wrong_labels_show_no_class(labelled):
    examiner, held_out = labelled
    found = examiner.examine(held_out.pixels(), (held_out.labels() + 1) % 3)
    assert found["classes_shown"] == 0.0
    assert found["score"] < 0.2
    assert "finds 0% of them" in dog(shown=1.0).draw(found, 1.0).what


def test_a_class_is_shown_if_half_of_its_images_show_it(labelled):
    examiner, held_out = labelled
    x, y = held_out.pixels(), held_out.labels()
    asked = y.copy()
    asked[np.flatnonzero(y == 0)[:4]] = 1  # 4 of 14 images asked to show class 1 show class 0: shown
    assert examiner.examine(x, asked)["classes_shown"] == 1.0
    asked[np.flatnonzero(y == 2)[:9]] = 1  # 13 of 23 do not show class 1, which is missed
    assert examiner.examine(x, asked)["classes_shown"] == pytest.approx(2 / 3, abs=1e-6)


def test_noise_scores_low(labelled):
    examiner, _ = labelled
    noise = np.random.default_rng(3).integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
    assert examiner.examine(noise, np.arange(60) % 3)["score"] < 0.5


def test_too_few_images_are_none(labelled):
    examiner, held_out = labelled
    found = examiner.examine(held_out.pixels()[:1], held_out.labels()[:1])
    assert found["variety"] is None
    assert found["classes_shown"] == 1.0


def test_unlabelled_draws_have_variety_and_score_but_no_classes(tmp_path):
    examiner, held_out = calibrated(tmp_path, classes=[])
    found = examiner.examine(held_out.pixels(), None)
    assert found == {"classes_shown": None, "variety": pytest.approx(1.0, abs=1e-4), "score": 1.0}
    repeated = examiner.examine(held_out.pixels()[:1].repeat(20, axis=0), None)
    assert repeated["variety"] < 0.01
    assert repeated["score"] < 0.5
    assert not dog().draw(found, 1.0)
    assert dog().draw(repeated, 1.0)


def test_a_class_shown_by_chance_is_none_to_lose():
    watch = dog()
    for shown in (0.0, 0.1, 0.4, 0.0):
        assert watch.draw({**HEALTH, "classes_shown": shown}, 1.0) is None


def test_a_family_may_settle_later():
    late = Watchdog(ALARMS, {"steps": watchdog.EARLY}, settled=0.75)
    bad = {**HEALTH, "variety": 0.0}
    assert late.draw(bad, 0.74) is None
    assert late.draw(bad, 0.75)
