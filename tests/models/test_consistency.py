import math

import pytest
import torch

from models.families import Batch, Spec, consistency
from models.families.consistency import Config, build, leap, walk


def make(classes=10, **config):
    torch.manual_seed(0)
    return build(Config(width=32, **config), Spec(1, 8, 8, classes))


def unzeroed(family):
    """Give the layers that start at zero something to say."""
    torch.manual_seed(1)
    for p in family.network.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.2)
    return family


def test_the_loss_is_the_two_lessons_transcribed():
    family = unzeroed(make(flow=0.25, stride=0.04))
    x, y = torch.rand(16, 1, 8, 8) * 2 - 1, torch.arange(16) % 10
    torch.manual_seed(7)
    found, flow, jump = family.loss(Batch(x, y), 0.5, family.network)
    torch.manual_seed(7)
    e, t = torch.randn_like(x), torch.randn(16).sigmoid()
    jumps = torch.tensor([n % 4 > 0 for n in range(16)])  # three of four, spread over the batch
    t = torch.where(jumps, torch.rand(16), t)
    r, errors = 0.2, []  # the root of 0.04: half of the way
    for i in range(16):
        v, s = e[i] - x[i], 0.0 if jumps[i] else float(t[i])
        noisy = (1 - t[i]) * x[i] + t[i] * e[i]

        def N(x, t, s, y=y[i : i + 1]):
            return family.network(x[None], torch.tensor([float(t)]), torch.tensor([float(s)]), y)[0]

        f = noisy + (s - t[i]) * N(noisy, t[i], s)
        if jumps[i]:
            middle = t[i] + (s - t[i]) * r
            ahead = noisy + (middle - t[i]) * v
            aim = ahead + (s - middle) * N(ahead, middle, s)
            error = ((f - aim) / (s - t[i])).square().mean()
        else:
            error = (N(noisy, t[i], t[i]) - v).square().mean()
        errors.append(error)
    errors = torch.stack(errors).detach()
    torch.testing.assert_close(flow, errors[~jumps].mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(jump, errors[jumps].mean(), rtol=1e-4, atol=1e-5)
    expected = (errors * (errors + 1e-3) ** -0.75).mean()
    torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("progress", [0.0, 0.6, 1.0])
def test_the_solution_of_a_known_flow_has_no_error(progress):
    """All images are one: then every way to it is straight, and its velocity is known."""
    family, only = make(), torch.rand(1, 1, 8, 8) * 2 - 1

    def solved(x, t, s, y):
        return (x - only) / t.clamp(min=1e-9)[:, None, None, None]

    loss, flow, jump = family.loss(Batch(only.expand(32, -1, -1, -1), None), progress, solved)
    assert max(float(loss), float(flow), float(jump)) < 1e-6


def test_the_way_that_is_taken_by_hand_grows_shorter():
    family, asked = make(stride=0.05), []

    def heard(x, t, s, y):
        asked.append((t, s))
        return torch.zeros_like(x)

    for progress in (0.0, 0.5, 1.0):
        family.loss(Batch(torch.zeros(8, 1, 8, 8), None), progress, heard)
    shares = [
        float((1 - first / then[1::2]).mean())
        for (first, _), (then, _) in zip(asked[::2], asked[1::2], strict=True)
    ]
    assert shares == pytest.approx([1.0, math.sqrt(0.05), 0.05], rel=1e-4)
    assert all((s == 0).all() for _, s in asked[::2])
    assert all((s[1::2] == 0).all() and (s[::2] == t[::2]).all() for t, s in asked[1::2])


def test_jumps_are_of_the_solution_and_each_but_the_first_has_new_noise():
    only, noise = torch.full((3,), 0.3), torch.randn(4, 3)
    asked = []

    def say(x, t, s):
        asked.append((x, t, s))
        return (x - only) / t

    more = iter(noise[1:])
    found = leap(say, noise[0], [1.0, 0.5], lambda: next(more))
    torch.testing.assert_close(found, only)
    assert [(t, s) for _, t, s in asked] == [(1.0, 0.0), (0.5, 0.0)]
    torch.testing.assert_close(asked[1][0], (only + noise[1]) / 2)


def test_walking_is_of_second_order():
    """The flow of normal data of deviation 0.5 round 0.3, whose velocity and way are known."""

    def velocity(x, t, s):
        variance = ((1 - t) / 2) ** 2 + t**2
        return ((t - (1 - t) / 4) / variance) * (x - (1 - t) * 0.3) - 0.3

    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    errors = []
    for count in (16, 32, 64):
        found = walk(velocity, x, [1 - n / count for n in range(count)])
        errors.append(float((found - (0.3 + x / 2)).abs().max()))
    assert math.log2(errors[0] / errors[1]) > 1.5
    assert math.log2(errors[1] / errors[2]) > 1.7


@pytest.mark.parametrize("steps", [1, 2, 4, 6])
def test_steps_are_what_is_paid(steps):
    family, calls = unzeroed(make()), []
    handle = family.network.register_forward_hook(lambda *_: calls.append(1))
    family.sample(torch.tensor([1, 2]), [3, 4], steps=steps)
    assert len(calls) == steps
    family.sample(torch.tensor([1, 2]), [3, 4])
    handle.remove()
    assert len(calls) == steps + consistency.STEPS


def test_a_batch_of_one_is_taught_too():
    metrics = make().step(Batch(torch.zeros(1, 1, 8, 8), None), 0.5)
    assert all(math.isfinite(value) for value in metrics.values())
