"""Splits in memory, batches of their rows, and the sources that samples are made from."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.batches import Pool, Sources, parents
from tasks.device import prepare
from tasks.params import Machine
from tasks.shards import image_column, png
from tests import making

DEVICE = prepare(Machine(device="cpu", threads=1), "fp32")


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=30),
    st.integers(1, 3),
    st.integers(0, 5),
    st.integers(1, 4),
)
def test_each_image_is_a_source_once_before_any_is_again(wanted, each, seed, of_class):
    labels_M = np.arange(3 * of_class) % 3
    wanted_N = np.array(wanted)
    found_NP = parents(labels_M, wanted_N, seed, each)
    assert (labels_M[found_NP] == wanted_N[:, None]).all()
    for label in set(wanted):
        used = np.bincount(found_NP[wanted_N == label].ravel(), minlength=len(labels_M))[labels_M == label]
        assert used.max() - used.min() <= 1


def test_sources_are_the_seed_s():
    labels_M, wanted_N = np.zeros(50, int), np.zeros(20, int)
    one, same, other = (parents(labels_M, wanted_N, seed, 1) for seed in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()
    more = parents(labels_M, np.zeros(30, int), 1, 1)
    assert (more[:20] == one).all()


def test_a_class_without_images_has_no_sources():
    with pytest.raises(KeyError):
        parents(np.zeros(4, int), np.array([1]), 0, 1)


def conditioned(folder, values, **described):
    """Six images, each with a plain condition, of these values in turn."""
    labels = np.arange(6) % 3
    plain = [np.full((1, 8, 8), values[n % len(values)], np.uint8) for n in range(6)]
    column = image_column([png(each) for each in plain], [f"{n}.png" for n in range(6)])
    table = making.samples(making.pictures(labels, 1), labels, "m", condition=column)
    return making.shards(folder, table, making.CLASSES, condition=described)


def test_a_map_is_seen_as_one_channel_an_id(tmp_path):
    pool = Pool.open(conditioned(tmp_path / "maps", [0, 1, 2], name="colours", channels=3, ids=3))
    assert (pool.spec.condition, pool.spec.mapped) == (3, True)
    batch = pool.batch(np.array([4, 2]), DEVICE, torch.channels_last)
    assert batch.c_BCHW.shape == (2, 3, 8, 8)
    assert batch.c_BCHW.dtype == torch.float32
    assert batch.c_BCHW[:, :, 0, 0].tolist() == [[0, 1, 0], [0, 0, 1]]


def test_an_image_is_seen_as_an_image(tmp_path):
    pool = Pool.open(conditioned(tmp_path / "images", [0, 255], name="edges", channels=1, ids=0))
    assert (pool.spec.condition, pool.spec.mapped) == (1, False)
    batch = pool.batch(np.arange(3), DEVICE, torch.channels_last)
    assert batch.c_BCHW.shape == (3, 1, 8, 8)
    assert batch.c_BCHW[:, 0, 0, 0].tolist() == [-1.0, 1.0, -1.0]
    plain = Pool.open(making.real(tmp_path / "other", 2, 1))
    assert (plain.spec.condition, plain.spec.mapped) == (0, False)
    assert plain.batch(np.arange(3), DEVICE, torch.channels_last).c_BCHW is None


def test_sources_fill_the_batch_and_keep_their_names(tmp_path):
    pool = Pool.open(making.real(tmp_path / "train", 2, 1, condition=True))
    sources = Sources(pool, np.array([[0, 3], [1, 4], [2, 5]])).take(slice(1, 3))
    first, second = sources.batches(DEVICE, size=4)
    assert torch.equal(first.x_BCHW, pool.batch(np.array([1, 2, 2, 2]), DEVICE, torch.channels_last).x_BCHW)
    assert second.y_B.tolist() == [1, 2, 2, 2]
    assert sources.ids == [["train00001", "train00004"], ["train00002", "train00005"]]


class Blind:
    """Looks at nothing but how bright its sources are."""

    def ask(self, sources, seeds_B):
        return (
            (sources[0].x_BCHW.mean((1, 2, 3), keepdim=True) * 100 + 128).to(torch.uint8).expand(-1, 1, 8, 8)
        )


def test_a_family_is_asked_with_what_it_makes_of_its_sources_or_what_came_with_them(tmp_path):
    pool = Pool.open(making.real(tmp_path / "train", 2, 1, condition=True))
    sources = Sources(pool, np.array([[0, 3], [1, 4]]))
    (first, second), shown = sources.asked(Blind(), [7, 8, 8], DEVICE)
    assert shown.shape == (2, 1, 8, 8)
    assert first.c_BCHW.shape == (3, 1, 8, 8)
    assert torch.equal(first.c_BCHW[:2], DEVICE.scaled(torch.from_numpy(shown)))
    assert torch.equal(second.c_BCHW, sources.batches(DEVICE, 3)[1].c_BCHW)
    (plain, _), came = sources.asked(object(), [7, 8, 8], DEVICE)
    assert torch.equal(plain.c_BCHW, sources.batches(DEVICE, 3)[0].c_BCHW)
    assert np.array_equal(came, pool.c_NCHW[:2].numpy())
    bare = Pool.open(making.real(tmp_path / "other", 2, 1))
    assert Sources(bare, np.array([[0]])).asked(object(), [7], DEVICE)[1] is None
