"""A contestant is trained for longer and longer, until its samples teach enough."""

import json

import pytest

from benchmarks import contest, peers, training
from tests.benchmarks.benches import bench


@pytest.fixture
def rising(monkeypatch):
    """An accuracy that grows with the budget: 0.9, and 2 points a minute."""

    def accuracy(self, drawn, test, seeds):
        assert test == "test"
        return {"mean": 0.9 + 0.02 * self.minutes, "std": 0.01, "per_seed": []}

    monkeypatch.setattr(contest.Bench, "accuracy", accuracy)


def test_the_shortest_budget_that_is_enough_ends_the_search(data, copied, rising):
    found = training.reach(bench(data), "gan", [4, 1, 3, 2])
    assert found["reached"]
    assert [each["minutes"] for each in found["tried"]] == [1, 2, 3]
    assert [minutes for _, _, minutes in copied] == [1, 2, 3]


def test_what_never_gets_there_says_how_far_it_came(data, tmp_path, monkeypatch, copied, rising, capsys):
    monkeypatch.setattr(training, "read", lambda path: bench(data).params)
    monkeypatch.setattr(peers, "missing", lambda name: None)
    monkeypatch.setattr(contest, "version", lambda package: "1")
    asked = ["--families", "gan", "--minutes", "1", "3", "--peer", "2", "--data", str(data)]
    training.main([*asked, "--results", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert not rows["diffusers"]["reached"]
    assert training.markdown(rows).splitlines()[2:] == [
        "| gan | 3 | 320 | 96.00 ± 1.00 | over 0.7 times |",
        "| diffusers | over 2 | 320 | 94.00 ± 1.00 | - |",
    ]
    assert training.markdown(rows) in capsys.readouterr().out
    trained = len(copied)
    training.main([*asked, "--results", str(tmp_path / "rows.json")])
    assert len(copied) == trained  # finished rows are kept
