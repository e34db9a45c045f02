"""Rows are kept, the table says what they hold, and all contestants are tuned alike."""

import json

import numpy as np
import pytest

from benchmarks import contest, families, peers
from models.families import load
from tasks.errors import UserError
from tests.benchmarks.benches import bench

ROW = {
    "parameters": 827_140,
    "train_rate": 639.2,
    "sample_rate": 127.0,
    "accuracy": {"mean": 0.9712, "std": 0.0044, "per_seed": []},
    "frechet_distance": 1.5,
    "precision": 0.9,
    "recall": None,
    "coverage": 0.95,
    "bits_per_dim": None,
    "lr": 0.012,
    "tried": [{"lr": 0.004, "accuracy": 0.5}, {"lr": 0.012, "accuracy": 0.75}],
    "note": "computed in bf16",
}


def test_a_finished_row_is_kept_until_what_decides_it_changes(data, tmp_path, copied):
    rows = families.run(bench(data), ["gan"], tmp_path, "bars")
    assert families.run(bench(data), ["gan"], tmp_path, "bars") == rows
    assert len(copied) == 1
    assert json.loads((tmp_path / "families-bars-0.005min.json").read_text()) == rows
    assert (tmp_path / "grids/bars-gan.png").read_bytes().startswith(b"\x89PNG")
    families.run(bench(data, seeds=2), ["gan"], tmp_path, "bars")
    assert len(copied) == 2


def test_a_row_holds_what_was_measured(data, tmp_path, copied):
    row = families.run(bench(data), ["gan"], tmp_path, "bars")["gan"]
    assert row["parameters"] == 7
    assert row["train_rate"] == pytest.approx(320 / 0.3, rel=1e-3)
    assert 0 <= row["accuracy"]["mean"] <= 1
    assert row["frechet_distance"] > 0
    assert row["bits_per_dim"] is None


def test_learning_rates_are_tried_alike_and_the_best_is_used(data, tmp_path, copied, monkeypatch):
    default = load("vae").Config().lr
    score = {default: 0.5, default / 3: 0.25, default * 3: 0.75}
    monkeypatch.setattr(families, "trial", lambda bench, name, lr: score[lr])
    row = families.run(bench(data), ["vae"], tmp_path, "bars")["vae"]
    assert [t["lr"] for t in row["tried"]] == list(score)
    assert copied == [("vae", default * 3, 0.005)]


def test_all_tuned_contestants_get_the_same_multiples_of_their_default(data):
    here = bench(data)
    for name in contest.TUNED:
        assert np.allclose(np.array(here.learning_rates(name)) / here.default_lr(name), contest.MULTIPLIERS)
    assert here.learning_rates("gan") == [here.default_lr("gan")]


def test_an_ill_training_costs_its_row_alone(data, tmp_path, monkeypatch, capsys):
    def ill(self, name, lr, minutes):
        raise UserError("train: loss became nan")

    monkeypatch.setattr(contest.Bench, "train", ill)
    assert families.run(bench(data), ["gan"], tmp_path, "bars") == {}
    assert "gan: no row. train: loss became nan" in capsys.readouterr().err


def test_without_data_one_line_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match="dvc repro calibrate"):
        families.run(bench(tmp_path), ["gan"], tmp_path, "bars")


def test_an_absent_peer_is_skipped_with_the_mend(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(peers.Pythae, "PACKAGE", "no_such_package")
    assert families.run(bench(data), ["pythae"], tmp_path, "bars") == {}
    assert "pip install no_such_package" in capsys.readouterr().err


def test_the_table_says_what_the_rows_hold():
    head, line, below = families.table({"diffusion": ROW}).splitlines()
    cells = ["diffusion", "827,140", "639", "127", "97.12 ± 0.44", "1.50", "0.900", "-", "0.950", "-"]
    assert line.split("  ")[0] == "diffusion"
    assert [c.strip() for c in line.split("  ") if c.strip()] == cells
    assert len(head) == len(line)
    assert below == (
        "diffusion: lr 0.012, of lr 0.004 50.00%; lr 0.012 75.00% on the calibrate split. Computed in bf16."
    )


def test_a_grid_has_a_class_a_column():
    y_N = np.array([2, 0, 1] * 5)
    assert y_N[families.grid_rows(y_N)].reshape(10, 10)[:, :4].tolist() == [[0, 1, 2, 0]] * 10


def test_a_broken_file_of_rows_is_told_before_any_work(data, tmp_path, copied):
    (tmp_path / "families-bars-0.005min.json").write_text("{")
    with pytest.raises(UserError, match="Remove it to start afresh"):
        families.run(bench(data), ["gan"], tmp_path, "bars")
    assert copied == []
