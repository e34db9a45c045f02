"""Conditions are taken from an image by rules that give the same map again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.conditions import colours, described, edges, extract, grey, shown
from tasks.params import PreprocessParams


def square(size=32, channels=3):
    """A bright square on dark ground."""
    image = np.full((channels, size, size), 30, np.uint8)
    image[:, 8:24, 8:24] = 220
    return image


def noise(seed, channels=3, size=12):
    return np.random.default_rng(seed).integers(0, 256, (channels, size, size), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_edges_are_where_the_light_changes_and_nowhere_else(channels):
    found = edges(square(channels=channels))
    assert found.shape == (1, 32, 32)
    assert set(np.unique(found)) == {0, 255}
    drawn = found[0] == 0
    assert drawn[:, [7, 8, 23, 24]][10:22].any(axis=1).all()
    assert not drawn[12:20, 12:20].any()
    assert not drawn[:5].any()


@pytest.mark.parametrize("contrast", [4, 100])
def test_edges_are_found_whatever_the_contrast(contrast):
    image = np.full((1, 32, 32), 60, np.uint8)
    image[:, 8:24, 8:24] += contrast
    assert 30 < (edges(image) == 0).sum() < 200


def test_a_plain_image_has_no_edges():
    assert (edges(np.full((1, 16, 16), 77, np.uint8)) == 255).all()


def test_grey_is_luminance():
    image = np.zeros((3, 1, 3), np.uint8)
    image[0, 0, 0] = image[1, 0, 1] = image[2, 0, 2] = 200
    assert grey(image)[0, 0].tolist() == [60, 117, 23]


def test_colours_are_ids_by_luminance():
    bars = np.zeros((3, 8, 12), np.uint8)
    for n, colour in enumerate([(250, 240, 230), (10, 0, 30), (200, 30, 30), (40, 160, 40)]):
        bars[:, :, 3 * n : 3 * n + 3] = np.array(colour)[:, None, None]
    assert colours(bars, 4)[0, 0].tolist() == [3] * 3 + [0] * 3 + [1] * 3 + [2] * 3


@given(st.integers(0, 99), st.integers(2, 9), st.sampled_from([1, 3]))
def test_every_map_holds_ids_of_its_range_in_order_of_light(seed, count, channels):
    image = noise(seed, channels)
    found = colours(image, count)
    assert found.max() < count
    luminance = np.tensordot((0.299, 0.587, 0.114), image, 1) if channels == 3 else image[0]
    light = [luminance[found[0] == n].mean() for n in np.unique(found)]
    assert light == sorted(light)


def test_what_is_described_is_what_is_extracted():
    for name, (channels, ids) in {"edges": (1, 0), "grey": (1, 0), "colours": (6, 6)}.items():
        params = PreprocessParams(size=12, channels=3, condition=name, colours=6)
        assert described(params) == {"name": name, "channels": channels, "ids": ids}
        found = extract(noise(1), params)
        assert found.shape == (1, 12, 12)
        assert found.dtype == np.uint8
    assert described(PreprocessParams()) is None
    assert extract(noise(1), PreprocessParams(channels=3)) is None


def test_the_grey_of_grey_images_is_refused():
    with pytest.raises(ValidationError, match="set channels to 3"):
        PreprocessParams(condition="grey")


def test_a_map_is_shown_from_black_to_white():
    assert shown(np.array([[[0, 1, 2, 3]]], np.uint8), 4).tolist() == [[[0, 85, 170, 255]]]
    assert shown(np.array([[[7]]], np.uint8), 0).tolist() == [[[7]]]
