"""Image to image: what the answer depends on, and what each part of the objective does."""

import pytest
import torch

from models.families import Batch, Spec, pix2pix
from models.families.pix2pix import Config


def colours(count=16, size=8):
    """Plain images of two classes, bright red and dark blue, each with a sketch that tells nothing."""
    y_B = torch.arange(count) % 2
    x_BCHW = torch.where(y_B == 0, 0.6, -0.6)[:, None, None, None].repeat(1, 3, size, size)
    x_BCHW[:, 2] *= -0.5
    x_BCHW += 0.02 * torch.randn(x_BCHW.shape, generator=torch.Generator().manual_seed(0))
    return Batch(x_BCHW, y_B, torch.ones(count, 1, size, size))


def make(size=8, channels=3, classes=2, **options):
    torch.manual_seed(0)
    return pix2pix.build(Config(width=16, **options), Spec(channels, size, size, classes, condition=1))


def trained(family, batch, steps=40):
    found = [family.step(batch, 0.1 + i / steps / 2) for i in range(steps)]
    family.finish([batch])
    return found


def draw(family, batch, seeds):
    return family.sample(batch.y_B, seeds, [batch])[0].float() / 127.5 - 1


def test_the_colour_is_drawn_from_the_train_images_of_the_class():
    batch = colours()
    family = make()
    trained(family, batch)
    drawn = draw(family, batch, list(range(16)))
    by_class = [drawn[batch.y_B == label].mean((0, 2, 3)) for label in (0, 1)]
    assert torch.allclose(by_class[0], torch.tensor([0.6, 0.6, -0.3]), atol=0.25)
    assert torch.allclose(by_class[1], torch.tensor([-0.6, -0.6, 0.3]), atol=0.25)


def test_a_finished_family_knows_each_class_s_colours():
    batch = colours()
    family = make()
    family.finish([batch])
    mean = batch.x_BCHW.mean((2, 3))
    assert torch.allclose(family.hint_KC[1], mean[1::2].mean(0), atol=1e-6)
    covariance = family.spread_KCC[0] @ family.spread_KCC[0].T
    own = torch.cov(mean[::2].T, correction=0) + pix2pix.SPREAD * torch.eye(3)
    assert torch.allclose(covariance, own, atol=1e-6)


@pytest.mark.parametrize(("options", "varies"), [
    ({"hint": False, "dropout": 0.0}, False),
    ({"hint": True, "dropout": 0.0}, True),
    ({"hint": False, "dropout": 0.5}, True),
])  # fmt: skip
def test_a_condition_has_many_answers_by_hint_or_by_noise(options, varies):
    batch = colours()
    family = make(**options)
    trained(family, batch, 3)
    one, other = draw(family, batch, list(range(16))), draw(family, batch, list(range(16, 32)))
    assert torch.equal(one, other) is not varies


def test_an_l1_only_network_has_no_discriminator_to_ask():
    batch = colours()
    family = make(adversarial=0.0, feature_matching=0.0)
    before = {k: v.clone() for k, v in family.discriminator.state_dict().items()}
    found = trained(family, batch, 30)
    assert all(torch.equal(before[k], v) for k, v in family.discriminator.state_dict().items())
    assert {m["gap"] for m in found} == {0.0}
    assert found[-1]["l1"] < found[0]["l1"] / 2
    assert family.sample(batch.y_B, list(range(len(batch.x_BCHW))), [batch])[1] is None
    assert found[-1]["loss"] == pytest.approx(100 * found[-1]["l1"], rel=1e-5)


def test_each_weight_counts_in_the_generator_s_loss():
    batch = colours()
    alone = make(l1=1.0, adversarial=0.0, feature_matching=0.0, dropout=0.0).step(batch, 0.5)
    judged = make(l1=1.0, adversarial=1.0, feature_matching=0.0, dropout=0.0).step(batch, 0.5)
    matched = make(l1=1.0, adversarial=1.0, feature_matching=5.0, dropout=0.0).step(batch, 0.5)
    assert alone["l1"] == judged["l1"] == matched["l1"]
    assert alone["loss"] < judged["loss"] < matched["loss"]


def test_the_discriminator_tells_true_pairs_from_answers():
    batch = colours()
    family = make(l1=0.0, feature_matching=0.0, lr=2e-3)
    first = family.step(batch, 0.05)
    for i in range(20):
        last = family.step(batch, 0.1 + i / 100)
    assert last["discriminator_loss"] < first["discriminator_loss"]


def test_images_without_a_condition_are_refused():
    with pytest.raises(ValueError, match=r"set preprocess\.condition"):
        pix2pix.build(Config(), Spec(3, 32, 32, 10))
