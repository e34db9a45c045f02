"""What every family must do, found by name: a new family is tested here with no test edited."""

import pytest
import torch

from models import families
from models.families import Batch, Spec

SHAPES = [(8, 1, 10), (28, 1, 10), (32, 3, 0), (64, 3, 10)]


@pytest.fixture(params=families.names())
def name(request):
    return request.param


def make(name, size=8, channels=1, classes=10, seed=0):
    torch.manual_seed(seed)
    module = families.load(name)
    return module.build(module.Config(), Spec(channels, size, size, classes))


def batch_for(family, count=4):
    spec = family.spec
    x_BCHW = torch.rand(count, spec.channels, spec.height, spec.width) * 2 - 1
    return Batch(x_BCHW, torch.arange(count) % spec.classes if spec.classes else None)


def trained(family, steps=3):
    batch = batch_for(family, 8)
    for i in range(steps if family.TRAINS else 0):
        family.step(batch, 0.2 + i / steps / 2)
    family.finish([batch])
    return family


def draw(family, seeds, labels=None):
    spec = family.spec
    y_B = torch.tensor(labels or [s % spec.classes for s in seeds]) if spec.classes else None
    sources = torch.zeros(len(seeds), spec.channels, spec.height, spec.width)
    return family.sample(y_B, seeds, sources if family.condition == "image" else None)


def test_a_family_declares_what_the_loop_asks_for(name):
    family = make(name)
    assert family.condition in ("label", "image")
    assert not family.SAMPLING - {"steps", "guidance"}
    assert set(family.state_dict()) >= {f"network.{k}" for k in family.network.state_dict()}
    for knob in family.SAMPLING:
        assert knob in family.sample.__annotations__


@pytest.mark.parametrize(("size", "channels", "classes"), SHAPES)
def test_every_shape_trains_and_samples(name, size, channels, classes):
    family = make(name, size, channels, classes)
    if family.TRAINS:
        metrics = family.step(batch_for(family), 0.5)
        assert next(iter(metrics)) == "loss"
        assert set(family.ALARMS) <= set(metrics)
        assert all(isinstance(v, float) for v in metrics.values())
        for key, (low, high) in family.ALARMS.items():
            assert low <= metrics[key] <= high
    x_BCHW, score_B = draw(trained(family, 1), [1, 2])
    assert x_BCHW.dtype == torch.uint8
    assert x_BCHW.shape == (2, channels, size, size)
    assert score_B is None or score_B.shape == (2,)


def test_a_sample_is_its_seed_whatever_its_place_in_the_batch(name):
    family = trained(make(name))
    seeds = list(range(10, 42))
    order = torch.randperm(len(seeds)).tolist()
    first, _ = draw(family, seeds)
    second, _ = draw(family, [seeds[i] for i in order])
    assert torch.equal(first[order], second)
    assert len({tuple(x.flatten().tolist()) for x in first}) == len(seeds)


def test_sampling_under_bf16_is_as_blind_to_place(name):
    family = trained(make(name))
    seeds = list(range(32))
    with torch.autocast("cpu", torch.bfloat16):
        first, _ = draw(family, seeds)
        second, _ = draw(family, seeds[::-1])
    assert torch.equal(first.flip(0), second)


def test_saved_and_loaded_it_samples_the_same(name):
    family = trained(make(name))
    other = make(name, seed=1)
    before, _ = draw(other, [5, 6, 7])
    other.load_state_dict({k: v.clone() for k, v in family.state_dict().items()})
    assert torch.equal(draw(other, [5, 6, 7])[0], draw(family, [5, 6, 7])[0])
    assert not torch.equal(before, draw(other, [5, 6, 7])[0])


def test_the_same_seed_trains_the_same_weights(name):
    states = [trained(make(name)).state_dict() for _ in range(2)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


@pytest.mark.parametrize("name", [n for n in families.names() if make(n).TRAINS])
def test_scale_lr_slows_what_follows_and_survives_a_resume(name):
    family = make(name)
    family.scale_lr(0.0)
    resumed = make(name)
    resumed.load_state_dict(family.state_dict())
    before = {k: v.clone() for k, v in resumed.network.named_parameters()}
    resumed.step(batch_for(resumed), 0.5)
    assert all(torch.equal(before[k], v) for k, v in resumed.network.named_parameters())


def test_attached_to_fabric_it_trains_as_it_does_alone(name):
    from lightning_fabric import Fabric

    alone, attached = make(name), make(name)
    keys = list(attached.state_dict())
    attached.attach(Fabric(accelerator="cpu", devices=1))
    assert list(attached.state_dict()) == keys
    for family in (alone, attached):
        torch.manual_seed(1)
        trained(family)
    assert all(torch.equal(alone.state_dict()[k], attached.state_dict()[k]) for k in keys)


@pytest.mark.parametrize("size", [4, 260, 30])
def test_a_shape_is_made_or_refused_by_its_size(name, size):
    refusal = None
    try:
        family = make(name, size)
    except ValueError as error:
        refusal = str(error)
    if refusal is None:
        assert draw(trained(family, 1), [1])[0].shape[-1] == size
    else:
        assert f"{size} x {size}" in refusal


def test_an_unknown_family_is_answered_with_the_known_ones():
    with pytest.raises(KeyError, match="diffusion"):
        families.load("nonesuch")
