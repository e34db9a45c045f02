import json
from pathlib import Path

import pytest

from benchmarks import low_data
from tasks import dvc
from tasks.errors import UserError
from tasks.layout import NO_REFERENCES
from tasks.reading import read
from tests import making
from tests.house import PARAMS, STAGES


@pytest.fixture
def finished(monkeypatch):
    """Low-data runs that need no pipeline; the counts that were run."""
    counts = []

    def measured(params, made_by):
        counts.append(params["preprocess"]["train_per_class"])
        sure = {"mean": 0.9, "low": 0.88, "high": 0.915}
        return {
            "accuracy": {"real": sure, "synthetic": {"mean": None, "low": None, "high": None}},
            "difference": {"real_synthetic_minus_real": {"mean": -0.01, "low": -0.02, "high": 0.0}},
            "recommendation": {"ratio": 1.0},
            "notes": ["synthetic: not measured; too few."],
        }

    monkeypatch.setattr(low_data, "measured", measured)
    return counts


def test_a_finished_count_is_kept_until_what_decides_it_changes(tmp_path, finished):
    results = tmp_path / "low_data.json"
    rows = low_data.run([10, 50], [], 5, results)
    assert list(rows) == ["10", "50"]
    assert low_data.run([50, 10], [], 5, results) == rows
    assert finished == [10, 50]
    low_data.run([10], ["train.minutes=5"], 5, results)
    low_data.run([50], [], 3, results)
    assert finished == [10, 50, 10, 50]


def test_low_data_cuts_the_train_split_and_sets_what_it_is_told():
    params = low_data.params_of(10, ["train.family=gan", "evaluate.arms=[real, real_synthetic@2]"], 5)
    assert params["preprocess"] == {**PARAMS["preprocess"], "train_per_class": 10}
    assert params["evaluate"]["seeds"] == 5
    assert params["evaluate"]["arms"] == ["real", "real_synthetic@2"]
    assert params["train"]["family"] == "gan"
    assert Path(params["ingest"]["source"]).is_file()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("train.minuts=5", "did you mean 'minutes'"),
        ("minutes=5", "minutes: unknown key"),
        ("train.minutes", "give KEY=VALUE"),
        ("families.gna.augment=true", "families.gna: no such family"),
        ("train.family=gna", "no family 'gna'"),
        ("evaluate.arms=[reel]", "try 'real'"),
    ],
)
def test_a_wrong_change_is_named_before_anything_runs(tmp_path, finished, change, said):
    with pytest.raises(UserError, match=r".") as caught:
        low_data.run([10], [change], 5, tmp_path / "low_data.json")
    assert said in str(caught.value)
    assert finished == []


def test_low_data_decides_by_params_code_source_and_machine():
    made_by = low_data.decided_by(low_data.params_of(10, [], 5))
    assert {"params.preprocess", "params.evaluate", "params.family", "threads", "torch"} <= set(made_by.parts)
    assert {"tasks/probing/intervals.py", "tasks/judging.py"} <= set(made_by.parts)
    assert "models/families/diffusion.py" in made_by.parts
    assert "params.export" not in made_by.parts


def test_a_source_is_told_by_its_bytes_or_names(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.png").write_bytes(b"12")
    before = low_data.fingerprint(str(tmp_path / "a"))
    (tmp_path / "a").rename(tmp_path / "b")
    assert low_data.fingerprint(str(tmp_path / "b")) == before
    (tmp_path / "b/x.png").write_bytes(b"123")
    assert low_data.fingerprint(str(tmp_path / "b")) != before
    assert low_data.fingerprint("https://host/x.zip") == "https://host/x.zip"


def test_the_copy_has_all_that_the_pipeline_needs_and_its_own_params(tmp_path):
    params = low_data.params_of(10, [], 5)
    low_data.project(tmp_path / "copy", params)
    low_data.project(tmp_path / "copy", params)  # as after a cut
    assert read(tmp_path / "copy/params.yaml").preprocess.train_per_class == 10
    assert [s for s in dvc.stages(tmp_path / "copy") if s in PARAMS] == list(STAGES)
    assert (tmp_path / "copy/flows/evaluate.py").is_file()
    assert not (tmp_path / "copy/tests").exists()


def test_the_low_data_table_gives_arms_and_differences_for_each_count(tmp_path, finished):
    rows = low_data.run([10], [], 5, tmp_path / "low_data.json")
    assert low_data.table(rows).splitlines() == [
        "| real images a class | 10 |",
        "| --- | --- |",
        "| `real` | 90.00 [88.00, 91.50] |",
        "| `synthetic` | - |",
        "| `real_synthetic` − `real` | −1.00 [−2.00, +0.00] |",
        "| `real_augmented` − `real` | - |",
        "| recommended ratio | 1 |",
        "10 a class: synthetic: not measured; too few.",
    ]


def test_a_row_holds_what_the_report_says(tmp_path):
    data = making.stages(tmp_path / "data")
    (data / "report").mkdir()
    told = {"accuracy": {}, "difference": {}, "recommendation": {}, "notes": ["n"], "headline": []}
    (data / "report/metrics.json").write_text(json.dumps({**told, "before": {}}))
    assert low_data.row(tmp_path) == {"samples": 60, "kept": 48, **told}


def test_references_are_found_from_the_copy_too_and_decide_a_row(tmp_path):
    given = {"train.family": "style", "train.references": str(tmp_path)}
    changes = [f"{key}={value}" for key, value in given.items()]
    (tmp_path / "a.png").write_bytes(b"one")
    found = low_data.params_of(None, changes, 1)
    assert found["train"]["references"] == str(tmp_path)
    before = low_data.decided_by(found).digest
    (tmp_path / "a.png").write_bytes(b"other")
    assert low_data.decided_by(found).digest != before
    assert low_data.params_of(None, [], 1)["train"]["references"] == str(NO_REFERENCES)
