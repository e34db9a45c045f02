import pytest
import torch
from torch import nn

from models.ema import EMA


def constant(value: float) -> nn.Linear:
    layer = nn.Linear(2, 2)
    for p in layer.parameters():
        nn.init.constant_(p, value)
    return layer


def test_after_one_halflife_the_past_counts_half():
    module = constant(0.0)
    ema = EMA(module, halflife_images=64, ramp=1.0)
    ema.images = 10**6
    for p in module.parameters():
        nn.init.constant_(p, 1.0)
    for _ in range(8):
        ema.update(module, 8)
    assert ema.average["weight"].mean().item() == pytest.approx(0.5, abs=1e-6)
    ema.update(module, 64)
    assert ema.average["weight"].mean().item() == pytest.approx(0.75, abs=1e-6)


def test_early_the_halflife_is_held_to_a_share_of_the_images_seen():
    module = constant(1.0)
    ema = EMA(constant(0.0), halflife_images=10_000, ramp=0.25)
    past = 1.0
    for step in range(1, 6):
        ema.update(module, 100)
        past *= 0.5 ** (100 / (0.25 * 100 * step))
    assert 1 - ema.average["bias"][0].item() == pytest.approx(past, rel=1e-4)


def test_no_halflife_keeps_the_module_as_it_is():
    ema = EMA(constant(0.0), halflife_images=0)
    ema.update(constant(3.0), 1)
    assert torch.equal(ema.average["weight"], torch.full((2, 2), 3.0))


def test_counters_are_copied_and_the_average_is_given_to_a_module():
    module, target = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    ema = EMA(module, halflife_images=10)
    module(torch.randn(4, 3, 2, 2) + 5)
    ema.update(module, 4)
    ema.copy_to(target)
    assert target.num_batches_tracked == 1
    assert torch.equal(target.running_mean, ema.average["running_mean"])
    assert 0 < target.running_mean.mean() <= module.running_mean.mean()


def test_a_resumed_average_goes_on_bit_for_bit():
    torch.manual_seed(0)
    module = nn.Linear(4, 4)
    ema = EMA(module, halflife_images=50)
    ema.update(constant_like(module), 16)
    resumed = EMA(nn.Linear(4, 4), halflife_images=50)
    resumed.load_state_dict({k: v.clone() for k, v in ema.state_dict().items()})
    for e in (ema, resumed):
        e.update(module, 16)
    assert resumed.images == ema.images == 32
    assert all(torch.equal(ema.average[k], resumed.average[k]) for k in ema.average)


def constant_like(module: nn.Module) -> nn.Module:
    other = nn.Linear(4, 4)
    other.load_state_dict({k: v + 1 for k, v in module.state_dict().items()})
    return other
