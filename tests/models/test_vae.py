"""The variational autoencoder against its equations."""

import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal, kl_divergence

from models.families import Batch, Spec
from models.families.vae import Config, build, divergence, log_gaussian
from models.logistic import log_logistic
from tests.models.test_mixture import CENTRES, SHARES, SPREADS


def make(seed=0, size=8, classes=10, channels=1, **config):
    torch.manual_seed(seed)
    return build(Config(**{"width": 16, "latent": 4, **config}), Spec(channels, size, size, classes))


def unzeroed(family):
    """Give the layers that start at zero something to say."""
    torch.manual_seed(1)
    for p in family.network.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.2)
    return family


def pictures(count=8, channels=1, classes=10):
    torch.manual_seed(2)
    x_BCHW = torch.randint(0, 256, (count, channels, 8, 8)) / 127.5 - 1
    return Batch(x_BCHW, torch.arange(count) % classes)


def test_divergence_is_that_of_the_two_normals():
    mean, log_var = torch.randn(50, 3, dtype=torch.float64) * 2, torch.randn(50, 3, dtype=torch.float64)
    q = Normal(mean, (log_var / 2).exp())
    torch.testing.assert_close(divergence(mean, log_var), kl_divergence(q, Normal(0.0, 1.0)))


def test_gaussian_likelihood_is_the_normal_density():
    x, mean, log_scale = torch.randn(3, 40, dtype=torch.float64)
    torch.testing.assert_close(log_gaussian(x, mean, log_scale), Normal(mean, log_scale.exp()).log_prob(x))


@pytest.mark.parametrize("likelihood", ["gaussian", "logistic"])
@pytest.mark.parametrize("channels", [1, 3])
def test_log_likelihood_is_summed_over_all_numbers_of_an_image(likelihood, channels):
    family = unzeroed(make(likelihood=likelihood, channels=channels))
    batch = pictures(channels=channels)
    with torch.no_grad():
        mean, scale = family.network.decode(torch.randn(8, 4), batch.y_B)
    assert mean.shape == batch.x_BCHW.shape
    assert scale.shape == (batch.x_BCHW.shape if likelihood == "logistic" else ())
    one = {"gaussian": log_gaussian, "logistic": log_logistic}[likelihood]
    found = family.log_likelihood(batch.x_BCHW, mean, scale)
    scale = scale.expand(mean.shape)
    each = [one(batch.x_BCHW[i], mean[i], scale[i]).double().sum() for i in range(8)]
    torch.testing.assert_close(found.double(), torch.stack(each), rtol=1e-4, atol=1e-3)


def paid(family, batch, progress, seed=3):
    """A step's metrics, and what it went down, in nats an image."""
    seen = []
    family._backward = lambda loss: (seen.append(float(loss.detach())), loss.backward())
    torch.manual_seed(seed)
    metrics = family.step(batch, progress)
    assert metrics["loss"] == pytest.approx(seen[0])
    return metrics, seen[0] * batch.x_BCHW[0].numel()


def test_what_is_minimised_is_minus_the_evidence_lower_bound():
    family, batch = unzeroed(make(beta=1.0)), pictures()
    torch.manual_seed(3)
    with torch.no_grad():
        mean, log_var = family.network.encode(batch.x_BCHW, batch.y_B)
        z = mean + (log_var / 2).exp() * torch.randn_like(mean)
        image, scale = family.network.decode(z, batch.y_B)
        p, q = Normal(image, scale.exp()), Normal(mean, (log_var / 2).exp())
        kl = kl_divergence(q, Normal(0.0, 1.0)).sum(1).mean()
        expected = kl - p.log_prob(batch.x_BCHW).sum((1, 2, 3)).mean()
    metrics, nats = paid(family, batch, 0.5)
    assert nats == pytest.approx(float(expected), rel=1e-4)
    assert metrics["kl"] == pytest.approx(float(kl), rel=1e-4)
    assert float(kl) > 0.1


@pytest.mark.parametrize(
    ("beta", "warm_up", "progress", "weight"),
    [
        (1.0, 0.1, 0.0, 0.0),
        (1.0, 0.1, 0.05, 0.5),
        (4.0, 0.4, 0.1, 1.0),
        (4.0, 0.4, 0.7, 4.0),
        (2.0, 0.0, 0.0, 2.0),
    ],
)
def test_beta_rises_to_its_height(beta, warm_up, progress, weight):
    family = unzeroed(make(beta=beta, kl_warm_up=warm_up))
    metrics, nats = paid(family, pictures(), progress)
    assert nats - metrics["reconstruction"] == pytest.approx(weight * metrics["kl"], abs=1e-3)
    assert metrics["kl"] > 0.1


