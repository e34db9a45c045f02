"""Near-duplicates are found among strangers, and strangers are left apart."""

import io

import numpy as np
import pytest
from PIL import Image

from tasks.imaging import thumbs
from tasks.splitting.dealing import Groups
from tasks.splitting.twins import near_pairs
from tests import pictures as p


def images(count, size=32, seed=0):
    return np.stack([np.moveaxis(np.asarray(p.noise(seed + n, size)), -1, 0) for n in range(count)])


def pairs_of(x):
    return {tuple(pair) for pair in near_pairs(thumbs(x), lambda rows: x[rows]).tolist()}


def test_strangers_are_not_paired():
    assert pairs_of(images(300)) == set()


@pytest.mark.parametrize("change", ["jpeg", "noise", "brighter", "paler", "resized"])
def test_twins_are_found_among_strangers(change):
    x = images(200)
    rng = np.random.default_rng(1)
    twins = x[:40].astype(float)
    if change == "jpeg":
        pictures = [Image.fromarray(np.moveaxis(i, 0, -1)) for i in x[:40]]
        again = [Image.open(io.BytesIO(p.encoded(i, "jpeg", quality=75))) for i in pictures]
        twins = np.stack([np.moveaxis(np.asarray(i), -1, 0) for i in again])
    elif change == "noise":
        twins += rng.normal(0, 3, twins.shape)
    elif change == "brighter":
        twins += 20
    elif change == "paler":
        twins = 0.85 * twins + 10
    else:
        twins = np.stack([np.moveaxis(np.asarray(p.noise(n, 64).resize((32, 32))), -1, 0) for n in range(40)])
    found = pairs_of(np.concatenate([x, np.clip(twins, 0, 255).astype(np.uint8)]))
    assert found <= {(n, 200 + n) for n in range(40)}
    assert len(found) >= 38


def test_flat_images_are_twins_only_if_they_are_alike():
    x = np.zeros((6, 1, 16, 16), np.uint8)
    x[2:4], x[4:] = 128, 255
    x[1, 0, 3, 3] = 6
    assert pairs_of(x) == {(0, 1), (2, 3), (4, 5)}


def test_colour_tells_images_of_the_same_grey_apart():
    x = np.zeros((2, 3, 16, 16), np.uint8)
    x[:, :, :8] = 60
    x[0, 0] += 90
    x[1, 2] += 90
    assert pairs_of(x) == set()


def test_thousands_alike_do_not_need_all_pairs(monkeypatch):
    monkeypatch.setattr("tasks.splitting.twins.REACH", 4)
    x = np.repeat(images(1), 200, axis=0) // np.uint8(2)
    x += (np.arange(200) % 7).astype(np.uint8)[:, None, None, None]
    groups = Groups(200)
    found = pairs_of(x)
    assert len(found) < 200 * 4 * 8
    for pair in found:
        groups.join(*pair)
    assert len(groups.members(range(200))) == 1
