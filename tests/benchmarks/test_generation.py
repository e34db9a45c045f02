"""Both draw as many samples as are said, and the table sets one's speed against the other's."""

import json

import pytest

from benchmarks import generation, peers
from tests.benchmarks.benches import bench


def test_samples_are_drawn_from_a_checkpoint_into_shards_and_by_the_peer_into_a_folder(
    data, tmp_path, monkeypatch, copied, capsys
):
    monkeypatch.setattr(generation, "read", lambda path: bench(data).params)
    monkeypatch.setattr(peers, "missing", lambda name: None)
    written = tmp_path / "rows.json"
    asked = ["--minutes", "0.002", "--samples", "40", "--seeds", "1", "--steps", "2", "3"]
    asked += ["--family", "diffusion", "--data", str(data), "--results", str(written)]
    generation.main(asked)
    rows = json.loads(written.read_text())
    assert [*rows] == ["diffusion, 2 steps", "diffusion, 3 steps", "diffusers, 20 steps"]
    assert rows["diffusion, 2 steps"]["samples"] == 40
    assert rows["diffusers, 20 steps"]["samples"] == bench(data).splits["train"].rows
    assert all(0 <= row["accuracy"]["mean"] <= 1 for row in rows.values())
    assert copied == [("diffusers", peers.Diffusers.LR, 0.002)]
    assert generation.markdown(rows) in capsys.readouterr().out


def test_the_table_says_how_many_times_the_peers_speed():
    told = {"mean": 0.953, "std": 0.002}
    rows = {
        "a, 2 steps": {"rate": 1_500.0, "accuracy": told},
        "diffusers, 20 steps": {"rate": 20.0, "accuracy": told},
    }
    assert generation.markdown(rows).splitlines()[2:] == [
        "| a, 2 steps | 1,500 | 75.0 | 95.30 ± 0.20 |",
        "| diffusers, 20 steps | 20 | 1.0 | 95.30 ± 0.20 |",
    ]


def test_without_the_peer_one_line_says_how_to_get_it(data, monkeypatch):
    monkeypatch.setattr(peers.Diffusers, "PACKAGE", "no_such_package")
    with pytest.raises(SystemExit, match="pip install"):
        generation.main(["--data", str(data)])
