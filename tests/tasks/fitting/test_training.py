"""One training: its batches, its curve, what of it a saved state holds, and when its budget ends."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from tasks.batches import order
from tasks.errors import UserError
from tasks.fitting import training
from tasks.fitting.training import Training, read_facts, resume
from tests import making
from tests.house import families
from tests.tasks.fitting.training import DEVICE, learners, narrow, params


@pytest.fixture(scope="module")
def real(labelled):
    return labelled[0]


def start(real, family, **changes):
    return Training(real, params(family, **changes), narrow(family), DEVICE)


@given(
    seed=st.integers(0, 2**31 - 1),
    total=st.integers(1, 50),
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
)
def test_order_is_the_same_however_it_is_cut(seed, total, cuts):
    start, parts = 0, []
    for count in cuts:
        parts.append(order(seed, start, count, total))
        start += count
    whole = order(seed, 0, sum(cuts), total)
    assert np.array_equal(np.concatenate(parts), whole)
    for epoch in range(len(whole) // total):
        assert sorted(whole[epoch * total : (epoch + 1) * total]) == list(range(total))


def test_curve_means_the_steps_between_its_points():
    fit = SimpleNamespace(
        images=0, recent=[], curve=[], batch_size=16, params=params("any", images=16 * 400, grid_every=10**6)
    )
    for loss in (1.0, 3.0, 5.0, 7.0):
        fit.images += 16
        Training.record(fit, {"loss": loss})
    assert fit.curve == [{"images": 32, "loss": 2.0}, {"images": 64, "loss": 6.0}]


def test_progress_is_that_of_the_tighter_limit(real):
    family = families()[0]
    here = start(real, family, images=96, minutes=2.0)
    here.images, here._earlier = 48, 30.0
    assert here.progress == pytest.approx(0.5)
    here._earlier = 90.0
    assert here.progress == pytest.approx(0.75, abs=0.01)
    assert here.ended_by == "minutes"
    here._earlier = 900.0
    assert here.progress == 1
    here.images = 96
    assert here.ended_by == "images"
    unlimited = start(real, family)
    unlimited._earlier = 1e9
    assert unlimited.progress == 0


@pytest.mark.parametrize("family", learners())
def test_a_loaded_state_goes_on_as_the_saved_one_did(real, family, tmp_path):
    first = start(real, family)
    for _ in range(3):
        first.step()
    first.rollbacks, first.health, first.watch = [{"images": 7}], [{"images": 16}], {"means": {"loss": 1.5}}
    first.save(tmp_path / "state")
    # torch's own generator is of no account: a step is decided by its number.
    torch.manual_seed(99)
    other = start(real, family)
    other.load(tmp_path / "state")
    for name in ("images", "curve", "recent", "rollbacks", "health", "watch"):
        assert getattr(other, name) == getattr(first, name)
    assert other.seconds == pytest.approx(first.seconds, abs=60)
    assert first.step() == other.step()
    for key, value in first.family.state_dict().items():
        assert torch.equal(other.family.state_dict()[key], value), key
    for key, value in first.ema.state_dict().items():
        assert torch.equal(other.ema.state_dict()[key], value), key


@pytest.mark.parametrize("family", learners())
def test_averaged_is_the_average_finished_and_leaves_the_training_as_it_was(real, family):
    here = start(real, family)
    for _ in range(2):
        here.step()
    before = {k: v.clone() for k, v in here.family.state_dict().items()}
    one, again = here.averaged(), here.averaged()
    for key, value in one.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    for key, value in here.ema.average.items():
        assert torch.equal(one.network.state_dict()[key], value), key
    for key, value in here.family.state_dict().items():
        assert torch.equal(before[key], value), key
    assert any(
        not torch.equal(one.network.state_dict()[k], v) for k, v in here.family.network.state_dict().items()
    )


def test_passes_see_every_training_image_once_in_order(real):
    here = start(real, families()[0], batch=7)
    seen = list(here.passes())
    assert [len(b.x_BCHW) for b in seen] == [7, 7, 7, 7, 2]
    pixels = torch.cat([b.x_BCHW for b in seen]) * 127.5 + 127.5
    assert torch.equal(pixels.round().byte(), here.real.x_NCHW)
    assert torch.equal(torch.cat([b.y_B for b in seen]), here.real.y_N)


def save_at(real, folder, name, images, rollbacks=0):
    here = start(real, families()[0])
    here.images, here.rollbacks = images, [{"images": 1}] * rollbacks
    here.watch = {"name": name}
    here.save(folder / name)


@pytest.mark.parametrize(
    ("states", "taken"),
    [
        ({"state": (64, 0), "healthy": (32, 0)}, "state"),
        ({"state": (32, 0), "healthy": (64, 0)}, "healthy"),
        ({"state": (32, 1), "healthy": (64, 0)}, "state"),  # it rolled back: what came before is no more
        ({"state": (64, 0), "healthy": (64, 0)}, "state"),
        ({"healthy": (16, 0)}, "healthy"),
    ],
)
def test_resume_takes_the_state_that_came_furthest(real, tmp_path, states, taken):
    for name, (images, rollbacks) in states.items():
        save_at(real, tmp_path, name, images, rollbacks)
    here = start(real, families()[0])
    assert resume(here, [tmp_path / "state", tmp_path / "healthy"])
    assert here.watch == {"name": taken}
    assert here.images == states[taken][0]


def test_resume_passes_over_a_broken_state(real, tmp_path, caplog):
    save_at(real, tmp_path, "healthy", 32)
    (tmp_path / "state").write_bytes(b"\x10\0\0\0\0\0\0\0torn")
    here = start(real, families()[0])
    assert resume(here, [tmp_path / "state", tmp_path / "healthy"])
    assert here.images == 32
    assert "state is not readable" in caplog.text
    assert not resume(start(real, families()[0]), [tmp_path / "none"])
    with pytest.raises(SafetensorError):
        read_facts(tmp_path / "state")


def test_a_state_is_one_file_of_tensors_and_json(real, tmp_path):
    save_at(real, tmp_path, "state", 48, 2)
    with safe_open(tmp_path / "state", "pt") as file:
        facts = json.loads(file.metadata()["facts"])
    assert facts == read_facts(tmp_path / "state")
    assert facts["images"] == 48
    assert len(facts["rollbacks"]) == 2
    assert set(training._FACTS) | {"groups", "seconds"} == set(facts)


def test_what_cannot_be_trained_is_told(real, tmp_path):
    family = families()[0]
    with pytest.raises(UserError, match=rf"families\.{family}\.lr"):
        Training(real, params(family), {"lr": -1.0}, DEVICE)
    empty = making.shards(
        tmp_path / "none", making.samples(making.pictures(np.zeros(0, int), 0), [], "t"), []
    )
    with pytest.raises(UserError, match="no image to train on"):
        Training(empty, params(family), {}, DEVICE)
