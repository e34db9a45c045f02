"""Set measures, whole and by class, and intervals that hold what they promise."""

import numpy as np
import pytest
import torch

from models import measures
from tasks import comparing
from tasks.comparing import Crowd, Estimate, by_halves, by_rows, compare


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def crowd(rng, count, classes=2, off=0.0, size=4):
    labels = torch.arange(count) % classes
    return Crowd(torch.randn(count, size, generator=rng) + off + 6 * labels[:, None], labels)


def test_the_whole_set_is_measured_as_the_measures_do(rng):
    fake, real = crowd(rng, 120), crowd(rng, 100)
    found = compare(fake, real, ["a", "b"])["measures"]
    pair = fake.features_ND, real.features_ND
    assert found["frechet_distance"] == pytest.approx(measures.frechet_distance(*pair), abs=1e-6)
    assert found["kernel_distance"] == pytest.approx(measures.kernel_distance(*pair)[0], abs=1e-6)
    rows = list(
        zip(("precision", "recall", "density", "coverage"), measures.neighbourhood(*pair), strict=True)
    )
    assert {n: found[n] for n, _ in rows} == {
        n: pytest.approx(float(values.double().mean()), abs=1e-6) for n, values in rows
    }
    assert found["class_balance"] == 1
    assert found["inception_score"] is found["duplicate_rate"] is found["copied_rate"] is None


def test_a_class_that_drifts_is_told_by_its_own_numbers(rng):
    fake, real = crowd(rng, 200), crowd(rng, 200)
    fake.features_ND[fake.labels_N == 1] += 5
    found = compare(fake, real, ["good", "bad"])["per_class"]
    assert found["good"]["measures"]["precision"] > 0.8
    assert found["bad"]["measures"]["precision"] < 0.2
    assert (
        found["bad"]["interval"]["kernel_distance"]["low"]
        > found["good"]["interval"]["kernel_distance"]["high"]
    )
    assert found["good"]["measures"]["frechet_distance"] is not None


def test_a_fretted_class_says_why_it_has_no_frechet_distance(rng):
    found = compare(crowd(rng, 40, size=16), crowd(rng, 40, size=16), ["a", "b"])
    assert found["per_class"]["a"]["measures"]["frechet_distance"] is None
    assert any("32 images a side" in note for note in found["notes"])


def test_too_few_images_are_no_error_and_are_told(rng):
    found = compare(crowd(rng, 4), crowd(rng, 50), ["a", "b"])
    assert found["measures"]["precision"] is None
    assert any("too few for set measures" in note for note in found["notes"])
    none = compare(crowd(rng, 0), crowd(rng, 50), ["a", "b"])
    assert none["measures"]["diversity"] is None


def test_rates_are_shares_of_flagged_images(rng):
    fake = crowd(rng, 20)
    flagged = torch.zeros(20, dtype=torch.bool)
    flagged[:5] = True
    found = compare(Crowd(fake.features_ND, fake.labels_N, None, flagged, ~flagged), fake, ["a", "b"])
    assert found["measures"]["duplicate_rate"] == 0.25
    assert found["measures"]["copied_rate"] == 0.75
    assert found["per_class"]["a"]["measures"]["duplicate_rate"] == 0.3


def test_the_bootstrap_over_rows_holds_the_truth_as_often_as_it_says():
    random = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        found = by_rows((random.random(200) < 0.3).astype(float))
        held += found.low <= 0.3 <= found.high
    assert 0.91 <= held / 300 <= 0.98


def test_the_interval_by_halves_holds_the_truth_as_often_as_it_says():
    rng = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(200):
        rows = torch.randn(100, 1, generator=rng) + 3
        found = by_halves(float(rows.mean()), lambda x: float(x.mean()), rows)
        held += found.low <= 3 <= found.high
    assert 0.9 <= held / 200 <= 0.99


def test_diversity_and_its_interval_against_many_draws():
    rng = torch.Generator().manual_seed(0)
    found = [
        comparing._diversity(Crowd(torch.randn(60, 3, generator=rng), torch.zeros(60))) for _ in range(200)
    ]
    values = np.array([each.value for each in found])
    width = np.mean([each.high - each.low for each in found]) / 2 / comparing.LEVEL
    assert width == pytest.approx(values.std(), rel=0.2)


def test_a_mean_of_estimates_is_surer_than_each():
    found = comparing._mean([Estimate(1.0, 0.8, 1.2), Estimate(2.0, 1.8, 2.2)])
    assert found.value == 1.5
    assert found.high - found.value == pytest.approx(0.2 / 2**0.5)
    assert comparing._mean([Estimate(1.0, 0.8, 1.2), None]).value == 1.0
    assert comparing._mean([None]) is None


def test_a_kernel_distance_has_the_interval_of_both_whole_sets():
    rng = torch.Generator().manual_seed(0)

    def one():
        pair = torch.randn(400, 4, generator=rng), torch.randn(80, 4, generator=rng) + 1
        return comparing._kernel(*(Crowd(rows, torch.zeros(len(rows))) for rows in pair), 80)

    found = [one() for _ in range(100)]
    truth = np.mean([each.value for each in found])
    assert 0.87 <= np.mean([each.low <= truth <= each.high for each in found]) <= 1
    width = np.mean([each.high - each.low for each in found]) / 2 / comparing.LEVEL
    assert width == pytest.approx(np.std([each.value for each in found]), rel=0.3)


def test_the_same_sets_give_the_same_numbers(rng):
    fake, real = crowd(rng, 60), crowd(rng, 50)
    assert compare(fake, real, ["a", "b"]) == compare(fake, real, ["a", "b"])


def test_of_large_sets_as_many_rows_are_compared_whatever_their_order(rng, monkeypatch):
    monkeypatch.setattr(comparing, "SPREAD", 60)
    fake, real = crowd(rng, 1_200), crowd(rng, 100)
    found = comparing._memberships(fake.features_ND, real.features_ND)
    assert {name: len(rows) for name, rows in found.items()} == {
        "precision": 60, "recall": 60, "density": 60, "coverage": 60
    }  # fmt: skip
    half = comparing.drawn(torch.arange(1_200.0))
    assert half.tolist() == sorted(set(half.tolist()))
    assert 450 < float(half.mean()) < 750
    assert comparing.drawn(torch.arange(60)).tolist() == list(range(60))
