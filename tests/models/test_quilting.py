"""Image quilting: what a texture is made of, where it is cut, and that its seams are worth it."""

from itertools import pairwise, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import quilting
from models.quilting import cut, quilt


def waves(count=2, size=32, channels=3):
    """uint8 images of soft waves, each of its own direction and length, with a little noise."""
    generator = torch.Generator().manual_seed(2)
    place = torch.arange(size, dtype=torch.float32)
    found = []
    for n in range(count):
        one = torch.sin(place[:, None] * (0.5 + n % 3 / 10) + place * 0.3)
        other = torch.sin(place * (0.6 - n % 4 / 10) - place[:, None] * 0.2)
        found.append((128 + 45 * (one + other)).expand(channels, -1, -1))
    noise = torch.randint(-3, 4, (count, channels, size, size), generator=generator)
    return (torch.stack(found) + noise).to(torch.uint8)


def jump(x_BCHW):
    """Mean square difference of neighbouring pixels, (B,)."""
    x = x_BCHW.double()
    return sum((a - b).square().mean((1, 2, 3)) for a, b in (
        (x[:, :, 1:], x[:, :, :-1]), (x[..., 1:], x[..., :-1])
    ))  # fmt: skip


def random_placement(x_BCHW, block=8):
    """Blocks of each image from anywhere, side by side: the paper's figure 2 (a)."""
    generator = torch.Generator().manual_seed(0)
    found = torch.empty_like(x_BCHW)
    for image, result in zip(x_BCHW, found, strict=True):
        for top, left in product(range(0, image.shape[1], block), range(0, image.shape[2], block)):
            r, c = torch.randint(image.shape[1] - block + 1, (2,), generator=generator).tolist()
            result[:, top : top + block, left : left + block] = image[:, r : r + block, c : c + block]
    return found


def test_seams_cost_less_than_those_of_random_placement():
    x = waves(6)
    quilted, score = quilt(x, list(range(6)), 32, 32)
    anywhere, cut_only = quilt(x, list(range(6)), 32, 32, tolerance=1e12)
    assert (score > cut_only / 3).all()
    excess = [float((jump(made) - jump(x)).mean()) for made in (quilted, anywhere, random_placement(x))]
    assert excess[0] < min(excess[1:]) / 10


errors = st.integers(1, 4).flatmap(
    lambda wide: st.lists(st.lists(st.integers(0, 9), min_size=wide, max_size=wide), min_size=1, max_size=5)
)


@given(errors)
def test_the_cut_is_the_cheapest_of_all_paths(error):
    e = torch.tensor(error, dtype=torch.float32)
    paths = [
        p for p in product(range(e.shape[1]), repeat=len(e)) if all(abs(a - b) <= 1 for a, b in pairwise(p))
    ]
    path, cost = cut(e[None])
    assert float(cost) == min(sum(error[n][at] for n, at in enumerate(p)) for p in paths)
    assert tuple(path[0].tolist()) in paths
    assert sum(error[n][at] for n, at in enumerate(path[0].tolist())) == float(cost)


def test_a_block_is_one_of_those_within_the_tolerance_of_the_best():
    error = torch.tensor([[[4.0, 10.0, 11.0, 12.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]]], dtype=torch.float64)
    error[0, 0, 0] = 10.0
    chosen = [quilting.choose(error, torch.tensor([[n / 100, n / 100]]), 0.1)[0].tolist() for n in range(100)]
    assert {a for a, _ in chosen} == {0, 1, 2, 4}  # also one that merely goes on as its neighbour does
    assert {b for _, b in chosen} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("tileable", [False, True])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (45, 70), (9, 33)])
def test_a_texture_of_any_size_is_made_of_its_exemplar_alone(height, width, tileable):
    x = torch.stack([torch.full((3, 16, 16), 10), torch.full((3, 16, 16), 250)]).to(torch.uint8)
    x[:, :, ::2] += 3
    made, _ = quilt(x, [1, 2], height, width, block=6, tileable=tileable)
    assert made.shape == (2, 3, height, width)
    assert set(made[0].flatten().tolist()) == {10, 13}
    assert set(made[1].flatten().tolist()) == {250, 253}


