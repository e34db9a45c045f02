import pytest

from tasks.arms import KINDS
from tasks.reporting import words


def told(accuracy, difference, **more):
    """The headline of these means and intervals, each (low, mean, high), over three seeds."""

    def found(low, mean, high):
        return {"mean": mean, "std": 0.01, "per_seed": [mean] * 3, "low": low, "high": high}

    metrics = {
        "accuracy": {arm: found(*numbers) for arm, numbers in accuracy.items()},
        "difference": {pair: found(*numbers) for pair, numbers in difference.items()},
        "notes": [],
    }
    return words.headline({**metrics, **more})


BOTH = {"real": (0.88, 0.9, 0.92), "real_synthetic": (0.89, 0.91, 0.93)}


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.001, 0.02, "helps"),
        (-0.02, -0.001, "hurts"),
        (-0.001, 0.02, "makes no clear difference"),
        (0.0, 0.02, "makes no clear difference"),
        (0.0, 0.0, "makes no clear difference"),
        (None, None, "makes no clear difference"),
    ],
)
def test_headline_claims_no_more_than_the_interval_shows(low, high, said):
    lines = told(BOTH, {"real_synthetic_minus_real": (low, 0.01, high)})
    assert f"ones {said}: +1.00 points" in lines[0]
    assert ("[" in lines[0]) is (low is not None)


def test_headline_gives_the_interval_and_says_what_it_is():
    lines = told(BOTH, {"real_synthetic_minus_real": (-0.004, 0.01, 0.024)})
    assert "+1.00 points [−0.40, +2.40] over 3 seeds, from 90.00 % to 91.00 %." in lines[0]
    assert lines[-1] == (
        "Brackets hold 95 % intervals over test images and seeds; 3 seeds are an indication, a claim takes 5."
    )


@pytest.mark.parametrize(("seeds", "said"), [(1, "one seed is an indication"), (4, "4 seeds are"), (5, None)])
def test_headline_says_whether_the_seeds_make_a_claim(seeds, said):
    alone = {"mean": 0.9, "std": None, "per_seed": [0.9] * seeds, "low": 0.8, "high": 1.0}
    last = words.headline({"accuracy": {"synthetic": alone}, "difference": {}})[-1]
    assert ("alone" in last) is (seeds == 1)
    assert "indication" not in last if said is None else said in last


def test_headline_names_the_rival():
    pair = {"real_synthetic_minus_real_augmented": (-0.03, -0.02, -0.01)}
    lines = told({**BOTH, "real_augmented": (0.92, 0.93, 0.94)}, pair)
    assert lines[0].startswith("Real and synthetic images together lose to standard augmentation of the real")


def test_soft_labels_are_told_apart_and_last():
    accuracy = {"synthetic": (0.8, 0.85, 0.9), "synthetic_soft": (0.85, 0.9, 0.95)}
    lines = told(accuracy, {"synthetic_soft_minus_synthetic": (0.01, 0.05, 0.09)})
    assert "alone" in lines[0]
    assert lines[1].startswith(
        "Apart from these: with the judge's probabilities as labels, whose teacher saw"
    )
    assert "90.00 % [85.00, 95.00]: +5.00 points" in lines[1]


def test_of_several_ratios_the_headline_takes_the_recommended_one():
    three = (0.9, 0.93, 0.95)
    accuracy = {"real": (0.88, 0.9, 0.92), "real_synthetic@1": three, "real_synthetic@3": three}
    pairs = {f"real_synthetic@{n}_minus_real": (0.01, 0.03, 0.05) for n in (1, 3)}
    for ratio, said in ((3.0, "3 for each, helps"), (None, "1 for each, helps"), (0.0, "1 for each, helps")):
        assert said in told(accuracy, pairs, recommendation={"ratio": ratio})[0]


def test_arms_with_a_ratio_have_names():
    assert words.ARMS["synthetic@3"] == "synthetic, kept, 3 ×"
    assert words.MEANINGS["real_synthetic@0.5"].endswith("together: the first 0.5 for each real one")
    assert set(words.ARMS) == set(words.MEANINGS) == set(KINDS)
