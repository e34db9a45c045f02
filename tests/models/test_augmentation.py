"""Augmentation changes what it says by as much as it says, and nothing else."""

import math
from typing import get_args

import pytest
import torch

from models import augmentation
from models.augmentation import CHANGES, WARPS, augmented, warped
from tasks.params import Augmentation

NAMES = [*WARPS, *CHANGES]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def images(channels=1, count=64, side=28):
    return torch.rand(count, channels, side, side) * 2 - 1


def test_params_know_every_transform_and_no_other():
    assert set(get_args(Augmentation)) == set(NAMES)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_each_transform_changes_most_images_and_keeps_shape_and_range(name, channels):
    x = images(channels)
    before = x.clone()
    found = augmented(x, [name])
    assert found.shape == x.shape
    assert found.dtype == x.dtype
    assert found.min() >= -1
    assert found.max() <= 1
    assert torch.equal(x, before)
    assert (found != x).flatten(1).any(1).float().mean() > 0.3


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_repeats(name):
    x, found = images(), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(augmented(x, [name]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_no_transform_changes_nothing():
    x = images()
    assert augmented(x, []) is x
    with pytest.raises(KeyError):
        augmented(x, ["sharpen"])


def test_a_warp_that_moves_nothing_gives_the_image_back():
    x = images()
    assert torch.allclose(warped(x, torch.eye(3).repeat(64, 1, 1)), x, atol=1e-5)


def test_a_shift_by_whole_pixels_moves_whole_pixels_and_repeats_the_edge():
    x = images(count=2, side=10)
    move = torch.eye(3).repeat(2, 1, 1)
    move[:, 0, 2] = 2 / 10  # one pixel of ten: each pixel shows what lay on its right
    found = warped(x, move)
    assert torch.allclose(found[..., :-1], x[..., 1:], atol=1e-5)
    assert torch.allclose(found[..., -1], x[..., -1], atol=1e-5)


def test_draws_stay_in_their_bounds():
    shift, turn, zoom = (WARPS[name](2_000) for name in ("shift", "rotate", "scale"))
    assert shift[:, :2, 2].abs().max() <= 0.2
    assert shift[:, :2, 2].abs().max() > 0.19
    angle = torch.atan2(turn[:, 1, 0], turn[:, 0, 0])
    assert angle.abs().max() <= math.radians(15)
    assert angle.abs().max() > math.radians(14.8)
    assert torch.allclose(torch.linalg.det(turn), torch.ones(2_000))
    factor = 1 / torch.diagonal(zoom, dim1=1, dim2=2)[:, :2]
    assert factor.min() >= 0.85 - 1e-6
    assert factor.max() <= 1.15 + 1e-6


def test_all_warps_are_one_interpolation(monkeypatch):
    calls = []
    monkeypatch.setattr(augmentation, "warped", lambda x, move: calls.append(move) or x)
    augmented(images(), ["shift", "rotate", "scale"])
    assert len(calls) == 1
    assert calls[0].shape == (64, 3, 3)


def test_flip_mirrors_about_half_and_leaves_the_rest():
    x = images(count=400, side=8)
    found = augmented(x, ["flip"])
    mirrored = (found == x.flip(3)).flatten(1).all(1)
    same = (found == x).flatten(1).all(1)
    assert (mirrored ^ same).all()
    assert 0.4 < mirrored.float().mean() < 0.6


def test_erase_fills_one_rectangle_with_the_mean():
    x = images(count=400)
    found = augmented(x, ["erase"])
    hole = (found != x)[:, 0]
    assert 0.4 < hole.flatten(1).any(1).float().mean() < 0.6
    for image, gone, out in zip(x, hole, found, strict=True):
        if gone.any():
            rows, columns = gone.any(1), gone.any(0)
            assert torch.equal(gone, rows[:, None] & columns)
            assert torch.allclose(out[0][gone], image.mean())
            assert gone.float().mean() < 0.25


def test_colour_leaves_grey_images_grey():
    grey = images().expand(-1, 3, -1, -1)
    found = augmented(grey, ["colour"])
    assert torch.allclose(found[:, 0], found[:, 1], atol=1e-5)
