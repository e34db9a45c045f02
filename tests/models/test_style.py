"""Style transfer: what is compared is what the papers say, and both methods arrive at it."""

import pytest
import torch

from models import features
from models.families import Batch, Spec, style
from models.families.style import Config


def paintings(count=4, channels=3, size=16, seed=0):
    """Images in [-1, 1] of soft blotches, each in colours and with a grain of its own."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(count, channels, 4, 4, generator=generator)
    x_BCHW = torch.nn.functional.interpolate(small, (size, size), mode="bilinear")
    grain = torch.rand(count, channels, size, size, generator=generator) - 0.5
    strength = torch.rand(count, 1, 1, 1, generator=generator)
    return (2 * x_BCHW - 1 + strength * grain).clamp(-1, 1)


def made(references=0, channels=3, size=16, **config):
    torch.manual_seed(0)
    return style.build(Config(**config), Spec(channels, size, size, 0, references=references))


def asked(family, x_BCHW, other_BCHW, seeds=None, **knobs):
    """A draw as the sampler asks for it: in inference mode, of sources made there."""
    with torch.inference_mode():
        sources = [Batch(x.clone(), None) for x in (x_BCHW, other_BCHW)]
        return family.sample(None, seeds or list(range(len(x_BCHW))), sources[: family.PARENTS], **knobs)


def test_features_take_on_the_moments_that_they_are_given():
    h = torch.randn(3, 5, 6, 7) * 3 + 1
    mean, std = torch.randn(3, 5), torch.rand(3, 5) + 0.5
    found = style.adain(h, mean, std)
    assert torch.allclose(found.mean((2, 3)), mean, atol=1e-5)
    assert torch.allclose(found.std((2, 3), correction=0), std, atol=1e-4)
    own = style.moments(h)
    assert torch.allclose(style.adain(h, *own), h, atol=1e-4)


def test_the_loss_is_that_of_the_papers_with_sums_relative_to_what_is_wanted():
    x, other = paintings(2), paintings(2, seed=1)
    for method in ("adain", "optimise"):
        family = made(method=method)
        pair = [family.seen(each) for each in (x, other)]
        told = torch.zeros(2)
        for n in range(2):
            for a, b in zip(*([h[n] for h in seen] for seen in pair), strict=True):
                if method == "optimise":
                    a, b = (torch.einsum("iyx,jyx->ij", h, h) / h[0].numel() for h in (a, b))
                else:
                    a, b = (
                        torch.stack([h.mean((1, 2)), (h.var((1, 2), correction=0) + 1e-5).sqrt()])
                        for h in (a, b)
                    )
                told[n] += ((a - b) ** 2).sum() / (b**2).sum() / family.depth
        found = family.style_loss(*(family.styles(seen) for seen in pair))
        assert torch.allclose(found, told, rtol=1e-4)
        assert not family.style_loss(*[family.styles(pair[0])] * 2).any()


@pytest.mark.parametrize(("channels", "beta"), [(3, 10.0), (1, 100.0)])
def test_optimisation_leaves_a_fifth_of_its_loss_at_most(channels, beta):
    family = made(method="optimise", channels=channels, beta=beta)
    assert not family.TRAINS
    x_BCHW, score_B = asked(family, paintings(2, channels), paintings(2, channels, seed=1))
    assert x_BCHW.dtype == torch.uint8
    assert (score_B >= -0.2).all()
    assert (score_B < 0).all()
    # It is told of the image itself, rounded to 8 bits as it is.
    wanted = family.styles(family.seen(paintings(2, channels, seed=1)))
    before, after = (
        family.style_loss(family.styles(family.seen(x)), wanted)
        for x in (paintings(2, channels), x_BCHW.float() / 127.5 - 1)
    )
    assert (after < 0.25 * before).all()


def test_more_weight_of_the_content_keeps_more_of_it():
    x, other = paintings(2), paintings(2, seed=1)
    kept = []
    for alpha in (0.1, 100.0):
        family = made(method="optimise", alpha=alpha)
        drawn = asked(family, x, other, steps=15)[0].float() / 127.5 - 1
        kept.append(float((family.seen(drawn)[-1] - family.seen(x)[-1]).square().mean()))
    assert kept[1] < 0.5 * kept[0]


def test_an_optimised_sample_does_not_depend_on_its_neighbours():
    family = made(method="optimise")
    x, other = paintings(3), paintings(3, seed=1)
    whole = asked(family, x, other, steps=5)[0]
    among_others = asked(family, x.roll(1, 0), other.roll(1, 0), steps=5)[0].roll(-1, 0)
    assert torch.equal(whole, among_others)


def test_the_decoder_learns_to_paint_in_another_image_s_style():
    family = made(width=16, lr=4e-3)
    x, other = paintings(4), paintings(4, seed=1)
    pairs = torch.stack([x, other], 1).flatten(0, 1)  # the two of a pair learn from each other

    def apart():
        drawn = asked(family, x, other)[0].float() / 127.5 - 1
        seen = family.seen(drawn)
        to_style = family.style_loss(family.styles(seen), family.styles(family.seen(other)))
        return float(to_style.mean())

    before = apart()
    for n in range(60):
        metrics = family.step(Batch(pairs, None), 0.1 + n / 120)
    assert metrics["loss"] == pytest.approx(metrics["content"] + 10 * metrics["style"], rel=1e-4)
    own = family.style_loss(*(family.styles(family.seen(each)) for each in (x, other))).mean()
    assert apart() < min(0.5 * before, 0.8 * float(own))


@pytest.mark.parametrize("method", ["adain", "optimise"])
def test_references_are_kept_and_chosen_by_the_seed(method):
    family, x = made(references=2, method=method), paintings(6)
    assert family.PARENTS == 1
    references = paintings(2, seed=2)
    family.refer(references)
    again = made(references=2, method=method)
    again.load_state_dict(family.state_dict())
    assert torch.allclose(again.styles_RD[1:], again.styles(again.seen(references[1:])), atol=1e-4)
    same = x[:1].expand(6, -1, -1, -1)
    knobs = {"steps": 3} if method == "optimise" else {}
    drawn = asked(again, same, x, list(range(6)), **knobs)[0]
    assert len({tuple(each.flatten().tolist()) for each in drawn}) == 2
    assert torch.equal(drawn, asked(family, same, x, list(range(6)), **knobs)[0])


def test_without_references_the_second_source_gives_the_style():
    family, x = made(), paintings(4)
    assert family.PARENTS == 2
    one, other = (asked(family, x, paintings(4, seed=seed))[0] for seed in (1, 2))
    assert not torch.equal(one, other)


def test_auto_is_what_is_here_and_what_is_absent_is_named(monkeypatch):
    monkeypatch.setattr(features, "here", lambda: "vgg19")
    assert style.decided(Config()).features == "vgg19"
    assert style.decided(Config(features="efficientnet_lite0")).features == "efficientnet_lite0"
    monkeypatch.setattr(features, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install"):
        made(features="efficientnet_lite0")
