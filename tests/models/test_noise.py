import pytest
import torch

from models.noise import SampleNoise

SEEDS = [0, 1, 2**32, 2**32 + 1, 2**63 - 1]


def test_a_sample_draws_the_same_alone_as_in_any_batch():
    together = SampleNoise(SEEDS).normal((3, 5, 4))
    for i, seed in enumerate(SEEDS):
        assert torch.equal(SampleNoise([seed]).normal((3, 5, 4))[0], together[i])
    turned = SampleNoise(SEEDS[::-1]).normal((3, 5, 4))
    assert torch.equal(turned.flip(0), together)


def test_later_draws_go_on_and_do_not_depend_on_the_batch_either():
    noise, alone = SampleNoise(SEEDS), SampleNoise(SEEDS[2:3])
    first, second = noise.normal((2, 2)), noise.normal((7,))
    assert not torch.equal(first.flatten(1), second[:, :4])
    assert torch.equal(alone.normal((2, 2))[0], first[2])
    assert torch.equal(alone.normal((7,))[0], second[2])


def test_all_bits_of_a_seed_count():
    draws = SampleNoise(SEEDS).normal((8,))
    assert len({tuple(d.tolist()) for d in draws}) == len(SEEDS)


def test_draws_are_standard_normal_float32():
    draws = SampleNoise(list(range(64))).normal((1, 32, 32))
    assert draws.dtype == torch.float32
    assert draws.shape == (64, 1, 32, 32)
    assert abs(draws.mean()) < 0.02
    assert abs(draws.std() - 1) < 0.02


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match=str(seed)):
        SampleNoise([1, seed])


def test_uniform_draws_are_float32_from_zero_up_to_one():
    draws = SampleNoise(list(range(64))).uniform((1, 64, 64))
    assert draws.dtype == torch.float32
    assert draws.shape == (64, 1, 64, 64)
    assert 0 <= draws.min() < 1e-4
    assert 1 - 1e-4 < draws.max() < 1
    shares = torch.histc(draws, 16, 0, 1) / draws.numel()
    torch.testing.assert_close(shares, torch.full((16,), 1 / 16), atol=0.002, rtol=0)


def test_uniform_draws_are_their_seeds_and_go_on():
    noise = SampleNoise(SEEDS)
    first, middle, second = noise.uniform((3, 5)), noise.normal((2,)), noise.uniform((15,))
    assert len({tuple(d.flatten().tolist()) for d in first}) == len(SEEDS)
    assert not torch.equal(first.flatten(1), second)
    for i, seed in enumerate(SEEDS):
        alone = SampleNoise([seed])
        assert torch.equal(alone.uniform((3, 5))[0], first[i])
        assert torch.equal(alone.normal((2,))[0], middle[i])
        assert torch.equal(alone.uniform((15,))[0], second[i])
    turned = SampleNoise(SEEDS[::-1]).uniform((3, 5))
    assert torch.equal(turned.flip(0), first)
    # Two draws of a stream are one draw cut in two.
    cut = SampleNoise([7])
    parts = torch.cat([cut.uniform((4,)), cut.uniform((6,))], dim=1)
    assert torch.equal(parts, SampleNoise([7]).uniform((10,)))
