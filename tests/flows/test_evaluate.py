import json

import pytest

from flows.evaluate import evaluate
from tasks.arms import KINDS
from tasks.errors import UserError
from tasks.params import EvaluateParams, Machine
from tests import making

PARAMS = EvaluateParams(arms=["real", "synthetic", "random_drop"], seeds=2, images=400, batch=40)
MACHINE = Machine(device="cpu", threads=1)


def run(data, out, params=PARAMS):
    real = data / "real"
    return evaluate(
        params, real / "train", real / "calibrate", real / "test",
        data / "synthetic", data / "scores", data / "checkpoint", out, MACHINE,
    )  # fmt: skip


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_evaluate_writes_the_same_report_twice(prefect, tmp_path):
    data = making.stages(tmp_path / "data")
    out = run(data, data / "report")
    assert out == data / "report"
    once = files(out)
    tables = {"accuracy.csv", "classes.csv", "confusion.csv", "curves.csv", "measures.csv", "rejected.csv"}
    assert set(once) == tables | {"index.json", "metrics.json", "report.html"}
    metrics = json.loads(once["metrics.json"])
    assert metrics["accuracy"]["synthetic"]["images"] == 48
    assert metrics["accuracy"]["synthetic"]["mean"] > 0.5
    assert files(run(data, data / "report")) == once
    assert not any((data / ".unfinished/evaluate").iterdir())


def test_evaluate_runs_every_kind_of_arm(prefect, tmp_path):
    data = making.stages(tmp_path / "data")
    arms = [*KINDS, "synthetic@0.5", "synthetic_soft@0.5", "real_synthetic@0.5", "real_synthetic@3"]
    out = run(data, data / "report", PARAMS.model_copy(update={"arms": arms, "images": 200}))
    metrics = json.loads((out / "metrics.json").read_text())
    found = metrics["accuracy"]
    assert list(found) == arms
    assert {arm for arm in arms if found[arm]["mean"] is None} == {"real_synthetic@3"}
    assert all(found[arm]["low"] <= found[arm]["mean"] <= found[arm]["high"] for arm in arms[:-1])
    assert (found["synthetic@0.5"]["images"], found["real_synthetic@0.5"]["images"]) == (30, 90)
    assert metrics["recommendation"]["ratio"] in (0, 0.5, 0.8)
    assert "132 are lacking" in metrics["notes"][0]
    assert "real + synthetic, 0.5 ×" in (out / "report.html").read_text()


def test_evaluate_measures_unlabelled_sets_too(prefect, tmp_path):
    data = making.stages(tmp_path / "data", classes=[])
    metrics = json.loads((run(data, data / "report") / "metrics.json").read_text())
    assert metrics["accuracy"]["real"]["mean"] is None
    assert metrics["after"]["coverage"] == 0.85


def test_a_failure_leaves_no_report(prefect, tmp_path):
    data = making.stages(tmp_path / "data")
    (data / "scores/shard-00002.parquet").unlink()
    with pytest.raises(UserError, match="shard-00002"):
        run(data, data / "report")
    assert not (data / "report").exists()
