import math
from itertools import pairwise

import pytest
import torch

from models.families import Batch, Spec, diffusion
from models.families.diffusion import Config, build, scalings, sigmas, walk


def make(seed=0, size=8, classes=10, **config):
    torch.manual_seed(seed)
    return build(Config(**config), Spec(1, size, size, classes))


def unzeroed(family):
    """Give the layers that start at zero something to say."""
    torch.manual_seed(1)
    for p in family.network.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.2)
    return family


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_preconditioning_keeps_the_network_at_unit_variance(sigma_data):
    sigma = torch.logspace(-3, 2, 40, dtype=torch.float64)
    c_skip, c_out, c_in, c_noise = scalings(sigma, sigma_data)
    # EDM appendix B.6: the variance of the input, and of the target (y - c_skip (y + n)) / c_out, is 1.
    torch.testing.assert_close(c_in**2 * (sigma_data**2 + sigma**2), torch.ones(40).double())
    target = ((1 - c_skip) ** 2 * sigma_data**2 + c_skip**2 * sigma**2) / c_out**2
    torch.testing.assert_close(target, torch.ones(40).double())
    torch.testing.assert_close(c_noise, sigma.log() / 4)
    # Of all c_skip, this one makes c_out least: the network's errors count as little as they can.
    for other in (c_skip + 0.01, c_skip - 0.01):
        assert (((1 - other) ** 2 * sigma_data**2 + other**2 * sigma**2) > c_out**2).all()


def test_loss_is_the_paper_transcribed():
    family = unzeroed(make(label_dropout=0.3, p_mean=-0.4))
    x, y = torch.rand(64, 1, 8, 8) * 2 - 1, torch.arange(64) % 10
    torch.manual_seed(7)
    found = family.loss(x, y, family.network)
    torch.manual_seed(7)
    sigma = torch.exp(torch.randn(64) * 1.2 - 0.4)
    hidden = torch.rand(64) < 0.3
    noise = torch.randn_like(x)
    expected = []
    for i in range(64):
        s = float(sigma[i])
        label = torch.tensor([10 if hidden[i] else int(y[i])])
        noisy = x[i : i + 1] + s * noise[i : i + 1]
        raw = family.network(noisy / math.sqrt(s**2 + 0.25), torch.tensor([math.log(s) / 4]), label)
        D = 0.25 / (s**2 + 0.25) * noisy + s * 0.5 / math.sqrt(0.25 + s**2) * raw
        expected.append((s**2 + 0.25) / (s * 0.5) ** 2 * (D - x[i]).square().mean())
    assert 0 < hidden.sum() < 64
    torch.testing.assert_close(found, torch.stack(expected).mean(), rtol=1e-4, atol=1e-5)


def test_sigmas_fall_from_the_largest_to_the_smallest_and_then_zero():
    levels = sigmas(9)
    assert len(levels) == 10
    assert levels[0] == pytest.approx(diffusion.SIGMA_MAX)
    assert levels[-2] == pytest.approx(diffusion.SIGMA_MIN)
    assert levels[-1] == 0
    roots = [s ** (1 / diffusion.RHO) for s in levels[:-1]]
    assert [a - b for a, b in pairwise(roots)] == pytest.approx([roots[0] - roots[1]] * 8)
    with pytest.raises(ValueError, match="not 1"):
        sigmas(1)


def gaussian(x, sigma):
    """The denoiser of data that is normal with mean 0.3 and deviation 0.5, in closed form."""
    return (0.25 * x + sigma**2 * 0.3) / (0.25 + sigma**2)


def exact(x, start, end):
    """Where the ODE takes `x` under `gaussian`: its distance to the mean shrinks with the deviation."""
    return 0.3 + (x - 0.3) * math.sqrt((0.25 + end**2) / (0.25 + start**2))


def heun(denoise, x, levels):
    """EDM algorithm 1 without its churn, transcribed."""
    for now, then in pairwise(levels):
        d = (x - denoise(x, now)) / now
        ahead = x + (then - now) * d
        x = ahead if then == 0 else x + (then - now) * (d + (ahead - denoise(ahead, then)) / then) / 2
    return x


@pytest.mark.parametrize("sampler", [walk, diffusion.heun])
def test_samplers_are_of_second_order(sampler):
    x = torch.linspace(-30, 30, 11, dtype=torch.float64)

    def error(steps):
        levels = [10 * (0.05 / 10) ** (i / steps) for i in range(steps + 1)]
        return float((sampler(gaussian, x, levels) - exact(x, 10, 0.05)).abs().max())

    orders = [math.log2(error(n) / error(2 * n)) for n in (16, 32, 64)]
    assert orders[-1] == pytest.approx(2, abs=0.15)
    assert min(orders) > 1.5


def test_heuns_sampler_is_the_papers():
    x = diffusion.SIGMA_MAX * torch.linspace(-2, 2, 11, dtype=torch.float64)
    assert torch.allclose(diffusion.heun(gaussian, x, sigmas(9)), heun(gaussian, x, sigmas(9)), rtol=1e-12)


