from dataclasses import replace

import numpy as np
import pytest

from tasks.probing import Trial
from tasks.probing.picking import arm_images, arm_targets, asked, derive, synthetic_rows, unmet
from tests.tasks.probing.sets import alike

ARMS = [
    "real",
    "synthetic",
    "unfiltered",
    "random_drop",
    "real_synthetic",
    "real_augmented",
    "synthetic_soft",
]
REAL = np.repeat([0, 1, 2], [6, 3, 1])


def test_arms_hold_the_images_that_they_promise(splits):
    ids = {arm: arm_images(Trial(arm, 0), splits, 0).ids.tolist() for arm in ARMS}
    real, drawn = splits.train.ids.tolist(), splits.synthetic.ids.tolist()
    kept = [i for i, reason in zip(drawn, splits.reasons, strict=True) if reason is None]
    assert ids["real"] == ids["real_augmented"] == real
    assert ids["synthetic"] == ids["synthetic_soft"] == kept
    assert ids["unfiltered"] == drawn[:48]
    assert ids["real_synthetic"] == real + kept
    assert len(ids["random_drop"]) == 48
    assert ids["random_drop"] != kept


def test_random_drop_loses_as_many_of_each_class_and_is_redrawn_per_seed():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400)
    kept = rng.random(400) < np.array([0.9, 0.5, 0.2, 0.0])[labels]
    drawn = [synthetic_rows("random_drop", labels, kept, REAL, np.random.default_rng(s)) for s in (1, 1, 2)]
    for rows in drawn:
        assert np.array_equal(np.bincount(labels[rows], minlength=4), np.bincount(labels[kept], minlength=4))
        assert len(set(rows)) == len(rows)
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


@pytest.mark.parametrize(
    ("ratio", "shares"),
    [(1.0, [6, 3, 1]), (3.0, [18, 9, 3]), (0.5, [3, 2, 0]), (0.25, [1, 1, 0]), (0.01, [0, 0, 0])],
)
def test_a_ratio_is_shared_out_as_the_train_split_is(ratio, shares):
    found = asked(ratio, REAL)
    assert list(found.values()) == shares
    assert sum(shares) == round(ratio * len(REAL))


def test_a_ratio_takes_the_first_kept_samples_of_each_class():
    labels = np.array([2, 0, 0, 1, 0, 1, 2, 0, 1, 0] * 4)
    kept = np.arange(40) % 3 > 0
    splits = alike(REAL, labels, kept)
    for arm in ("synthetic@1", "synthetic_soft@1", "real_synthetic@1"):
        rows = synthetic_rows(arm, labels, kept, REAL, np.random.default_rng(0))
        assert np.array_equal(np.bincount(labels[rows]), [6, 3, 1])
        assert rows.tolist() == sorted(rows)
        for k, count in enumerate([6, 3, 1]):
            assert set(np.flatnonzero(kept & (labels == k))[:count]) <= set(rows)
    together = arm_images(Trial("real_synthetic@1", 0), splits, 0)
    assert np.array_equal(np.bincount(together.y), [12, 6, 2])


def test_a_larger_ratio_holds_all_of_a_smaller_one(splits):
    few, many = (set(arm_images(Trial(f"synthetic@{r}", 0), splits, 0).ids) for r in (0.3, 0.7))
    assert few < many


def test_too_few_kept_samples_are_counted_class_by_class():
    splits = alike(REAL, np.repeat([0, 1, 2], [20, 4, 20]))
    assert unmet("synthetic@1", splits) is None
    why = unmet("real_synthetic@2", splits)
    assert why == (
        "2 times 10 real images ask for 20 kept ones, class by class, and 2 are lacking. "
        "Raise generate.num_samples."
    )
    assert not len(arm_images(Trial("real_synthetic@2", 0), splits, 0).y)
    assert unmet("synthetic", splits) is unmet("real", splits) is None


def test_targets_are_the_judges_only_where_they_are_asked_for(splits):
    judged = replace(splits, probabilities=np.random.default_rng(0).random((60, 3), np.float32))
    for arm in ("real", "synthetic", "real_synthetic"):
        images = arm_images(Trial(arm, 0), judged, 0)
        assert arm_targets(Trial(arm, 0), judged, images) is images.y
    trial = Trial("synthetic_soft", 0)
    images = arm_images(trial, judged, 0)
    assert np.array_equal(arm_targets(trial, judged, images), judged.probabilities[judged.kept])


def test_without_probabilities_the_soft_arm_has_no_images(splits):
    bare = replace(splits, probabilities=None)
    assert "no class probabilities" in unmet("synthetic_soft", bare)
    assert not len(arm_images(Trial("synthetic_soft", 0), bare, 0).y)


def test_a_derived_seed_is_its_parts_own():
    assert derive(1, 2, "a") == derive(1, 2, "a") != derive(2, 1, "a")
    assert 0 <= derive(0) < 2**63
