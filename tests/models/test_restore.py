"""Restoration: each degradation spoils as it says, and the way back is learnt."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from models.families import Batch, Spec, restore
from models.families.restore import Config, degrade
from models.fidelity import psnr


def pictures(count=8, channels=3, size=16):
    """Smooth images in [-1, 1] on whole grey levels."""
    generator = torch.Generator().manual_seed(1)
    small = torch.rand(count, channels, 4, 4, generator=generator)
    x_BCHW = torch.nn.functional.interpolate(small, (size, size), mode="bilinear")
    return (x_BCHW * 255).round() / 127.5 - 1


def grey_levels(x_BCHW):
    return x_BCHW * 127.5 + 127.5


@pytest.mark.parametrize(
    "degradation", ["noise", "blur", "jpeg", "super_resolution_2x", "super_resolution_4x"]
)
def test_what_is_spoilt_could_be_stored(degradation):
    x = pictures()
    spoilt = grey_levels(degrade(x, Config(degradation=degradation), torch.randn(x.shape)))
    assert spoilt.shape == x.shape
    assert torch.allclose(spoilt, spoilt.round(), atol=1e-3)
    assert spoilt.min() >= 0
    assert spoilt.max() <= 255
    assert (spoilt - grey_levels(x)).abs().max() > 1


def test_noise_has_the_deviation_that_is_asked_for():
    x = torch.zeros(4, 1, 64, 64)
    spoilt = degrade(x, Config(sigma=25.0), torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))
    assert float((grey_levels(spoilt) - 127.5).std()) == pytest.approx(25, rel=0.03)


def test_a_blurred_point_is_a_gaussian():
    x = torch.full((1, 1, 33, 33), -1.0)
    x[0, 0, 16, 16] = 1.0
    spread = grey_levels(restore.blurred(x, 1.5))[0, 0] / 255
    place = torch.arange(33) - 16.0
    assert float(spread.sum()) == pytest.approx(1, abs=1e-3)
    assert float((spread.sum(0) * place**2).sum()) == pytest.approx(1.5**2, rel=0.05)


def test_jpeg_is_that_of_any_other_program():
    x = pictures(1, size=32)
    buffer = io.BytesIO()
    image = Image.fromarray(grey_levels(x)[0].round().byte().permute(1, 2, 0).numpy())
    image.save(buffer, "jpeg", quality=15)
    other = torch.from_numpy(np.asarray(Image.open(buffer)).copy()).permute(2, 0, 1)[None]
    assert float(psnr(grey_levels(degrade(x, Config(degradation="jpeg"))).round().byte(), other)) > 38


def test_a_lower_resolution_keeps_no_detail():
    x = torch.ones(1, 1, 16, 16)
    x[..., ::2] = -1
    for degradation in restore.FACTORS:
        spoilt = degrade(x, Config(degradation=degradation))
        assert float(spoilt[..., 4:-4].abs().max()) < 0.1


@pytest.mark.parametrize("options", [{}, {"loss": "l2"}, {"degradation": "blur", "perceptual": 0.1}])
def test_it_learns_the_way_back(options):
    torch.manual_seed(0)
    family = restore.build(Config(width=16, blocks=1, **options), Spec(3, 16, 16, 0))
    x = pictures(32)
    for i in range(60):
        family.step(Batch(x, None), 0.1 + i / 120)
    source, seeds = Batch(pictures(), None), list(range(8))
    truth = grey_levels(source.x_BCHW).round().byte()
    before = family.ask([source], seeds)
    after = family.sample(None, seeds, [replace(source, c_BCHW=before / 127.5 - 1)])[0]
    assert float((psnr(after, truth) - psnr(before, truth)).mean()) > 1


def test_sources_are_spoilt_by_their_seed_or_not_at_all():
    family = restore.build(Config(width=16), Spec(3, 16, 16, 0))
    source = Batch(pictures(), None)
    plain = Batch(torch.zeros(8, 3, 16, 16), None)
    one, same, other = (family.ask([plain], list(range(n, n + 8))) for n in (1, 1, 2))
    assert torch.equal(one, same)
    assert torch.equal(one[1:], other[:-1])
    assert not torch.equal(one, other)
    assert not torch.equal(family.ask([source], list(range(1, 9))), one)
    whole = restore.build(Config(width=16, spoil_sources=False), Spec(3, 16, 16, 0))
    assert torch.equal(whole.ask([source], list(range(8))), grey_levels(source.x_BCHW).round().byte())


def test_a_perceptual_loss_needs_its_packages(monkeypatch):
    monkeypatch.setattr(restore.features, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install"):
        restore.build(Config(perceptual=0.1), Spec(3, 16, 16, 0))
