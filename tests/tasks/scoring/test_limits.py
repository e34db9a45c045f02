"""A limit costs as many held-out real images as it says, by class, unless it is given."""

from types import SimpleNamespace

import numpy as np
import pytest

from tasks.errors import UserError
from tasks.originals import LOOKS
from tasks.params import FilterParams
from tasks.params.values import Limit
from tasks.scoring.limits import MEANINGS, RULES, beyond, limits

OFF = dict.fromkeys(RULES, None)


def real(values, labels, classes=("a", "b"), measure="probability"):
    """A reference of which one measure is known."""

    def column(split, name):
        known = name == measure and split == "calibrate"
        return np.asarray(values, np.float32) if known else np.full(len(values), np.nan, np.float32)

    return SimpleNamespace(
        facts={"classes": list(classes)}, column=column, labels=lambda split: np.asarray(labels)
    )


def test_every_reason_is_a_key_and_has_a_meaning():
    assert set(RULES) == set(FilterParams.model_fields) - {"precision"}
    assert set(MEANINGS) == {"identical", *RULES}
    assert len({rule.meaning for rule in RULES.values()}) == len(RULES)


@pytest.mark.parametrize("name", [n for n in RULES if n != "duplicate"])
def test_a_share_of_held_out_images_lies_beyond_the_limit(name):
    random = np.random.default_rng(0)
    values, labels = random.normal(size=2000), np.arange(2000) % 2
    values[labels == 1] += 3
    known = real(values, labels, measure=RULES[name].measure)
    found = limits(FilterParams(**{**OFF, name: 0.05}), known)
    lost = beyond(values, name, found[name], labels)
    assert lost[labels == 0].mean() == pytest.approx(0.05, abs=2e-3)
    assert lost[labels == 1].mean() == pytest.approx(0.05, abs=2e-3)


def test_a_duplicate_is_as_near_as_a_copy_would_be():
    values = np.linspace(0.1, 1, 2000)
    known = real(values, np.zeros(2000, int), measure="copy_residual")
    found = limits(FilterParams(**{**OFF, "duplicate": 0.01, "copied": 0.01}), known)
    assert found["duplicate"].tolist() == found["copied"].tolist()


@pytest.mark.parametrize("name", ["unlike_label", "outlier"])
def test_a_class_with_few_images_takes_the_laxer_limit(name):
    values = np.concatenate([np.linspace(0, 1, 1000), [0.4, 0.5, 0.6]])
    labels = np.array([0] * 1000 + [1] * 3)
    found = limits(FilterParams(**{**OFF, name: 0.02}), real(values, labels, measure=RULES[name].measure))[
        name
    ]
    assert found[1] == pytest.approx(0.02 if name == "unlike_label" else 0.98, abs=2e-3)


def test_a_class_without_a_held_out_image_takes_that_of_all():
    values = np.linspace(0, 1, 1000)
    found = limits(FilterParams(**{**OFF, "unlike_label": 0.1}), real(values, np.zeros(1000, int)))
    assert found["unlike_label"][1] == pytest.approx(0.1, abs=1e-3)


def test_a_value_and_a_class_of_its_own_override_the_share():
    known = real(np.linspace(0, 1, 1000), np.arange(1000) % 2)
    given = FilterParams(**{**OFF, "unlike_label": Limit(value=0.3, classes={"b": 0.7})})
    assert limits(given, known)["unlike_label"].tolist() == [0.3, 0.7]
    mixed = FilterParams(**{**OFF, "unlike_label": Limit(share=0.1, classes={"b": 0.7})})
    assert limits(mixed, known)["unlike_label"] == pytest.approx([0.1, 0.7], abs=2e-3)
    alone = limits(FilterParams(**{**OFF, "unlike_label": Limit(classes={"b": 0.7})}), known)["unlike_label"]
    assert beyond(np.array([0.0, 0.0]), "unlike_label", alone, np.array([0, 1])).tolist() == [False, True]


def test_slack_moves_a_limit_outwards_on_either_side():
    known = real(np.linspace(1, 2, 1000), np.arange(1000) % 2, measure="sharpness")
    plain = limits(FilterParams(**{**OFF, "blurred": 0.1, "noisy": 0.1}), known)
    wide = {"blurred": Limit(share=0.1, slack=4), "noisy": Limit(share=0.1, slack=4)}
    found = limits(FilterParams(**{**OFF, **wide}), known)
    assert found["blurred"] == pytest.approx(plain["blurred"] / 4)
    assert found["noisy"] == pytest.approx(plain["noisy"] * 4)


def test_an_unknown_class_is_named_with_those_there_are():
    given = FilterParams(**{**OFF, "flat": Limit(classes={"c": 0.7})})
    with pytest.raises(UserError, match=r"filter.flat.classes: no class 'c'; there are: a, b"):
        limits(given, real([0.1], [0], measure="contrast"))


def test_what_was_not_measured_drops_nothing():
    known = real([], [], classes=(), measure="nothing")
    assert limits(FilterParams(), known) == {}
    assert not beyond(None, "flat", np.array([0.5]), np.zeros(3, int)).any()


def test_looks_are_told_by_train_images_too():
    table = {("train", "contrast"): [0.1, 0.2], ("calibrate", "contrast"): [0.3, 0.4]}
    known = SimpleNamespace(
        facts={"classes": []},
        column=lambda split, name: np.array(table.get((split, name), [np.nan] * 2), np.float32),
        labels=lambda split: np.array([-1, -1]),
    )
    assert "contrast" in LOOKS
    assert limits(FilterParams(**{**OFF, "flat": 0.0}), known)["flat"] == pytest.approx([0.1])
