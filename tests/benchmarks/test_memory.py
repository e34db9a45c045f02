import json

from benchmarks import memory
from tasks.reading import read
from tests.house import PARAMS


def test_memory_is_told_of_each_stage_at_both_counts(tmp_path, monkeypatch):
    counts, ran = [], []

    def stage(name, root, environment):
        samples = read(root / "params.yaml").generate.num_samples
        ran.append((name, samples))
        counts.append(samples)
        return memory.Spent(1.0, 1.0, 100.0 + samples)

    (tmp_path / "params.yaml").write_text(json.dumps(PARAMS))
    monkeypatch.setattr(memory, "clone", lambda root: {})
    monkeypatch.setattr(memory, "plain", lambda root, environment, stages: ran.extend(stages))
    monkeypatch.setattr(memory, "stage", stage)
    rows = memory.measure(tmp_path, 100, 300, ["generate", "export"])
    assert ran[:4] == list(memory.BEFORE)
    assert ran[4:8] == [("generate", 100), "filter", "evaluate", ("export", 100)]
    assert rows["generate"] == {"100": 200.0, "300": 400.0, "ratio": 2.0}
    assert "| generate | 200 | 400 | 2.00 |" in memory.markdown(rows)
