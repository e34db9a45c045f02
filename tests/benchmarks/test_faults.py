import json

from benchmarks import faults
from tests.benchmarks.benches import bench


def test_planted_faults_are_counted_by_kind_and_kept(data, tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "EACH", 10)
    monkeypatch.setattr(faults, "read", lambda path: bench(data).params)
    faults.main(["--data", str(data), "--seeds", "2", "--name", "bars", "--results", str(tmp_path)])
    found = json.loads((tmp_path / "faults-bars.json").read_text())
    others = {"swapped label", "collapsed class", "sound, lost", "sound, called a copy"}
    assert set(found) == {*faults.COPIES, *faults.RUINS, *others}
    assert all(len(shares) == 2 for shares in found.values())
    assert found["exact copy"] == [1, 1]
    assert found["collapsed class"] == [1, 1]
    assert max(found["sound, called a copy"]) < 0.1
