"""Of every crowd of samples that are alike, one stays."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.likeness import rough, signature
from tasks.scoring import repeats


def image(seed):
    return np.random.default_rng(seed).integers(0, 256, (1, 8, 8), dtype=np.uint8)


def judged(x, limit=0.1, sound=None):
    """Leaders of uint8 images (N, 1, 8, 8)."""
    thumbs_NCHW = torch.from_numpy(x)
    features = thumbs_NCHW.float().flatten(1)
    told = features, signature(thumbs_NCHW), rough(thumbs_NCHW)
    pairs, *_ = repeats.pairs(*told)
    take = lambda rows: thumbs_NCHW[torch.from_numpy(rows)]  # noqa: E731
    digests = [each.tobytes() for each in x]
    sound = np.ones(len(x), bool) if sound is None else sound
    apart = repeats.residuals(pairs, take)
    return repeats.leaders(told, pairs, apart, digests, np.full(len(x), limit), sound, take)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40))
def test_of_each_crowd_the_first_stays(kinds):
    leaders = judged(np.stack([image(kind) for kind in kinds]))
    for n, kind in enumerate(kinds):
        first = kinds.index(kind)
        assert leaders[n] == (-1 if n == first else first)


def test_a_class_collapsed_to_five_images_keeps_five_even_if_they_are_noisy():
    random = np.random.default_rng(0)
    kinds = np.arange(200) % 5
    x = np.stack([image(kind) for kind in kinds]).astype(int) + random.integers(-4, 5, (200, 1, 8, 8))
    leaders = judged(x.clip(0, 255).astype(np.uint8))
    assert (leaders < 0).sum() == 5
    assert all(kinds[n] == kinds[leader] for n, leader in enumerate(leaders) if leader >= 0)


def test_a_sound_sample_stands_for_one_that_is_dropped():
    x = np.stack([image(0), image(0), image(1)])
    assert judged(x, sound=np.array([False, True, True])).tolist() == [1, -1, -1]


def test_a_chain_of_small_changes_is_not_one_crowd():
    a, b = image(0).astype(float), image(1).astype(float)
    x = np.stack([(a + (b - a) * step / 12).round() for step in range(13)]).astype(np.uint8)
    leaders = judged(x, limit=0.25)
    kept = np.flatnonzero(leaders < 0)
    assert 3 <= len(kept) < 13
    for n, leader in enumerate(leaders):
        if leader >= 0:
            pair = torch.from_numpy(x[[n]]), torch.from_numpy(x[[leader]])
            assert float(repeats.residual(*pair)) < 2 * 0.25


def test_at_a_limit_of_zero_only_the_same_pixels_count():
    near = image(0).copy()
    near[0, 0, 0] ^= 1
    assert judged(np.stack([image(0), near, image(0)]), limit=0.0).tolist() == [-1, -1, 0]


def test_a_lone_sample_has_no_pair():
    pairs, distance, _ = repeats.pairs(torch.zeros(1, 4), torch.zeros(1, 66), torch.zeros(1, 64))
    assert pairs.shape == (0, 2)
    assert distance.tolist() == [np.inf]
    assert judged(image(0)[None]).tolist() == [-1]


@pytest.mark.parametrize("count", [2, 3, 30])
def test_every_sample_is_in_some_pair_once(count):
    x = torch.from_numpy(np.stack([image(n) for n in range(count)]))
    pairs, *_ = repeats.pairs(x.float().flatten(1), signature(x), rough(x))
    assert set(pairs.ravel().tolist()) == set(range(count))
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert len(np.unique(pairs, axis=0)) == len(pairs)