def test_heuns_sampler_is_asked_for_by_name_and_costs_what_steps_say():
    family = unzeroed(make())
    y_B, seeds = torch.tensor([1, 2]), [4, 5]
    calls, x_BCHW = calls_of(family, y_B, seeds, steps=7, guidance=1.0, sampler="heun")
    assert calls == 7
    assert not torch.equal(x_BCHW, calls_of(family, y_B, seeds, steps=7, guidance=1.0)[1])
    assert calls_of(family, y_B, seeds, guidance=1.0, sampler="heun")[0] == diffusion.STEPS + 1
    with pytest.raises(ValueError, match="odd number of steps, not 8"):
        family.sample(y_B, seeds, steps=8, sampler="heun")


def test_sampler_agrees_with_heuns_at_a_fraction_of_the_evaluations():
    x = diffusion.SIGMA_MAX * torch.linspace(-2, 2, 11, dtype=torch.float64)
    calls = []

    def counted(x, sigma):
        calls.append(sigma)
        return gaussian(x, sigma)

    truth = heun(gaussian, x, sigmas(256))
    few = walk(counted, x, sigmas(12))
    assert calls == pytest.approx(sigmas(12)[:-1])
    thirteen_evaluations = heun(gaussian, x, sigmas(7))
    assert (few - truth).abs().max() < (thirteen_evaluations - truth).abs().max() / 2
    assert (walk(gaussian, x, sigmas(64)) - truth).abs().max() < 0.02


def calls_of(family, y_B, seeds, **knobs):
    calls = []
    handle = family.network.register_forward_hook(lambda *_: calls.append(1))
    x_BCHW, _ = family.sample(y_B, seeds, **knobs)
    handle.remove()
    return len(calls), x_BCHW


def test_guidance_of_one_costs_nothing_and_changes_nothing():
    family = unzeroed(make())
    y_B, seeds = torch.tensor([1, 2, 3]), [4, 5, 6]
    once, one = calls_of(family, y_B, seeds, steps=5, guidance=1.0)
    twice, nearly = calls_of(family, y_B, seeds, steps=5, guidance=1 + 1e-12)
    _, guided = calls_of(family, y_B, seeds, steps=5, guidance=2.0)
    assert (once, twice) == (5, 10)
    assert (one.int() - nearly.int()).abs().max() <= 1
    assert not torch.equal(one, guided)
    calls, unlabelled = calls_of(family, None, seeds, steps=5)
    assert calls == 5
    assert torch.equal(calls_of(family, y_B, seeds, steps=5, guidance=0.0)[1], unlabelled)
    unlearned = unzeroed(make(label_dropout=0.0))
    assert calls_of(unlearned, y_B, seeds)[0] == diffusion.STEPS
    assert calls_of(family, y_B, seeds)[0] == 2 * diffusion.STEPS


def test_guidance_that_was_never_learned_is_refused():
    with pytest.raises(ValueError, match="label_dropout"):
        make(label_dropout=0.0).sample(torch.tensor([1]), [1], guidance=2.0)
    with pytest.raises(ValueError, match=r"guidance 2\.0"):
        make(classes=0).sample(None, [1], guidance=2.0)


def test_labels_and_noise_levels_reach_the_network():
    family = unzeroed(make())
    x, noise = torch.randn(1, 1, 8, 8), torch.tensor([0.1])
    outs = [family.network(x, n, torch.tensor([y])) for n in (noise, noise - 1) for y in (0, 1)]
    assert all(not torch.allclose(a, b, atol=1e-4) for i, a in enumerate(outs) for b in outs[:i])


def test_learning_rate_warms_up_and_falls_to_zero():
    family = make()
    batch = Batch(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]))
    rates = []
    for progress in (0.0, 0.015, 0.03, 0.5, 1.0):
        family.step(batch, progress)
        rates.append(family.optimisers["network"].param_groups[0]["lr"] / family.config.lr)
    assert rates == pytest.approx([0, 0.5, 1, 0.5, 0], abs=0.01)


def test_it_learns_sixteen_images_by_heart():
    torch.manual_seed(0)
    x_BCHW = (
        torch.where(torch.rand(16, 1, 4, 4) < 0.5, -1.0, 1.0).repeat_interleave(2, 2).repeat_interleave(2, 3)
    )
    y_B = torch.arange(16)
    family = make(classes=16, label_dropout=0.0, width=32, lr=5e-3)
    for i in range(150):
        family.step(Batch(x_BCHW.repeat(4, 1, 1, 1), y_B.repeat(4)), i / 150)
    found, _ = family.sample(y_B, list(range(16)))
    agree = (found > 127) == (x_BCHW > 0)
    assert agree.float().mean() > 0.7  # by chance: a half


@pytest.mark.parametrize(
    "wrong", [Spec(1, 30, 28, 2), Spec(1, 28, 4, 2), Spec(1, 260, 28, 2), Spec(2, 28, 28, 2)]
)
def test_shapes_it_cannot_make_are_refused(wrong):
    with pytest.raises(ValueError, match="diffusion makes images"):
        build(Config(), wrong)
