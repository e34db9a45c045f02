"""The GAN against its equations, transcribed."""

import math

import pytest
import torch

from models.families import Batch, Spec, gan
from models.families.gan import Config, augment, build, discriminator_loss, generator_loss

OBJECTIVES = ["relativistic", "non_saturating", "minimax"]
REAL = torch.tensor([2.0, -0.3, 0.7, 4.0, -1.5], dtype=torch.float64)
FAKE = torch.tensor([-1.0, 0.4, 0.9, -3.0, 1.1], dtype=torch.float64)


def make(seed=0, size=8, classes=10, channels=1, **config):
    torch.manual_seed(seed)
    return build(Config(**{"width": 16, **config}), Spec(channels, size, size, classes))


def unzeroed(family):
    """Give the layers that start at zero something to say."""
    torch.manual_seed(1)
    for p in family.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.2)
    return family


def s(t):
    return 1 / (1 + torch.exp(-t))


def transcribed(objective, real, fake):
    """What discriminator and generator minimise, as the papers write it."""
    if objective == "relativistic":
        return torch.log(1 + torch.exp(-(real - fake))).mean(), torch.log(
            1 + torch.exp(-(fake - real))
        ).mean()
    discriminator = -torch.log(s(real)).mean() - torch.log(1 - s(fake)).mean()
    if objective == "minimax":
        return discriminator, torch.log(1 - s(fake)).mean()
    return discriminator, -torch.log(s(fake)).mean()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_losses_are_the_papers_transcribed(objective):
    discriminator, generator = transcribed(objective, REAL, FAKE)
    torch.testing.assert_close(discriminator_loss(objective, REAL, FAKE), discriminator)
    torch.testing.assert_close(generator_loss(objective, REAL, FAKE), generator)


def test_the_relativistic_game_is_symmetric_and_blind_to_a_common_shift():
    game = discriminator_loss("relativistic", REAL, FAKE)
    torch.testing.assert_close(generator_loss("relativistic", FAKE, REAL), game)
    torch.testing.assert_close(discriminator_loss("relativistic", REAL + 7, FAKE + 7), game)
    # ln(1 + e^t) - ln(1 + e^-t) = t: what one gains over the other is the mean gap.
    gap = generator_loss("relativistic", REAL, FAKE) - game
    torch.testing.assert_close(gap, (REAL - FAKE).mean())
    assert discriminator_loss("relativistic", REAL, REAL).item() == pytest.approx(math.log(2))


def test_only_minimax_starves_the_generator_of_a_sure_discriminator():
    def slope(objective):
        fake = torch.tensor([-12.0], requires_grad=True)
        (grad,) = torch.autograd.grad(generator_loss(objective, torch.tensor([12.0]), fake), fake)
        return float(grad)

    assert -1e-4 < slope("minimax") < 0
    assert slope("non_saturating") < -0.9
    assert slope("relativistic") < -0.9


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_network_goes_down_its_own_loss(objective):
    """Where one tells real from fake by a single number, both gradients point the right way."""
    real, fake = (t.clone().requires_grad_() for t in (REAL, FAKE))
    on_real, on_fake = torch.autograd.grad(discriminator_loss(objective, real, fake), (real, fake))
    assert (on_real < 0).all()
    assert (on_fake > 0).all()
    (on_fake,) = torch.autograd.grad(generator_loss(objective, real, fake), fake)
    assert (on_fake < 0).all()


def test_graded_output_is_half_the_squared_gradient_of_each_logit():
    critic = unzeroed(make()).discriminator.double()
    torch.manual_seed(2)
    x, y = torch.rand(3, 1, 8, 8, dtype=torch.float64) * 2 - 1, torch.tensor([1, 4, 1])
    logits, slope = critic(x.clone(), y, True)
    plain, nothing = critic(x.clone(), y)
    torch.testing.assert_close(logits, plain)
    assert not nothing.any()
    expected, tiny = torch.zeros(3), 1e-3
    with torch.no_grad():
        for pixel in range(64):
            nudge = torch.zeros(64, dtype=torch.float64)
            nudge[pixel] = tiny
            ahead, behind = (critic(x + sign * nudge.view(1, 1, 8, 8), y)[0] for sign in (1, -1))
            expected += ((ahead - behind) / (2 * tiny)).square() / 2
    assert (expected > 1e-4).all()
    torch.testing.assert_close(slope, expected, rtol=0.02, atol=1e-6)


def test_the_penalty_that_is_minimised_is_r1_and_r2_halved_by_gamma():
    """Huang et al. 2025, eq. 3: gamma / 2 times E ||grad||^2 on real images, and on generated ones."""
    family = unzeroed(make(gamma=3.0, augment=False))
    torch.manual_seed(3)
    batch = Batch(torch.rand(6, 1, 8, 8) * 2 - 1, torch.arange(6))
    torch.manual_seed(4)
    fake = family.network(torch.randn(6, family.config.latent), batch.y_B).detach()
    terms = []
    for x in (batch.x_BCHW.clone(), fake):
        x.requires_grad_()
        (grad,) = torch.autograd.grad(family.discriminator(x, batch.y_B)[0].sum(), x)
        terms.append(grad.square().sum((1, 2, 3)).mean() / 2)
    paid = []
    family._backward = lambda loss: (paid.append(float(loss.detach())), loss.backward())
    torch.manual_seed(4)
    metrics = family.step(batch, 0.5)
    assert metrics["penalty"] == pytest.approx(float(sum(terms)), rel=1e-4)
    assert paid[0] == pytest.approx(metrics["discriminator_loss"] + 3.0 * metrics["penalty"], rel=1e-5)
    assert paid[1] == pytest.approx(metrics["loss"], rel=1e-5)


