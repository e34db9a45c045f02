import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import million
from benchmarks.memory import BEFORE, Spent
from tasks.reading import read
from tests.house import PARAMS

CARD = "---\nconfigs: [{config_name: manifest, data_files: [{split: train, path: manifest.parquet}]}]\n---\n"


@pytest.fixture
def stages(monkeypatch):
    """Stages that only write a manifest and a card, of as many samples as were asked for, less `lost`."""
    ran = []

    def stage(name, root, environment, lost=0):
        ran.append(name)
        out = root / million.OUTS[name]
        out.mkdir(parents=True)
        count = read(root / "params.yaml").generate.num_samples - stages.lost
        kept = pa.table({"id": [str(n) for n in range(count)], "kept": [True] * count})
        pq.write_table(kept, out / "manifest.parquet")
        (out / "README.md").write_text(CARD)
        return Spent(2.0, 1.0, 100.0)

    stages = stage
    stages.lost, stages.ran = 0, ran
    monkeypatch.setattr(million, "clone", lambda root: {"PATH": ""})
    monkeypatch.setattr(million, "plain", lambda root, environment, names: ran.extend(names))
    monkeypatch.setattr(million, "stage", stage)
    return stages


def test_every_stage_is_told_and_every_reader_finds_every_sample(tmp_path, stages):
    (tmp_path / "params.yaml").write_text(json.dumps(PARAMS))
    row = million.measure(tmp_path, 300)
    assert stages.ran == [*BEFORE, "generate", "filter", "evaluate", "export"]
    assert list(row) == [*million.OUTS, *million.READERS]
    assert row["filter"]["seconds"] == 2
    assert row["filter"]["files"] == 2
    assert row["datasets"]["peak"] > row["DuckDB"]["peak"] * 0.5 > 10
    lines = million.markdown({"300": row}).splitlines()
    assert lines[2].startswith("| 300 | generate | 2 | 1 | 100 | 0.0 | 2 |")
    assert lines[-1].endswith("| - | - |")


def test_a_reader_that_misses_a_sample_is_told(tmp_path, stages):
    (tmp_path / "params.yaml").write_text(json.dumps(PARAMS))
    stages.lost = 1
    with pytest.raises(RuntimeError, match="pandas finds '299' rows in the manifest of 300"):
        million.measure(tmp_path, 300)
