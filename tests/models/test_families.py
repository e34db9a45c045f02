"""What every family must do, found by name: a new family is tested here with no test edited."""

import math
from dataclasses import replace

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
    return module.build(module.Config(), Spec(channels, size, size, classes, condition=2, mapped=True))


def batch_for(family, count=4):
    spec = family.spec
    x_BCHW = torch.rand(count, spec.channels, spec.height, spec.width) * 2 - 1
    return Batch(x_BCHW, torch.arange(count) % spec.classes if spec.classes else None, sketch(x_BCHW))


def sketch(x_BCHW):
    """A condition of images: a map of where they are bright, as a channel for each of its two ids."""
    bright_B1HW = (x_BCHW.mean(1, keepdim=True) > 0).float()
    return torch.cat([1 - bright_B1HW, bright_B1HW], dim=1)


def trained(family, steps=3):
    batch = batch_for(family, 8)
    for i in range(steps if family.TRAINS else 0):
        family.step(batch, 0.2 + i / steps / 2)
    family.finish([batch])
    return family


def draw(family, seeds, labels=None, known=None):
    """Ask a family with labels, or with sources that the seeds decide: of `known` images, or smooth ones."""
    spec = family.spec
    y_B = torch.tensor(labels or [s % spec.classes for s in seeds]) if spec.classes else None
    if family.condition == "label":
        return family.sample(y_B, seeds)
    sources = []
    for parent in range(family.PARENTS):
        rolled = torch.Generator().manual_seed(parent)
        smooth = torch.rand(64, spec.channels, 2, 2, generator=rolled) * 2 - 1
        smooth = torch.nn.functional.interpolate(smooth, (spec.height, spec.width), mode="bilinear")
        given = smooth if known is None else known
        x_BCHW = given[[(seed + parent) % len(given) for seed in seeds]]
        sources.append(Batch(x_BCHW, y_B, sketch(x_BCHW)))
    if hasattr(family, "ask"):
        sources[0] = replace(sources[0], c_BCHW=family.ask(sources, seeds) / 127.5 - 1)
    return family.sample(y_B, seeds, sources)


def test_a_family_declares_what_the_loop_asks_for(name):
    family = make(name)
    assert family.condition in ("label", "image")
    assert isinstance(family, families.class_of(name))
    if family.condition == "image":
        assert family.PARENTS >= 1
        assert isinstance(family.PAIRED, bool)
    assert not family.SAMPLING - {"steps", "guidance", "sampler"}
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
        for alarm in family.ALARMS.values():
            verb, key = alarm.turn.split()
            assert verb in ("lower", "raise")
            assert key in type(family.config).model_fields
            assert alarm.low < alarm.high
            assert alarm.meaning
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


def test_a_class_with_few_images_or_none_is_drawn_all_the_same(name):
    family = make(name)
    batch = batch_for(family, 16)
    skewed = Batch(batch.x_BCHW, torch.tensor([0] * 14 + [1, 2]), batch.c_BCHW)
    for i in range(3 if family.TRAINS else 0):
        family.step(skewed, 0.2 + i / 6)
    family.finish([skewed])
    x_BCHW, _ = draw(family, [1, 2, 3, 4], labels=[0, 1, 2, 9])
    assert x_BCHW.shape == (4, 1, 8, 8)


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
    if family.TRAINS:  # without training it is the same already
        assert not torch.equal(before, draw(other, [5, 6, 7])[0])


def test_the_same_seed_trains_the_same_weights(name):
    states = [trained(make(name)).state_dict() for _ in range(2)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


LEARNERS = [n for n in families.names() if make(n).TRAINS]


@pytest.mark.parametrize("name", LEARNERS)
def test_scale_lr_slows_what_follows_and_survives_a_resume(name):
    family = make(name)
    family.step(batch_for(family), 0.5)  # a first step may set what no learning rate scales
    family.scale_lr(0.0)
    resumed = make(name)
    resumed.load_state_dict(family.state_dict())
    before = {k: v.clone() for k, v in resumed.network.named_parameters()}
    resumed.step(batch_for(resumed), 0.5)
    assert all(torch.equal(before[k], v) for k, v in resumed.network.named_parameters())


def checkers():
    """16 images of 8x8 whose quadrants are dark or bright, in every way that four can be, and some noise."""
    bits = torch.arange(16)[:, None] // torch.tensor([1, 2, 4, 8]) % 2
    quadrants = (bits * 1.6 - 0.8).view(16, 1, 2, 2)
    x_BCHW = quadrants.repeat_interleave(4, 2).repeat_interleave(4, 3)
    noise = torch.rand(x_BCHW.shape, generator=torch.Generator().manual_seed(0)) * 0.2 - 0.1
    return ((x_BCHW + noise) * 127.5 + 127.5).round() / 127.5 - 1


def apart(family, x_BCHW):
    """The mean distance of drawn images to the nearest of the given ones."""
    drawn, _ = draw(family, list(range(40)), known=x_BCHW)
    flat = drawn.flatten(1) / 127.5 - 1
    return float(torch.cdist(flat, x_BCHW.flatten(1)).amin(1).mean())


@pytest.mark.parametrize("name", LEARNERS)
def test_it_learns_sixteen_images_by_heart(name):
    """Asked now and then, until its samples are near them: families need from 100 to 2,000 steps."""
    module = families.load(name)
    narrow = {"width": 32, "hidden": (64, 64) if has_layers(module) else 32}
    torch.manual_seed(0)
    config = module.Config(**{k: v for k, v in narrow.items() if k in module.Config.model_fields})
    family = module.build(config, Spec(1, 8, 8, 4, condition=2, mapped=True))
    batch = Batch(checkers(), torch.arange(16) % 4, sketch(checkers()))
    family.finish([batch])
    before, after, metrics, steps = apart(family, batch.x_BCHW), math.inf, [], 3_000
    for i in range(steps):
        metrics.append(family.step(batch, i / steps))
        if i % 100 == 99:
            family.finish([batch])
            after = apart(family, batch.x_BCHW)
            if after < before / 2:
                break
    assert after < before / 2
    for key, alarm in family.ALARMS.items():
        assert alarm.low <= sum(m[key] for m in metrics[-20:]) / 20 <= alarm.high, key


def has_layers(module):
    """Whether `hidden` lists several layers."""
    field = module.Config.model_fields.get("hidden")
    return field is not None and isinstance(field.default, tuple)


@pytest.mark.parametrize("name", LEARNERS)
def test_another_batch_size_samples_nearly_the_same(name):
    """Kernels round otherwise at other sizes: a grey level at most, and seldom."""
    family = trained(make(name), 12)
    seeds = list(range(64))
    whole, _ = draw(family, seeds)
    for cuts in ([7] * 8, [32, 31, 1]):
        parts = torch.cat(
            [draw(family, part.tolist())[0] for part in torch.tensor(seeds[: sum(cuts)]).split(cuts)]
        )
        differs = (parts.int() - whole[: len(parts)].int()).abs()
        assert differs.max() <= 1
        assert (differs > 0).float().mean() <= 1e-3


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