def test_every_pixel_stands_where_it_stood_in_some_block():
    """Pixels of one exemplar are all different, so each tells where it was; neighbours mostly agree."""
    x = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    made, _ = quilt(x, [3], 40, 40, block=8)
    right = made[0, 0, :, 1:].int() - made[0, 0, :, :-1].int()
    assert float((right == 1).float().mean()) > 0.7


@pytest.mark.parametrize("lies_down", [False, True])
def test_along_the_cut_one_block_gives_way_to_the_next(lies_down):
    """Of two blocks with an overlap of 4: the first one's pixels, then the second one's, at least cost."""
    x = torch.randperm(256, generator=torch.Generator().manual_seed(1)).to(torch.uint8).view(1, 1, 16, 16)
    shape = (12, 8) if lies_down else (8, 12)
    windows = x[0, 0].unfold(0, 8, 1).unfold(1, 8, 1).flatten(0, 1)
    windows, bends = windows.mT if lies_down else windows, 0
    for made, score in zip(*quilt(x.repeat(6, 1, 1, 1), list(range(6)), *shape, 8, 0.5), strict=True):
        made = made[0].T if lies_down else made[0]
        before = next(w for w in windows if torch.equal(w[:, :4], made[:, :4]))
        after = next(w for w in windows if torch.equal(w[:, 4:], made[:, 8:]))
        path, cost = cut((before[:, 4:].double() - after[:, :4].double()).square())
        for row, at in enumerate(path.tolist()):
            assert torch.equal(made[row, : 4 + at], before[row, : 4 + at])
            assert torch.equal(made[row, 4 + at :], after[row, at:])
        assert float(score) == pytest.approx(-(float(cost / 8) ** 0.5))
        bends += int(path.max() > path.min())
    assert bends


def test_opposite_edges_of_a_tile_match():
    x = waves(6)
    wrap = []
    for tileable in (False, True):
        made, _ = quilt(x, list(range(6)), 44, 44, tileable=tileable)
        beside = torch.cat([made, made], 3)[..., 43:45].double()
        below = torch.cat([made, made], 2)[:, :, 43:45].double()
        wrap.append(torch.stack([beside.diff(dim=3).square().mean(), below.diff(dim=2).square().mean()]))
        inner = jump(made).mean() / 2
    assert (wrap[1] < 1.5 * inner).all()
    assert (wrap[1] < wrap[0] / 1.5).all()


def test_a_texture_does_not_depend_on_its_neighbours_nor_on_how_many_are_made_at_once(monkeypatch):
    x, seeds = waves(5), [5, 6, 7, 8, 2**40]
    made, score = quilt(x, seeds, 40, 24)
    with torch.autocast("cpu", torch.bfloat16):
        alone, own = quilt(x[4:], seeds[4:], 40, 24)
    assert torch.equal(alone[0], made[4])
    assert own[0] == score[4]
    monkeypatch.setattr(quilting, "AT_ONCE", 1)
    assert torch.equal(quilt(x, seeds, 40, 24)[0], made)
    assert not torch.equal(quilt(x, seeds[::-1], 40, 24)[0], made)


@pytest.mark.parametrize("numbers", [12, 1024, 1025, 6144])
def test_blocks_are_told_apart_to_the_last_digit(numbers):
    known = torch.randint(100, 128, (2, 3, numbers), generator=torch.Generator().manual_seed(0))
    there = -known[:, :2] - 1
    there_n, known_n = (x.to(quilting.exact(numbers)) for x in (there, known))
    found = quilting.apart(there_n, known_n, quilting.squares(known_n))
    assert torch.equal(found.long(), (there[:, :, None] - known[:, None]).square().sum(-1))


def test_a_texture_smaller_than_its_blocks_is_refused():
    with pytest.raises(ValueError, match="of 6 x 40 pixels is smaller than its blocks of 8"):
        quilt(waves(), [1, 2], 6, 40)