def test_free_bits_do_not_press_what_is_below_them():
    """Kingma et al. 2016, eq. 16: each latent number pays its mean over the batch, or the free nats."""
    batch = pictures()
    with torch.no_grad():
        said = unzeroed(make()).network.encode(batch.x_BCHW, batch.y_B)
    per_number = divergence(*said).mean(0)
    free = float(per_number.sort().values[1:3].mean())  # two pay more, two less
    metrics, nats = paid(unzeroed(make(beta=1.0, free_bits=free, kl_warm_up=0.0)), batch, 0.5)
    expected = sum(max(float(k), free) for k in per_number)
    assert nats - metrics["reconstruction"] == pytest.approx(expected, rel=1e-3)
    assert expected > float(per_number.sum()) * 1.01

    family = unzeroed(make(free_bits=50.0, kl_warm_up=0.0))
    loss = divergence(*family.network.encode(batch.x_BCHW, batch.y_B)).mean(0).clamp(min=50.0).sum()
    loss.backward()
    assert not family.network.encode_out.weight.grad.any()


def latents(family, y_B, seeds):
    """What the decoder is given for these seeds."""
    seen = []

    def decode(z_BZ, y_B):
        seen.append(z_BZ)
        return torch.zeros(len(z_BZ), 1, 8, 8), torch.zeros(())

    family.network.decode = decode
    family.bound = lambda batch: torch.zeros(len(batch.x_BCHW))
    family.sample(y_B, seeds)
    return seen[0].double()


def test_samples_come_from_their_classs_mixture():
    family = make(latent=2, components=3, classes=2)
    family.share_KM[1] = torch.tensor([*SHARES, 0.0])
    family.centre_KMZ[1, :2] = CENTRES.float()
    family.spread_KMZZ[1, :2] = SPREADS.float()
    family.centre_KMZ[1, 2] = 1e6  # without a share: never drawn
    family.centre_KMZ[0] = 40.0
    z = latents(family, torch.arange(24_000) % 2, list(range(24_000)))
    parts = MultivariateNormal(CENTRES, scale_tril=SPREADS)
    known = MixtureSameFamily(Categorical(SHARES), parts)
    found = z[1::2]
    torch.testing.assert_close(found.mean(0), known.mean, atol=0.15, rtol=0)
    torch.testing.assert_close(found.var(0), known.variance, rtol=0.03, atol=0)
    left = found[:, 0] < 0
    assert float(left.double().mean()) == pytest.approx(0.25, abs=0.015)
    for side, spread in ((left, SPREADS[0]), (~left, SPREADS[1])):
        torch.testing.assert_close(found[side].T.cov(), spread @ spread.T, atol=0.1, rtol=0)
    torch.testing.assert_close(z[::2].mean(0), torch.full((2,), 40.0).double(), atol=0.05, rtol=0)
    torch.testing.assert_close(z[::2].T.cov(), torch.eye(2).double(), atol=0.05, rtol=0)


def test_the_normal_prior_is_drawn_from_if_asked():
    family = make(latent=2, components=1, classes=1, prior="normal")
    family.centre_KMZ[:] = 40.0
    z = latents(family, None, list(range(4_000)))
    torch.testing.assert_close(z.mean(0), torch.zeros(2).double(), atol=0.06, rtol=0)
    torch.testing.assert_close(z.T.cov(), torch.eye(2).double(), atol=0.08, rtol=0)


def test_finish_fits_each_class_to_where_its_images_are_encoded():
    family, batch = unzeroed(make(components=2, classes=3)), pictures(40, classes=2)
    before = [t.clone() for t in (family.share_KM, family.centre_KMZ, family.spread_KMZZ)]
    family.finish([Batch(batch.x_BCHW[:24], batch.y_B[:24]), Batch(batch.x_BCHW[24:], batch.y_B[24:])])
    with torch.no_grad():
        mean, log_var = family.network.encode(batch.x_BCHW, batch.y_B)
    for label in (0, 1):
        own = batch.y_B == label
        share, centre = family.share_KM[label], family.centre_KMZ[label]
        torch.testing.assert_close(share @ centre, mean[own].mean(0), rtol=1e-3, atol=1e-5)
        spread = family.spread_KMZZ[label]
        inner = (spread @ spread.mT).diagonal(dim1=1, dim2=2) + centre**2
        second = (mean[own] ** 2 + log_var[own].exp()).mean(0)
        torch.testing.assert_close(share @ inner, second, rtol=1e-3, atol=1e-4)
    for was, now in zip(before, (family.share_KM, family.centre_KMZ, family.spread_KMZZ), strict=True):
        assert torch.equal(was[2], now[2])  # no image of the third class was seen


