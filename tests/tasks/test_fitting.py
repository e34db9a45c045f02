"""The loop: counted in images, resumed to the same bytes, plain about what can't be trained."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import fitting
from tasks.device import prepare
from tasks.errors import UserError
from tasks.params import Machine, TrainParams
from tasks.shards import file_digest
from tests import making
from tests.house import PARAMS, families

DEVICE = prepare(Machine(device="cpu", threads=1), "fp32")


def params(family, **changes):
    given = {"family": family, "images": 96, "batch": 16, "ema_images": 32, "precision": "fp32"}
    return TrainParams(**{**given, "checkpoint_every": 32, "grid_every": 64, **changes})


def train(folder, real, family, **changes):
    folder.mkdir(exist_ok=True)
    return fitting.fit(folder, real, params(family, **changes), PARAMS["families"][family], DEVICE)


@pytest.mark.parametrize("family", families())
@pytest.mark.parametrize("classes", [making.CLASSES, []], ids=["labelled", "unlabelled"])
def test_trains_and_writes_a_whole_checkpoint(tmp_path, family, classes):
    real = making.real(tmp_path / "train", 10, seed=1, classes=classes)
    out = train(tmp_path / "work", real, family)
    facts = json.loads((out / "checkpoint.json").read_text())
    assert facts["family"] == family
    assert facts["classes"] == classes
    assert facts["images"] == 96
    assert sorted(p.name for p in (out / "grids").iterdir()) == ["000000064.png", "000000096.png"]
    rows = list(csv.DictReader((out / "loss.csv").open()))
    assert rows[-1]["images"] == "96"
    assert all(np.isfinite(float(row["loss"])) for row in rows)
    assert not (out / fitting.STATE).exists()


@pytest.mark.parametrize(("ending", "kept"), [(KeyboardInterrupt, 48), (RuntimeError, 32)])
@pytest.mark.parametrize("family", families())
def test_resumed_training_ends_in_the_same_bytes(tmp_path, family, ending, kept, monkeypatch):
    """A stopped training keeps its last step; one that died keeps its last state."""
    real = making.real(tmp_path / "train", 10, seed=1)
    whole = train(tmp_path / "whole", real, family)
    steps = []
    step = fitting.Fit.step

    def cut(self):
        if len(steps) == 3:
            raise ending
        steps.append(1)
        return step(self)

    monkeypatch.setattr(fitting.Fit, "step", cut)
    with pytest.raises(ending):
        train(tmp_path / "cut", real, family)
    monkeypatch.setattr(fitting.Fit, "step", step)
    cut_off = fitting.Fit(real, params(family), PARAMS["families"][family], DEVICE)
    cut_off.resume(tmp_path / "cut")
    assert cut_off.images == kept
    resumed = train(tmp_path / "cut", real, family)
    names = sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(resumed) for p in resumed.rglob("*") if p.is_file())
    assert [file_digest(whole / n) for n in names] == [file_digest(resumed / n) for n in names]


def test_another_seed_trains_another_model(tmp_path):
    real = making.real(tmp_path / "train", 10, seed=1)
    family = families()[0]
    one, other = (train(tmp_path / f"{s}", real, family, seed=s) for s in (1, 2))
    assert file_digest(one / fitting.MODEL) != file_digest(other / fitting.MODEL)


def test_a_broken_state_is_not_trusted(tmp_path):
    real = making.real(tmp_path / "train", 10, seed=1)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / fitting.STATE).write_bytes(b"\x10\0\0\0\0\0\0\0torn")
    out = train(tmp_path / "work", real, families()[0])
    assert json.loads((out / "checkpoint.json").read_text())["images"] == 96


def test_a_loss_that_is_no_number_ends_in_plain_words(tmp_path, monkeypatch):
    real = making.real(tmp_path / "train", 10, seed=1)
    build = fitting.Fit.build

    def broken(self):
        family = build(self)
        object.__setattr__(family, "step", lambda batch, progress: {"loss": float("nan")})
        return family

    monkeypatch.setattr(fitting.Fit, "build", broken)
    with pytest.raises(UserError, match="learning rate"):
        train(tmp_path / "work", real, families()[0])


@given(
    seed=st.integers(0, 2**31 - 1),
    total=st.integers(1, 50),
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
)
def test_order_is_the_same_however_it_is_cut(seed, total, cuts):
    start, parts = 0, []
    for count in cuts:
        parts.append(fitting.order(seed, start, count, total))
        start += count
    whole = fitting.order(seed, 0, sum(cuts), total)
    assert np.array_equal(np.concatenate(parts), whole)
    for epoch in range(len(whole) // total):
        assert sorted(whole[epoch * total : (epoch + 1) * total]) == list(range(total))


def test_tile_lays_rows_of_columns():
    x = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1) * np.ones((1, 1, 2, 2), np.uint8)
    assert fitting.tile(x, 3)[0].tolist() == [[0, 0, 1, 1, 2, 2]] * 2 + [[3, 3, 4, 4, 5, 5]] * 2


def test_curve_means_the_steps_between_its_points():
    fit = SimpleNamespace(images=0, recent=[], curve=[], params=params("any", images=16 * 400))
    for loss in (1.0, 3.0, 5.0, 7.0):
        fit.images += 16
        fitting.Fit.record(fit, {"loss": loss})
    assert fit.curve == [{"images": 32, "loss": 2.0}, {"images": 64, "loss": 6.0}]
