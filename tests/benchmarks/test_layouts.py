"""Each layout is timed as such, and a family that this data does not suit costs its row alone."""

import json

import pytest
import torch

from benchmarks import layouts
from tests.benchmarks.benches import bench


def test_a_device_trains_in_the_layout_that_it_is_told(data):
    device = bench(data).device
    for layout in layouts.LAYOUTS.values():
        assert layouts.laid(device, layout).training_format == layout
    assert layouts.laid(device, torch.channels_last).facts == device.facts


def test_what_can_train_is_measured_and_what_can_not_is_named(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(layouts, "read", lambda path: bench(data).params)
    monkeypatch.setattr(layouts, "names", lambda: ["gan", "pix2pix"])
    written = tmp_path / "rows.json"
    layouts.main(["--steps", "1", "--data", str(data), "--results", str(written)])
    rows = json.loads(written.read_text())
    assert [*rows] == ["gan"]
    assert all(rate > 0 for rate in rows["gan"].values())
    told = capsys.readouterr()
    assert "pix2pix: not measured" in told.err
    assert layouts.markdown(rows) in told.out


def test_an_unknown_family_is_answered_with_the_known_ones(data):
    with pytest.raises(SystemExit, match="no family 'nope'; there are: breed"):
        layouts.main(["--families", "nope", "--data", str(data)])
