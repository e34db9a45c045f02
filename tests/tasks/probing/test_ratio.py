import numpy as np
import pytest

from tasks.probing.ratio import recommendation
from tests.tasks.probing.sets import alike, outcome

TRUTH = np.arange(30) % 3
SPLITS = alike(TRUTH)


def told(calibrate, images=None, right=None, splits=SPLITS):
    """The recommendation after trials that ended with these accuracies on calibrate, a list for each arm."""
    found = [
        outcome(arm, seed, (right or {}).get(arm, 15), TRUTH, (images or {}).get(arm, 30), accuracy)
        for arm, seeds in calibrate.items()
        for seed, accuracy in enumerate(seeds)
    ]
    return recommendation(list(calibrate), splits, found)


def test_the_best_ratio_is_recommended():
    found = told({"real": [0.80, 0.81], "real_synthetic@1": [0.90, 0.91], "real_synthetic@3": [0.85, 0.86]})
    assert found["ratio"] == 1.0
    assert found["chosen_on"] == "calibrate"
    assert found["why"] == (
        "`real_synthetic@1` labels 90.50% of the calibrate split correctly, the most of the 3 ratios tried."
    )


def test_the_smallest_ratio_within_a_standard_error_of_the_best_is_preferred():
    best = [0.90, 0.94]  # 0.92, with a standard error of 0.02
    near = {"real": [0.8, 0.8], "real_synthetic@5": best, "real_synthetic@2": [0.905, 0.905]}
    assert told(near)["ratio"] == 2.0
    assert "within a standard error (2.00%) of the best, `real_synthetic@5`" in told(near)["why"]
    assert told({**near, "real_synthetic@2": [0.895, 0.895]})["ratio"] == 5.0
    assert told({**near, "real": [0.91, 0.91]})["ratio"] == 0.0


def test_the_test_split_has_no_say():
    calibrate = {"real": [0.9, 0.9], "real_synthetic@1": [0.8, 0.8]}
    for right in ({"real": 30, "real_synthetic@1": 0}, {"real": 0, "real_synthetic@1": 30}):
        assert told(calibrate, right=right)["ratio"] == 0.0


def test_without_a_ratio_in_its_name_an_arms_own_images_tell_it():
    found = told({"real": [0.8, 0.8], "real_synthetic": [0.9, 0.9]}, {"real_synthetic": 69})
    assert found["ratio"] == 1.3


def test_arms_of_synthetic_images_alone_are_not_candidates():
    assert told({"real": [0.8] * 2, "real_synthetic@1": [0.7] * 2, "synthetic@3": [0.9] * 2})["ratio"] == 0.0


@pytest.mark.parametrize(
    ("calibrate", "said"),
    [
        ({"real": [0.8], "real_synthetic@1": [0.9]}, "One seed"),
        ({"real_synthetic@2": [0.8] * 2, "real_synthetic@1": [0.9] * 2}, "arms `real`"),
        ({"real": [0.8] * 2, "synthetic": [0.9] * 2}, "`real_synthetic`"),
        ({"real": [None] * 2, "real_synthetic@1": [None] * 2}, "labelled calibrate split"),
    ],
)
def test_where_it_cannot_be_told_the_reason_is(calibrate, said):
    found = told(calibrate)
    assert found["ratio"] is None
    assert said in found["why"]


def test_without_labels_there_is_none():
    from dataclasses import replace

    found = told({"real": [0.8] * 2, "real_synthetic@1": [0.9] * 2}, splits=replace(SPLITS, classes=[]))
    assert found["ratio"] is None
    assert "labels" in found["why"]
