"""Map to image: what the map decides, what the style does, and what each part of the objective is."""

import pytest
import torch
import torch.nn.functional as F

from models.families import Batch, Spec, spade
from models.families.spade import Config
from models.patches import GROUPS


def make(size=8, channels=1, ids=2, classes=0, **options):
    torch.manual_seed(0)
    spec = Spec(channels, size, size, classes, condition=ids, mapped=True)
    return spade.build(Config(**{"width": 16, "style": 4, **options}), spec)


def halves(count=32, size=8):
    """Images and their maps: one half, which the map tells, is bright or dim, which nothing tells."""
    generator = torch.Generator().manual_seed(0)
    left = torch.arange(count) % 2 == 0
    light_B = torch.where(torch.arange(count) // 2 % 2 == 0, 0.8, 0.2)
    ids_BHW = torch.zeros(count, size, size, dtype=torch.long)
    ids_BHW[left, :, : size // 2] = 1
    ids_BHW[~left, :, size // 2 :] = 1
    x_BCHW = torch.where(ids_BHW == 1, light_B[:, None, None], -0.8)[:, None]
    x_BCHW = x_BCHW + 0.05 * torch.randn(x_BCHW.shape, generator=generator)
    return Batch(x_BCHW.clamp(-1, 1), None, F.one_hot(ids_BHW, 2).movedim(-1, 1).float())


def trained(family, batch, steps=300):
    return [family.step(batch, 0.1 + 0.6 * i / steps) for i in range(steps)]


@pytest.fixture(scope="module")
def learnt():
    torch.set_num_threads(1)
    batch, family = halves(), make(lr=2e-3)
    trained(family, batch)
    return family, batch


def draw(family, c_BKHW, seeds):
    drawn, score_B = family.sample(None, seeds, [Batch(torch.zeros(len(seeds), 1, 8, 8), None, c_BKHW)])
    return drawn.float() / 127.5 - 1, score_B


def test_the_map_decides_where(learnt):
    family, batch = learnt
    left_BCHW, _ = draw(family, batch.c_BCHW[:1].expand(8, -1, -1, -1), list(range(8)))
    right_BCHW, _ = draw(family, batch.c_BCHW[1:2].expand(8, -1, -1, -1), list(range(8)))
    for near, far in ((left_BCHW[..., :4], left_BCHW[..., 4:]), (right_BCHW[..., 4:], right_BCHW[..., :4])):
        assert float(near.mean((1, 2, 3)).min()) > float(far.mean((1, 2, 3)).max()) + 0.3


def test_one_map_has_many_images(learnt):
    family, batch = learnt
    c_BKHW = batch.c_BCHW[:1].expand(64, -1, -1, -1)
    one, _ = draw(family, c_BKHW, list(range(64)))
    light_B = one[..., :4].mean((1, 2, 3))
    assert float(light_B.quantile(0.9) - light_B.quantile(0.1)) > 0.3  # of the 0.6 between dim and bright
    assert torch.equal(one, draw(family, c_BKHW, list(range(64)))[0])


def test_an_image_s_own_style_gives_it_back(learnt):
    family, batch = learnt
    with torch.no_grad():
        again_BCHW, kl_B = family.network(batch.c_BCHW, batch.labels_B, torch.zeros(32, 4), batch.x_BCHW)
    light_B, wanted_B = (x.amax((1, 2, 3)) for x in (again_BCHW, batch.x_BCHW))
    bright_B = wanted_B > 0.6
    assert float(light_B[bright_B].mean() - light_B[~bright_B].mean()) > 0.3
    assert float(kl_B.min()) > 0


def test_the_class_is_told_beside_the_style():
    family, c_BKHW = make(classes=3), halves(3).c_BCHW[:1].expand(3, -1, -1, -1)
    source = Batch(torch.zeros(3, 1, 8, 8), None, c_BKHW)
    of_each, _ = family.sample(torch.arange(3), [7, 7, 7], [source])
    assert not torch.equal(of_each[0], of_each[1])
    assert torch.equal(family.sample(None, [7, 7, 7], [source])[0], of_each[:1].expand(3, -1, -1, -1))


def test_an_untrained_network_paints_no_checkerboard():
    family, batch = make(16, 3), halves(4, 16)
    with torch.no_grad():
        x_BCHW, _ = family.network(batch.c_BCHW, batch.labels_B, torch.randn(4, 4))
    assert torch.equal(x_BCHW, F.interpolate(x_BCHW[..., ::2, ::2], scale_factor=2.0))
    assert float(x_BCHW[..., ::2, ::2].diff().abs().min()) > 0


def test_normalisation_is_that_of_equation_1():
    torch.manual_seed(0)
    layer = spade.Spade(16, 3)
    h_BCHW, map_BKHW = torch.randn(2, 16, 4, 4) * 3 + 1, torch.rand(2, 3, 4, 4)
    told = layer.scale_and_shift(F.relu(layer.shared(map_BKHW)))
    wanted = torch.empty_like(h_BCHW)
    for n in range(2):
        for c in range(16):
            start = c // (16 // GROUPS) * (16 // GROUPS)
            group = h_BCHW[n, start : start + 16 // GROUPS]
            normed = (h_BCHW[n, c] - group.mean()) / (group.var(correction=0) + 1e-5).sqrt()
            wanted[n, c] = normed * (1 + told[n, c]) + told[n, 16 + c]
    assert torch.allclose(layer(h_BCHW, map_BKHW), wanted, atol=1e-4)


def test_the_divergence_is_that_of_two_normal_distributions():
    batch, family = halves(4), make()
    with torch.no_grad():
        _, kl_B = family.network(batch.c_BCHW, batch.labels_B, torch.zeros(4, 4), batch.x_BCHW)
        told_BZ = family.network.encoder(F.pixel_unshuffle(batch.x_BCHW, 2))
        _, none_B = family.network(batch.c_BCHW, batch.labels_B, torch.zeros(4, 4))
    own = torch.distributions.Normal(told_BZ[:, :4], (told_BZ[:, 4:] / 2).exp())
    plain = torch.distributions.Normal(torch.zeros(4), torch.ones(4))
    assert torch.allclose(kl_B, torch.distributions.kl_divergence(own, plain).sum(1), atol=1e-5)
    assert none_B.tolist() == [0.0] * 4


@pytest.mark.parametrize("term", ["feature_matching", "kl", "perceptual"])
def test_each_weight_counts_in_the_generator_s_loss(term):
    batch = halves(8, 16)
    low, high = (make(16, **{term: weight}).step(batch, 0.5) for weight in (0.5, 5.0))
    assert low["discriminator_loss"] == high["discriminator_loss"]
    told = {"feature_matching": "matched", "kl": "kl"}.get(term)
    apart = high["loss"] - low["loss"]
    assert apart == pytest.approx(4.5 * low[told], rel=1e-3) if told else apart > 1e-3


def test_each_scale_sees_half_the_size_and_counts_the_same():
    batch, family = halves(2, 16), make(16, scales=3)
    judges = family.discriminator.scales
    logits, found = family.discriminator(batch.c_BCHW, batch.x_BCHW)
    assert [part.shape[1] for part in logits] == [16, 4, 1]
    assert len(found) == 9
    small = (F.avg_pool2d(each, 2) for each in (batch.c_BCHW, batch.x_BCHW))
    assert torch.equal(logits[1], judges[1](*small)[0])
    score_B = spade.mean(logits)
    assert torch.allclose(score_B, sum(part.mean(1) for part in logits) / 3)
    assert len(make(8, scales=3, layers=3).discriminator.scales) == 1  # nothing is left to halve


def test_the_score_is_the_discriminators_mean_logit(learnt):
    family, batch = learnt
    drawn, score_B = draw(family, batch.c_BCHW, list(range(32)))
    wanted_B = spade.mean(family.discriminator(batch.c_BCHW, drawn)[0])
    assert torch.allclose(score_B, wanted_B, atol=1e-4)


def test_a_condition_without_ids_is_refused():
    for spec in (Spec(3, 32, 32, 10), Spec(3, 32, 32, 10, condition=3)):
        with pytest.raises(ValueError, match=r"set preprocess\.condition to colours, or to paired and"):
            spade.build(Config(), spec)


def test_a_perceptual_loss_needs_its_packages(monkeypatch):
    monkeypatch.setattr(spade.features, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install"):
        make(perceptual=0.1)
