"""The benchmarks' tables: rows are kept, the text says what they hold, and a peer's size is held to ours."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import (
    contest,
    families,
    faults,
    filtering,
    ingest,
    kills,
    low_data,
    memory,
    options,
    peers,
    restore,
    shares,
)
from models.families import Spec, load
from tasks import dvc, judging, originals
from tasks.errors import UserError
from tasks.params import CalibrateParams, Params
from tasks.reading import read
from tasks.shards import seal
from tests import making, pictures
from tests.house import PARAMS, ROOT, STAGES

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


def bench(data: Path, **changes) -> contest.Bench:
    sections = {
        "train": {"batch": 16},
        "generate": {"batch": 20},
        "evaluate": {"arms": ["real"], "images": 400, "batch": 20},
        "machine": {"device": "cpu", "threads": 1},
    }
    params = Params(**{**PARAMS, **sections})
    return contest.Bench(params, data, **{"minutes": 0.005, "seeds": 1, "trials": 3, **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("benchmarks")
    for split, each, seed in (("train", 8, 1), ("calibrate", 8, 2), ("test", 8, 3)):
        making.real(root / "real" / split, each, seed)
    (root / "reference").mkdir()
    train, calibrate = root / "real/train", root / "real/calibrate"
    device = bench(root).device
    judging.fit_judge(train, CalibrateParams(images=400, batch=20), device, root / "reference")
    originals.measure_real(train, calibrate, device, root / "reference")
    seal(root / "reference")
    return root


@pytest.fixture
def copied(monkeypatch):
    """Contestants that need no training: they draw the real images again."""

    class Copy:
        SAMPLING = frozenset()

        def sample(self, y_B, seeds_B):
            import torch

            return torch.from_numpy(making.pictures(y_B.numpy(), seeds_B[0] % 2**32)), None

    trained = []

    def train(self, name, lr, minutes):
        trained.append((name, lr, minutes))
        return contest.Trained(Copy(), self.device, 7, 320, "copied")

    monkeypatch.setattr(contest.Bench, "train", train)
    return trained


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


def test_a_peer_has_about_as_many_parameters():
    sizes = [{"width": w} for w in (16, 32, 48)]
    assert peers.match(1_000, sizes, lambda c: c["width"] ** 2) == {"width": 32}
    with pytest.raises(UserError, match="no network"):
        peers.match(5_000, sizes, lambda c: c["width"] ** 2)


@pytest.mark.parametrize(("side", "levels"), [(28, 3), (32, 4), (8, 2)])
def test_a_peer_halves_sides_without_padding(side, levels):
    config = next(peers.unets(Spec(1, side, side, 10)))
    assert len(config["block_out_channels"]) == len(config["up_block_types"]) == levels


def test_a_broken_file_of_rows_is_told_before_any_work(data, tmp_path, copied):
    (tmp_path / "families-bars-0.005min.json").write_text("{")
    with pytest.raises(UserError, match="Remove it to start afresh"):
        families.run(bench(data), ["gan"], tmp_path, "bars")
    assert copied == []


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


def test_the_filters_worth_is_told_with_what_chance_keeps():
    span = {"mean": 0.9, "low": 0.88, "high": 0.92}
    row = {"samples": 200, "kept": 150, "accuracy": dict.fromkeys(filtering.ARMS, span)}
    row["difference"] = {filtering.PAIR: {"mean": 0.01, "low": -0.005, "high": 0.02}}
    text = filtering.markdown({"vae": row})
    assert "| `vae` | 75.0 | 90.00 [88.00, 92.00] | 90.00 [88.00, 92.00] | +1.00 [−0.50, +2.00] |" in text
    assert set(filtering.IMAGES) <= set(PARAMS["families"])


@pytest.mark.parametrize(
    ("table", "name"),
    [(filtering.markdown, "filtering"), (options.markdown, "options"), (low_data.table, "low_data")],
)
def test_the_readme_holds_the_kept_table(table, name):
    kept = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())
    assert table(kept) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_tells_the_planted_faults_as_they_were_found():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    kept = {n: json.loads((ROOT / f"benchmarks/results/faults-{n}.json").read_text()) for n in faults.SHOWN}
    assert faults.markdown(kept) in readme


@pytest.mark.parametrize("name", ["mnist5k-3min", "cifar10-5k-5min"])
def test_the_readmes_tables_are_the_kept_rows(name):
    kept = json.loads((ROOT / f"benchmarks/results/families-{name}.json").read_text())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert families.markdown(kept) in readme
    for contestant in kept:
        grid = f"benchmarks/results/grids/{name.rpartition('-')[0]}-{contestant}.png"
        assert grid in readme
        assert (ROOT / grid).is_file()


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
        ("minutes=5", "section.key=value"),
        ("train.minutes", "section.key=value"),
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


def test_both_ways_from_a_folder_to_parquet_are_timed_and_the_fastest_counts(tmp_path, monkeypatch):
    source = pictures.write(tmp_path / "set", pictures.classes(20))
    wall = iter([9.0, 5.0, 9.0, 4.0, 8.0, 6.0])

    def here(run, source, home, size, workers):
        if run != "datasets":
            getattr(ingest, run)(source, Path(home), size, workers)
        return next(work) if run == "datasets" else {"ingest": 1.0, "preprocess": 2.0}[run], next(wall)

    work = iter([12.0, 9.0])
    monkeypatch.setattr(ingest, "alone", here)
    found = tmp_path / "ingest.json"
    arguments = ["--source", str(source), "--sizes", "16", "--workers", "1", "--tries", "2"]
    ingest.main([*arguments, "--results", str(found)])
    (row,) = json.loads(found.read_text()).values()
    assert (row["images"], row["ratio"], row["ours"]) == (40, 3.0, 13)
    assert row["with_start_up"] == {"ingest": 4.0, "preprocess": 5.0, "datasets": 6.0}
    assert row["ratio_with_start_up"] == 0.67
    assert "| set, to 16 x 16 | 13 | 4 | 3.0 | 0.7 |" in ingest.markdown({"set, to 16 x 16": row})


def test_memory_is_told_of_each_stage_at_both_counts(tmp_path, monkeypatch):
    counts, ran = [], []

    def stage(name, root, environment):
        samples = read(root / "params.yaml").generate.num_samples
        ran.append((name, samples))
        counts.append(samples)
        return 100.0 + samples

    (tmp_path / "params.yaml").write_text(json.dumps(PARAMS))
    monkeypatch.setattr(memory, "clone", lambda root: {})
    monkeypatch.setattr(memory, "prepare", lambda root, environment, stages: ran.extend(stages))
    monkeypatch.setattr(memory, "stage", stage)
    rows = memory.measure(tmp_path, 100, 300, ["generate", "export"])
    assert ran[:4] == list(memory.BEFORE)
    assert ran[4:8] == [("generate", 100), "filter", "evaluate", ("export", 100)]
    assert rows["generate"] == {"100": 200.0, "300": 400.0, "ratio": 2.0}
    assert "| generate | 200 | 400 | 2.00 |" in memory.markdown(rows)


def test_the_clock_counts_what_it_watches_and_lets_go(monkeypatch):
    class Worker:
        def work(self, for_):
            now[0] += for_
            return "done"

    now = [0.0]
    monkeypatch.setattr(shares.time, "monotonic", lambda: now[0])
    clock, worker = shares.Clock(bench(Path()).device), Worker()
    with clock.watching(Worker, "work"):
        assert worker.work(for_=3.0) == "done"
        now[0] += 5.0
    worker.work(for_=7.0)
    assert clock.seconds == 3.0


@pytest.mark.parametrize("benchmark", [ingest])
def test_the_docs_hold_what_was_measured_of_speed_and_memory(benchmark):
    kept = json.loads(benchmark.RESULT.read_text(encoding="utf-8"))
    assert benchmark.markdown(kept) in (ROOT / "docs/scale.md").read_text(encoding="utf-8")


def test_the_table_of_kills_is_what_was_counted(tmp_path):
    rows = {"computed_on": {"digest": "x"}}
    kills.note(tmp_path / "kills.json", rows, "train, all killed", True, "begun")
    kills.note(tmp_path / "kills.json", rows, "train, all killed", False, "half done")
    kills.note(tmp_path / "kills.json", rows, "generate, 2 workers", True)
    assert json.loads((tmp_path / "kills.json").read_text()) == rows
    lines = kills.table(rows).splitlines()[2:]
    assert lines == ["| train, all killed | 2 | 1 |", "| generate, 2 workers | 1 | 1 |"]


def test_restoration_is_measured_beside_what_came_in_and_its_rival(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(restore, "read", lambda path: bench(data).params)
    monkeypatch.setattr(restore, "STRENGTHS", (5, 30))
    asked = ["--data", str(data), "--minutes", "0.01", "--seeds", "1", "--name", "bars"]
    restore.main([*asked, "--results", str(tmp_path), "--only", "noise,super_resolution_2x"])
    found = json.loads((tmp_path / "restore-bars.json").read_text())
    noise, small = found["noise"]["measured"], found["super_resolution_2x"]["measured"]
    assert [name.split(",")[0] for name in noise] == ["as it came", "non-local means", "restore"]
    assert list(small) == ["as it came", "restore"]
    assert 20 < noise["as it came"]["psnr"] < 22  # noise of deviation 25, less where it is cut off
    assert noise["restore"] != noise["as it came"]
    table = capsys.readouterr().out
    assert f"| noise | restore | {noise['restore']['psnr']:.2f} |" in table
    monkeypatch.setattr(restore, "row", str)  # finished rows are not made again
    restore.main([*asked, "--results", str(tmp_path), "--only", "noise"])


def test_non_local_means_is_chosen_by_what_it_does():
    x = np.full((3, 1, 16, 16), 100, np.uint8)
    x[..., 8:] = 160
    noise = np.random.default_rng(0).normal(0, 12, x.shape)
    spoilt = torch.from_numpy(np.clip(x + noise, 0, 255).astype(np.uint8))
    strength, patch, search = restore.tuned(spoilt, torch.from_numpy(x))
    best = restore.means(restore.non_local_means(spoilt, strength, patch, search), torch.from_numpy(x))
    assert best["psnr"] > restore.means(spoilt, torch.from_numpy(x))["psnr"] + 3


def test_an_unknown_degradation_is_named():
    with pytest.raises(SystemExit):
        restore.parser().parse_args(["--only", "rain"])
