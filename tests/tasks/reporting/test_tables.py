import pytest

from tasks.reporting import tables


def test_a_measure_stands_beside_its_scale_and_interval():
    found = {
        "before": {"frechet_distance": 3.0},
        "after": {"frechet_distance": 2.0, "recall": None},
        "scale": {"frechet_distance": 0.25},
        "interval": {"after": {"frechet_distance": {"low": 1.50123, "high": 2.5}}},
    }
    first, second = tables.measures(found)
    assert first == {
        "name": "frechet distance", "better": "lower", "before": "3", "after": "2", "scale": "0.25",
        "before_span": "", "after_span": "1.5 to 2.5", "scale_span": "",
    }  # fmt: skip
    assert (second["name"], second["better"], second["after"]) == ("recall", "higher", "–")
    assert tables.measures({}) == []


def test_no_direction_is_claimed_for_a_measure_that_is_not_known():
    assert [tables.better(n) for n in ("kernel_distance", "coverage", "entropy")] == ["lower", "higher", ""]


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.123456, "0.1235"), (-2.1e-5, "−0.000021"), (float("nan"), "–"), (None, "–"), (-3, "−3"), (0.0, "0")],
)
def test_a_measure_is_told_so_that_it_can_be_compared(value, said):
    assert tables.told(value) == said


def test_classes_need_not_have_the_same_measures():
    found = {"per_class": {"a": {"samples": 2, "kept": 1, "after": {"recall": 0.5}}, "b": {"samples": 1}}}
    table = tables.per_class(found)
    assert table["columns"] == ["recall"]
    assert table["rows"][0]["cells"][0]["after"] == "0.5"
    assert table["rows"][1]["cells"] == [None]
    assert tables.per_class({"per_class": {}}) is None


def test_shortage_names_those_that_lack_some_and_no_more_than_eight():
    lacks = {str(n): {"lacks": n, "oversample": None} for n in range(12)}
    said = tables.shortage({"shortage": lacks})
    assert said.startswith("Left short by the filter: class 1 by 1, class 2 by 2,")
    assert said.endswith("class 8 by 8, and 3 more classes.")
    assert tables.shortage({"shortage": {"a": {"lacks": 0}}}) is None
    assert tables.shortage({}) is None
