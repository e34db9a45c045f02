import json

from benchmarks import options
from tests.benchmarks.benches import bench


def test_options_are_measured_one_change_at_a_time_and_kept(data, tmp_path, monkeypatch):
    rows = [options.Row("vae", {"width": 16}), options.Row("vae", {"width": 16}, {}, per_class=4)]
    monkeypatch.setattr(options, "ROWS", rows)
    monkeypatch.setattr(options, "PROBE_IMAGES", 200)
    monkeypatch.setattr(options, "read", lambda path: bench(data).params)
    arguments = ["--data", str(data), "--images", "64", "--seeds", "2", "--results", str(tmp_path)]
    options.main(arguments)
    found = json.loads((tmp_path / "options.json").read_text())
    assert list(found) == ["vae, width: 16", "vae, 4 real images a class, width: 16"]
    assert all(len(row["accuracy"]["per_seed"]) == 2 for row in found.values())

    def again(*_):
        raise AssertionError("a finished row was made again")

    monkeypatch.setattr(options, "make", again)
    options.main(arguments)
    assert json.loads((tmp_path / "options.json").read_text()) == found


def test_an_options_table_says_which_did_not_train():
    row = {"accuracy": {"mean": 0.5, "std": None}, "frechet_distance": 1.0, "precision": 0.5, "recall": 0.25}
    text = options.markdown({"gan, as it is": row, "gan, gamma: 0": {"ill": "train: loss became nan"}})
    assert "| gan, as it is | 50.00 | 1.00 | 0.500 | 0.250 |" in text
    assert "| gan, gamma: 0 | did not train | - | - | - |" in text
