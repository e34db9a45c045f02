import json

import numpy as np
import pytest
import torch

from benchmarks import restore
from tests.benchmarks.benches import bench


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
