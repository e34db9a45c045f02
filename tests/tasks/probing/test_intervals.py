"""The intervals hold the truth as often as they say: against closed forms, and on simulated tests."""

import numpy as np
import pytest

from tasks.probing import intervals
from tasks.probing.intervals import interval, replicates


def generator(seed=0):
    return np.random.default_rng(seed)


def whole(right_ASN, count=4_000, seed=1):
    return replicates(right_ASN, np.zeros(right_ASN.shape[2], int), 1, generator(seed), count)[0]


def test_one_seed_is_as_sure_as_a_binomial():
    right = np.arange(500) < 450
    values = whole(right[None, None])[0]
    error = np.sqrt(0.9 * 0.1 / 500)
    assert values.mean() == pytest.approx(0.9, abs=0.001)
    assert values.std() == pytest.approx(error, rel=0.05)
    found = interval(values)
    assert found["low"] == pytest.approx(0.9 - 1.96 * error, abs=0.002)
    assert found["high"] == pytest.approx(0.9 + 1.96 * error, abs=0.002)


def test_arms_that_err_on_the_same_images_differ_surely():
    """Paired by image: what both get wrong says nothing about their difference."""
    a, b = np.arange(400) < 300, np.arange(400) < 292
    values = whole(np.stack([a, b])[:, None])
    share = 8 / 400
    difference = values[0] - values[1]
    assert difference.mean() == pytest.approx(share, abs=0.001)
    assert difference.std() == pytest.approx(np.sqrt(share * (1 - share) / 400), rel=0.05)
    assert difference.std() < values[0].std() / 2
    assert not (values[0] - whole(a[None, None])[0]).any()


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_seeds_alone_vary_as_a_mean_of_them_does(seeds):
    """Every image alike within a seed: the variance is that of a mean of so many seeds, not a part of it."""
    right = np.zeros((1, seeds, 50), bool)
    right[0, 0] = True
    values = whole(right)[0]
    assert values.var() == pytest.approx(np.var(right[0, :, 0], ddof=1) / seeds, rel=0.06)


def test_arms_of_a_seed_are_paired():
    """Two arms that good seeds favour alike do not differ, however much the seeds do."""
    right = np.arange(200) < np.array([100, 140, 180])[:, None]
    values = whole(np.stack([right, right]))
    assert np.array_equal(values[0], values[1])
    assert values[0].std() > 0.05


def test_classes_are_drawn_with_the_whole():
    y = np.repeat([0, 1, 2], [60, 30, 10])
    right = generator().random((2, 3, 100)) < np.array([0.9, 0.5, 0.7])[y]
    shuffled = generator(1).permutation(100)
    whole_AR, class_KAR = replicates(right, y, 4, generator(2), 500)
    assert class_KAR.shape == (4, 2, 500)
    for k in range(3):
        assert class_KAR[k].mean() == pytest.approx(right[:, :, y == k].mean(), abs=0.03)
    assert np.isnan(class_KAR[3]).all()
    mixed_AR, mixed_KAR = replicates(right[:, :, shuffled], y[shuffled], 4, generator(2), 500)
    assert mixed_AR.mean(1) == pytest.approx(whole_AR.mean(1), abs=0.01)
    assert mixed_KAR[0].std() == pytest.approx(class_KAR[0].std(), rel=0.15)


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (3, 0.0), (3, 0.3), (5, 0.3)])
def test_the_interval_of_a_difference_holds_the_truth_as_often_as_it_says(seeds, spread):
    """Tests simulated from images of many difficulties and seeds of many luck, the draws fixed."""
    rng = generator(7)

    def shares(images, gaps, luck):
        return 1 / (1 + np.exp(-(3 + images + np.stack([0 * gaps, 0.3 + gaps]) + luck[:, None])))

    def draw(count):
        return rng.normal(0, 2, count), rng.normal(0, 0.5, count)

    many = draw(20_000)
    truth = np.mean([np.diff(shares(*many, rng.normal(0, spread, 2)).mean(1)) for _ in range(200)])
    held = 0
    for trial in range(200):
        images = draw(200)
        right = np.stack(
            [rng.random((2, 200)) < shares(*images, rng.normal(0, spread, 2)) for _ in range(seeds)], 1
        )
        values = whole(right, 300, trial)
        found = interval(values[1] - values[0])
        held += found["low"] <= truth <= found["high"]
    assert held >= 0.92 * 200


def test_draws_repeat_and_do_not_depend_on_the_memory_at_hand(monkeypatch):
    right = generator().random((2, 3, 40)) < 0.8
    once = whole(right, 100)
    assert np.array_equal(once, whole(right, 100))
    assert not np.array_equal(once, whole(right, 100, seed=2))
    monkeypatch.setattr(intervals, "CELLS", 40 * 7)
    assert np.array_equal(once, whole(right, 100))


def test_nothing_drawn_has_no_interval():
    assert interval(np.full(5, np.nan)) == {"low": None, "high": None}
    assert interval(np.zeros(0)) == {"low": None, "high": None}
    assert interval(np.array([np.nan, 0.5, 0.5])) == {"low": 0.5, "high": 0.5}