def test_a_step_moves_both_networks_and_leaves_the_critic_trainable():
    family = make()
    before = [p.clone() for p in family.parameters()]
    for _ in range(2):  # blocks start as their skips, and move from the second step on
        family.step(Batch(torch.rand(4, 1, 8, 8), torch.arange(4)), 0.5)
    moved = [not torch.equal(a, b) for a, b in zip(before, family.parameters(), strict=True)]
    names = [n for n, _ in family.named_parameters()]
    assert all(moved), [n for n, m in zip(names, moved, strict=True) if not m]
    assert all(p.requires_grad for p in family.discriminator.parameters())


@pytest.mark.parametrize("channels", [1, 3])
def test_augment_is_repeatable_and_keeps_the_shape(channels):
    torch.manual_seed(5)
    x = torch.rand(16, channels, 12, 20) * 2 - 1
    torch.manual_seed(6)
    first = augment(x)
    torch.manual_seed(6)
    assert torch.equal(augment(x), first)
    assert not torch.equal(augment(x), first)
    assert first.shape == x.shape


def test_augment_of_grey_images_shows_only_what_was_there_or_a_cover():
    """Grey images keep their light: each shown value is one of the image's, or 0 under the cover."""
    torch.manual_seed(5)
    x = torch.rand(16, 1, 16, 16) + 0.5
    shown = augment(x)
    for before, after in zip(x, shown, strict=True):
        assert set(after.flatten().tolist()) <= set(before.flatten().tolist()) | {0.0}
    covered = (shown == 0).float().mean((1, 2, 3))
    assert (covered <= 0.25 + 1e-6).all()
    assert covered.mean() > 0.05
    # No shift goes further than an eighth: the pixels at the centre stay within 2 of it.
    spike = torch.zeros(64, 1, 16, 16)
    spike[:, :, 8, 8] = 1
    at = augment(spike).nonzero()[:, 2:]
    assert len(at)
    assert (at - 8).abs().max() == 2


def test_augment_lights_grey_as_grey_and_leaves_the_light_of_many():
    torch.manual_seed(5)
    shown = augment(torch.full((4_000, 3, 8, 8), 0.25))
    torch.testing.assert_close(shown[:, 0], shown[:, 2])
    at = shown[:, 0].flatten(1).abs().argmax(1)
    light = shown[:, 0].flatten(1)[torch.arange(4_000), at]
    assert light.min() >= -0.25 - 1e-5
    assert light.max() <= 0.75 + 1e-5
    assert float(light.mean()) == pytest.approx(0.25, abs=0.02)
    assert float(light.std()) == pytest.approx(12**-0.5, abs=0.02)


def test_augment_draws_colours_towards_grey_or_away_by_twice_at_most():
    torch.manual_seed(5)
    x = torch.tensor([0.5, 0.0, -0.5])[None, :, None, None].repeat(4_000, 1, 8, 8)
    shown = augment(x)
    apart = (shown[:, 0] - shown[:, 2]).flatten(1).amax(1)  # 1, times saturation and contrast
    assert apart.min() >= 0
    assert apart.max() <= 2 * 1.5 + 1e-5
    assert float(apart.mean()) == pytest.approx(1, abs=0.05)
    torch.testing.assert_close(shown[:, 0] + shown[:, 2], 2 * shown[:, 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_flow_through_augment_to_every_pixel_shown(channels):
    torch.manual_seed(7)
    x = (torch.rand(32, channels, 8, 8) * 2 - 1).double().requires_grad_()
    torch.manual_seed(8)
    weight = torch.randn(32, channels, 8, 8, dtype=torch.float64)
    (grad,) = torch.autograd.grad((augment(x) * weight).sum(), x)
    assert torch.isfinite(grad).all()
    assert (grad.flatten(1).abs().sum(1) > 0).all()
    assert (grad != 0).float().mean() > 0.5


def test_score_is_the_critics_opinion_of_what_was_drawn():
    family = unzeroed(make())
    y_B = torch.tensor([3, 1, 4])
    x_BCHW, score_B = family.sample(y_B, [1, 2, 3])
    with torch.no_grad():
        again_B, _ = family.discriminator(x_BCHW.float() / 127.5 - 1, y_B)
    torch.testing.assert_close(score_B, again_B, rtol=1e-4, atol=1e-5)


def test_labels_reach_both_networks():
    family = unzeroed(make())
    torch.manual_seed(9)
    z, x = torch.randn(1, family.config.latent), torch.rand(1, 1, 8, 8)
    one, other = (torch.tensor([y]) for y in (0, 1))
    assert not torch.allclose(family.network(z, one), family.network(z, other), atol=1e-3)
    assert not torch.allclose(family.discriminator(x, one)[0], family.discriminator(x, other)[0], atol=1e-3)


def test_both_learning_rates_warm_up_and_fall_to_zero():
    family = make()
    batch = Batch(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]))
    for progress, share in ((0.0, 0), (gan.WARM_UP / 2, 0.5), (gan.WARM_UP, 1), (0.5, 0.5), (1.0, 0)):
        family.step(batch, progress)
        for adam in family.optimisers.values():
            assert adam.param_groups[0]["lr"] / family.config.lr == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(
    "wrong", [Spec(1, 30, 28, 2), Spec(1, 28, 4, 2), Spec(1, 260, 28, 2), Spec(2, 28, 28, 2)]
)
def test_shapes_it_cannot_make_are_refused(wrong):
    with pytest.raises(ValueError, match="gan makes images"):
        build(Config(), wrong)
