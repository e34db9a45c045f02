import json

import pyarrow.parquet as pq
import pytest

from flows.export import export
from tasks.errors import UserError
from tasks.params import Bound, ExportParams
from tests import making

PARAMS = ExportParams(name="tiny", shard_size=20)


@pytest.fixture
def data(tmp_path):
    data = making.stages(tmp_path / "data")
    (data / "report").mkdir()
    metrics = {"headline": [], "accuracy": {}, "before": None, "after": {"fid": 3.0}, "scale": None}
    (data / "report/metrics.json").write_text(json.dumps(metrics))
    (data / "report/index.json").write_text("{}")
    return data


def run(data, gates):
    inputs = [data / name for name in ("synthetic", "scores", "report", "checkpoint")]
    return export(PARAMS, gates, *inputs, data / "export")


def test_export_writes_the_dataset_if_the_gates_hold(prefect, data):
    out = run(data, {"kept_ratio": Bound(min=0.8), "after.fid": Bound(max=3.0)})
    index = json.loads((out / "index.json").read_text())
    assert (index["drawn"], index["kept"], index["synthetic"]) == (60, 48, True)
    images = [f"images/train-{n:05d}-of-00003.parquet" for n in range(3)]
    assert list(index["files"]) == sorted([*images, "README.md", "manifest.parquet", "preview.png"])
    assert pq.read_metadata(out / "manifest.parquet").num_rows == 60


def test_a_broken_gate_stops_export_before_it_writes(prefect, data):
    with pytest.raises(UserError, match=r"kept_ratio +0\.8 +min 0\.9 +under by 0\.1"):
        run(data, {"kept_ratio": Bound(min=0.9)})
    assert not (data / "export").exists()
    assert not (data / ".unfinished/export").exists()


def test_an_unknown_metric_is_named_with_those_near_it(prefect, data):
    with pytest.raises(UserError, match="kept_ratio"):
        run(data, {"kept_rato": Bound(min=0.9)})
    assert not (data / "export").exists()
