"""Textures of sources: what they are made of, and what an exemplar does not allow."""

import re

import pytest
import torch

from models import features
from models.families import Batch, Spec, texture
from models.families.texture import Config, optimise
from models.noise import SampleNoise
from tests.house import ROOT
from tests.models.test_quilting import jump, waves


def test_an_exemplar_is_a_part_of_its_source_at_the_seed_s_place():
    spec = Spec(1, 32, 32, 0)
    family = texture.build(Config(exemplar=0.5), spec)
    steps = torch.arange(32).view(1, 1, 32, 1).expand(8, 1, 32, 32) * 8 / 127.5 - 1
    made, _ = family.sample(None, list(range(8)), [Batch(steps, None)])
    found = [set(image.unique().tolist()) for image in made]
    assert all(max(of) - min(of) <= 15 * 8 for of in found)  # 16 of its 32 rows
    assert len({min(of) for of in found}) > 1
    assert made.shape == (8, 1, 32, 32)


@pytest.mark.parametrize(("config", "size", "message"), [
    (Config(block=16), 16, "an exemplar of 16 x 16 pixels allows no texture out of blocks of 16: lower"),
    (Config(exemplar=0.25, block=8), 32, "an exemplar of 8 x 8 pixels"),
    (Config(exemplar=0.5), 8, "an exemplar of 4 x 4 pixels"),
])  # fmt: skip
def test_what_an_exemplar_does_not_allow_is_refused_before_any_work(config, size, message):
    with pytest.raises(ValueError, match=message):
        texture.build(config, Spec(3, size, size, 0))


def test_the_readme_makes_a_texture_larger_than_its_exemplar():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    found: dict = {}
    exec(compile(next(block for block in blocks if "quilt" in block), "README.md", "exec"), found)
    assert found["textures"].shape == (2, 3, 96, 128)


def test_optimisation_leaves_at_most_a_fifth_of_its_starting_loss():
    x = waves(1)
    with torch.inference_mode():  # as it is asked by generate
        made, score = optimise(x, [1], 24, 32, steps=40)
    assert made.shape == (1, 3, 24, 32)
    wanted = texture.Statistics(x.float() / 127.5 - 1)
    start = wanted.mean_BC11 + torch.randn(1, 3, 24, 32, generator=torch.Generator().manual_seed(0)) / 4
    assert float(-score) < 0.2 * float(wanted.missed(start))
    assert float(-score) == pytest.approx(float(wanted.missed(made.float() / 127.5 - 1)), rel=1e-3)
    assert float(wanted.missed(x.float() / 127.5 - 1)) < 1e-6
    smooth = jump(made) / jump(x)
    assert float(smooth) < 1.5  # what noise begins with: 6


def test_the_loss_is_the_share_of_gram_matrices_that_is_missed():
    one, other = waves(2).float() / 127.5 - 1
    wanted, shares = texture.Statistics(one[None]), []
    for a, b in zip(wanted.seen(other[None]), wanted.seen(one[None]), strict=True):
        gram_a, gram_b = (torch.einsum("ihw,jhw->ij", h[0], h[0]) / h[0, 0].numel() for h in (a, b))
        shares.append(float(((gram_a - gram_b) ** 2).sum() / (gram_b**2).sum()))
    assert float(wanted.missed(other[None])) == pytest.approx(sum(shares) / len(shares), rel=1e-4)
    patches = wanted.seen(one[None])[0][0, :, :, 0]
    covariance = patches @ patches.T / patches.shape[1]
    assert covariance.diagonal().max() < 1.01  # what the exemplar has is told in units of its own
    assert covariance[:3, :3].diagonal().mean() > 0.5


def test_optimised_textures_are_their_seeds_and_wrap_round_where_they_are_asked_to():
    x = waves(1).repeat(3, 1, 1, 1)
    plain, _ = optimise(x, [1, 1, 2], 24, 24, 15)
    assert torch.equal(plain[0], plain[1])
    assert not torch.equal(plain[0], plain[2])
    assert torch.equal(optimise(x[:1], [2], 24, 24, 15)[0][0], plain[2])
    tiles, _ = optimise(x[:1], [1], 24, 24, 30, tileable=True)
    wrap = [float((m[0, :, :, -1].float() - m[0, :, :, 0].float()).square().mean()) for m in (plain, tiles)]
    assert wrap[1] < wrap[0] / 2


def test_what_optimisation_needs_is_refused_before_any_work(monkeypatch):
    with pytest.raises(ValueError, match="of 8 x 8 pixels allows no texture by optimisation, which needs 16"):
        texture.build(Config(method="optimise", exemplar=0.25), Spec(1, 32, 32, 0))
    monkeypatch.setattr(features, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install"):
        texture.build(Config(method="optimise"), Spec(1, 32, 32, 0))


def test_a_source_is_made_anew_by_the_method_that_is_named():
    x_BCHW = waves(1, channels=1).float() / 127.5 - 1
    made = {
        method: texture.build(Config(method=method, steps=3), Spec(1, 32, 32, 0)).sample(
            None, [3], [Batch(x_BCHW, None)]
        )[0]
        for method in ("quilting", "optimise")
    }
    assert set(made["quilting"].unique().tolist()) <= set(waves(1, channels=1).unique().tolist())
    assert not torch.equal(made["quilting"], made["optimise"])


def test_where_an_exemplar_lies_does_not_choose_its_blocks():
    """Both are drawn by the seed: from streams of their own, or the two would be one number."""
    x_BCHW = torch.arange(64.0).to(torch.uint8).view(1, 1, 8, 8).expand(200, -1, -1, -1)
    seeds = list(range(200))
    found = texture.exemplars(x_BCHW, seeds, 0.5)
    tops = (found[:, 0, 0, 0] // 8).double()
    firsts = SampleNoise(seeds).uniform((2,))[:, 0].double()
    assert abs(torch.corrcoef(torch.stack([tops, firsts]))[0, 1]) < 0.25