def test_interpolation_walks_from_one_reconstruction_to_the_other():
    family = unzeroed(make())
    a, b = pictures(3), Batch(pictures(6).x_BCHW[3:], torch.tensor([0, 1, 2]))
    walk = family.interpolate(a, b, [0.0, 0.5, 1.0])
    assert walk.shape == (3, 3, 1, 8, 8)
    assert walk.dtype == torch.uint8
    with torch.no_grad():
        for end, batch in ((walk[0], a), (walk[2], b)):
            mean, _ = family.network.encode(batch.x_BCHW, batch.y_B)
            rebuilt = family.network.decode(mean, a.y_B)[0] * 127.5 + 127.5
            assert (end - rebuilt).abs().max() <= 0.51
    assert not torch.equal(walk[0], walk[2])
    assert not torch.equal(walk[1], walk[2])


def test_a_density_has_no_bits_per_dim():
    assert make(likelihood="gaussian").bits_per_dim(pictures()) is None


def test_bits_per_dim_bound_the_exact_cost_from_above():
    """With one latent number, p(x) and the bound are integrals along a line, which a grid takes exactly."""
    family = unzeroed(make(latent=1, likelihood="logistic"))
    with torch.no_grad():
        family.network.encode_out.bias.copy_(torch.tensor([2.0, -2.0]))
    batch = pictures(1)
    z = torch.linspace(-9, 9, 1_801)
    with torch.no_grad():
        mean, log_var = family.network.encode(batch.x_BCHW, batch.y_B)
        image = family.network.decode(z[:, None], batch.y_B.expand(len(z)))
        given_z = log_logistic(batch.x_BCHW, *image).sum((1, 2, 3)).double()
    exact = torch.logsumexp(given_z + Normal(0.0, 1.0).log_prob(z), 0) + math.log(0.01)
    q = Normal(mean[0], (log_var[0] / 2).exp())
    weight = q.log_prob(z).exp().double() * 0.01
    rebuilt, kl = (weight * given_z).sum(), kl_divergence(q, Normal(0.0, 1.0))
    expected = rebuilt - kl
    torch.manual_seed(6)
    many = Batch(batch.x_BCHW.expand(2_000, -1, -1, -1), batch.y_B.expand(2_000))
    bits = family.bits_per_dim(many) * 64 * math.log(2)
    error = 5 * float((weight * (given_z - rebuilt) ** 2).sum() / 2_000) ** 0.5
    assert bits == pytest.approx(-float(expected), abs=error + 0.02)
    assert float(kl) > 3 * (error + 0.02)
    assert bits > -float(exact)


@pytest.mark.parametrize("likelihood", ["gaussian", "logistic"])
def test_score_is_the_bound_of_what_was_drawn(likelihood):
    family = unzeroed(make(likelihood=likelihood))
    y_B = torch.tensor([3, 1, 4])
    x_BCHW, score_B = family.sample(y_B, [1, 2, 3])
    x = x_BCHW.float() / 127.5 - 1
    with torch.no_grad():
        mean, log_var = family.network.encode(x, y_B)
        nats = family.log_likelihood(x, *family.network.decode(mean, y_B))
    q = Normal(mean, (log_var / 2).exp())
    torch.testing.assert_close(
        score_B, nats - kl_divergence(q, Normal(0.0, 1.0)).sum(1), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize(("likelihood", "deviation"), [("gaussian", 1.0), ("logistic", math.pi / 3**0.5)])
def test_noise_has_the_likelihoods_deviation(likelihood, deviation):
    drawn = {}
    for noise in (False, True):
        family = make(likelihood=likelihood, noise=noise)
        scale = (
            torch.full((4, 1, 8, 8), math.log(0.1))
            if likelihood == "logistic"
            else torch.tensor(math.log(0.1))
        )
        family.network.decode = lambda z, y, scale=scale: (torch.zeros(4, 1, 8, 8), scale)
        drawn[noise] = family.sample(torch.zeros(4).long(), [1, 2, 3, 4])[0].double() / 127.5 - 1
    assert drawn[False].std() == 0
    assert float(drawn[True].std()) == pytest.approx(0.1 * deviation, rel=0.12)


def test_learning_rate_warms_up_and_falls_to_zero():
    family = make()
    batch = Batch(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]))
    rates = []
    for progress in (0.0, 0.015, 0.03, 0.5, 1.0):
        family.step(batch, progress)
        rates.append(family.optimisers["network"].param_groups[0]["lr"] / family.config.lr)
    assert rates == pytest.approx([0, 0.5, 1, 0.5, 0], abs=0.01)


@pytest.mark.parametrize(
    "wrong", [Spec(1, 30, 28, 2), Spec(1, 28, 4, 2), Spec(1, 260, 28, 2), Spec(2, 28, 28, 2)]
)
def test_shapes_it_cannot_make_are_refused(wrong):
    with pytest.raises(ValueError, match="vae makes images"):
        build(Config(), wrong)
