import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import UserError
from tasks.gates import Verdict, flatten, hold, judge, measured, table
from tasks.params import Bound

NUMBERS = {
    "accuracy.synthetic.mean": 0.93,
    "accuracy.synthetic.std": None,
    "accuracy.real.mean": 0.98,
    "kept_ratio": 0.4,
    "after.frechet_distance": 60.0,
}
finite = st.floats(-1e6, 1e6)


def refusal(gates, numbers=NUMBERS):
    with pytest.raises(UserError) as caught:
        hold(judge(gates, numbers))
    return str(caught.value)


def test_metrics_within_their_bounds_pass():
    gates = {"kept_ratio": Bound(min=0.4, max=0.4), "after.frechet_distance": Bound(max=60.0)}
    verdicts = judge(gates, NUMBERS)
    hold(verdicts)
    assert [row["off by"] for row in table(verdicts)] == ["within", "within"]


def test_refusal_says_what_found_bound_and_by_how_much():
    text = refusal(
        {"accuracy.synthetic.mean": Bound(min=0.95), "after.frechet_distance": Bound(min=1.0, max=20.0)}
    )
    head, worst, other, mend = text.splitlines()
    assert "2 of 2 broken" in head
    assert worst.split() == ["after.frechet_distance", "60", "min", "1,", "max", "20", "over", "by", "40"]
    assert other.split() == ["accuracy.synthetic.mean", "0.93", "min", "0.95", "under", "by", "0.02"]
    assert "params.yaml" in mend or "`gates`" in mend


def test_worst_is_judged_relative_to_its_bound_and_the_unmeasured_comes_first():
    gates = {
        "after.frechet_distance": Bound(max=50.0),  # a fifth over
        "kept_ratio": Bound(min=0.8),  # half of it
        "accuracy.synthetic.std": Bound(max=0.1),  # not measured
    }
    order = [v.metric for v in judge(gates, NUMBERS)]
    assert order == ["accuracy.synthetic.std", "kept_ratio", "after.frechet_distance"]
    assert "not measured" in refusal(gates).splitlines()[1]


def test_four_breaches_fit_six_lines():
    gates = {name: Bound(min=1e9) for name, value in NUMBERS.items() if value is not None}
    assert len(refusal(gates).splitlines()) == 6


def test_a_held_gate_is_no_line_of_the_refusal():
    text = refusal({"kept_ratio": Bound(max=1.0), "after.frechet_distance": Bound(max=1.0)})
    assert "kept_ratio" not in text
    assert "1 of 2" in text


@pytest.mark.parametrize(
    ("typo", "near"),
    [
        ("accuracy.synthetc.mean", "accuracy.synthetic.mean"),
        ("accuracy.real", "accuracy.real.mean"),
        ("zzz", "kept_ratio"),
    ],
)
def test_unknown_metric_names_near_ones(typo, near):
    text = refusal({typo: Bound(min=0)})
    assert f"gates.{typo}" in text
    assert near in text
    assert len(text.splitlines()) <= 6


def test_flatten_names_every_number():
    found = flatten({"a": {"b": [1, None], "c.d": 2.5}, "note": "words", "flag": True, "bad": math.nan})
    assert found == {"a.b.0": 1.0, "a.b.1": None, "a.c.d": 2.5, "bad": None}


def test_measured_reads_both_folders(tmp_path):
    for name, metrics in (("scores", {"kept_ratio": 0.5}), ("report", {"accuracy": {"real": {"mean": 1}}})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(metrics))
    assert measured(tmp_path / "scores", tmp_path / "report") == {
        "kept_ratio": 0.5,
        "accuracy.real.mean": 1.0,
    }
    (tmp_path / "report/metrics.json").write_text("{")
    with pytest.raises(UserError, match=r"report/metrics\.json"):
        measured(tmp_path / "scores", tmp_path / "report")


@given(found=finite, low=st.none() | finite, high=finite)
def test_a_gate_breaks_exactly_outside_its_bounds(found, low, high):
    bound = Bound(min=low, max=high)
    inside = (low is None or low <= found) and found <= high
    verdict = Verdict("m", found, bound)
    assert verdict.broken is not inside
    assert (verdict.words()[3] == "within") is inside


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1), st.dictionaries(
    st.text(st.characters(codec="utf-8"), min_size=1), finite | st.none())))  # fmt: skip
def test_every_number_has_a_gate_name(metrics):
    found = flatten(metrics)
    for outer, inner in metrics.items():
        for name, value in inner.items():
            assert f"{outer}.{name}" in found
            # Two paths may spell one name when keys hold dots; one of their numbers stands there.
            assert found[f"{outer}.{name}"] == value or "." in outer + name
