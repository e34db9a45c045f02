"""PixelRNN: blind to the future, exact in its likelihood, and the same net when it draws pixel by pixel."""

import itertools
import math

import numpy as np
import pytest
import torch

from models.families import Batch, Spec, pixelrnn
from models.families.pixelrnn import Config, build, draw, log_likelihood, mixture, shifted, trace
from models.logistic import log_logistic

LEVELS = torch.arange(256, dtype=torch.float64) * 2 / 255 - 1
SHAPES = [(8, 8, 1), (9, 11, 1), (10, 8, 3)]


def make(height=8, width=8, channels=1, classes=4, seed=0, **config):
    """A family whose every weight says something, in float64."""
    torch.manual_seed(seed)
    family = build(Config(**{"hidden": 8, "mixtures": 3, **config}), Spec(channels, height, width, classes))
    for p in family.network.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return family.double()


def pictures(family, count):
    torch.manual_seed(1)
    shape = (family.spec.channels, family.spec.height, family.spec.width)
    return torch.randint(0, 256, (count, *shape)).double() * 2 / 255 - 1


@pytest.mark.parametrize(("height", "width", "channels"), SHAPES)
@pytest.mark.parametrize("layers", [1, 2])
def test_no_pixel_sees_itself_or_its_future(height, width, channels, layers):
    family = make(height, width, channels, layers=layers)
    x, y = pictures(family, 1).requires_grad_(), torch.tensor([2])
    out = family.network(x, y)[0]
    shares = []
    for row, column in itertools.product((0, 1, height // 2, height - 1), (0, 1, width // 2, width - 1)):
        torch.manual_seed(2)
        told = (out[row, column] * torch.randn(out.shape[-1]).double()).sum()
        (grad,) = torch.autograd.grad(told, x, retain_graph=True)
        seen = (grad[0] != 0).any(0).flatten()
        here = row * width + column
        assert not seen[here:].any(), f"the pixel at {row}, {column} sees {seen[here:].nonzero()[0]} ahead"
        if row > 1 and here:
            shares.append(float(seen[:here].double().mean()))
        if column:
            assert seen[here - 1]
        if row:
            assert seen[here - width]
    assert np.mean(shares) > 0.5  # each row above opens the view by a pixel to either side


def test_every_pixel_but_the_first_is_told_of_by_one_before():
    family = make()
    x, y = pictures(family, 2), torch.tensor([1, 3])
    out = family.network(x, y)
    changed = x.clone()
    changed[:, :, 0, 0] += 0.5
    differs = (family.network(changed, y) - out).abs().amax((0, 3)) > 1e-12
    assert not differs[0, 0]
    assert differs.flatten()[1:].float().mean() > 0.9
    others = (family.network(x, torch.tensor([0, 2])) - out).abs().amax((0, 3)) > 1e-12
    assert others.all()  # labels reach every pixel, the first as well


def test_row_lstm_is_the_equation_transcribed():
    """van den Oord et al. 2016, eq. 3, column by column."""
    torch.manual_seed(3)
    D, H, W = 8, 4, 5
    layer = pixelrnn.RowLSTM(D).double()
    x = torch.randn(2, H, W, D).double()
    h, c = (
        torch.zeros(2, W + 2, D).double(),
        torch.zeros(2, W + 2, D).double(),
    )  # a column more on either side
    expected = torch.zeros_like(x)
    for row in range(H):
        next_h, next_c = torch.zeros_like(h), torch.zeros_like(c)
        for column in range(W):
            left = x[:, row, column - 1] if column else torch.zeros(2, D).double()
            said = [left, x[:, row, column], *(h[:, column + k] for k in range(3))]
            o, f, i, g = (torch.cat(said, 1) @ layer.gates.weight.T + layer.gates.bias).chunk(4, 1)
            next_c[:, column + 1] = torch.sigmoid(f) * c[:, column + 1] + torch.sigmoid(i) * torch.tanh(g)
            next_h[:, column + 1] = torch.sigmoid(o) * torch.tanh(next_c[:, column + 1])
        h, c = next_h, next_c
        expected[:, row] = x[:, row] + h[:, 1:-1]
    torch.testing.assert_close(layer(x.transpose(0, 1)).transpose(0, 1), expected)


def sigmoid(t):
    return 1 / (1 + math.exp(-t)) if t > -700 else 0.0


def mass_of(level, mean, scale):
    """The probability of a grey level, of 0 to 255, as the paper writes it."""
    x = level * 2 / 255 - 1
    above = 1.0 if level == 255 else sigmoid((x + 1 / 255 - mean) / scale)
    below = 0.0 if level == 0 else sigmoid((x - 1 / 255 - mean) / scale)
    return above - below


@pytest.mark.parametrize("channels", [1, 3])
def test_likelihood_of_colours_is_the_mixture_transcribed(channels):
    """Salimans et al. 2017, eq. 2 and 3: one chosen logistic gives all colours of a pixel."""
    torch.manual_seed(4)
    M, each = 4, 1 + 2 * channels + channels * (channels - 1) // 2
    parameters = torch.randn(30, M * each).double()
    levels = torch.randint(0, 256, (30, channels))
    levels[0], levels[1] = 0, 255
    found = log_likelihood(parameters, levels.double() * 2 / 255 - 1)
    for n in range(30):
        parts = parameters[n].view(M, each).tolist()
        total = sum(math.exp(p[0]) for p in parts)
        chance, x = 0.0, [level * 2 / 255 - 1 for level in levels[n].tolist()]
        for p in parts:
            means, scales = p[1 : 1 + channels], [math.exp(s - 1) for s in p[1 + channels : 1 + 2 * channels]]
            if channels == 3:
                a, b, c = (math.tanh(t) for t in p[7:])
                means = [means[0], means[1] + a * x[0], means[2] + b * x[0] + c * x[1]]
            whole = math.prod(mass_of(int(levels[n][k]), means[k], scales[k]) for k in range(channels))
            chance += math.exp(p[0]) / total * whole
        assert float(found[n]) == pytest.approx(math.log(chance), rel=1e-6, abs=1e-6)


def test_probabilities_of_all_grey_levels_sum_to_one():
    torch.manual_seed(5)
    parameters = torch.randn(7, 1, 5 * 3).double() * 2
    every = log_likelihood(parameters.expand(7, 256, 15), LEVELS[None, :, None].expand(7, 256, 1))
    torch.testing.assert_close(every.exp().sum(1), torch.ones(7).double())


def test_probabilities_of_a_last_colour_sum_to_that_of_the_two_before():
    """Summing blue out leaves a likelihood of red and green, which must not know blue's parameters."""
    torch.manual_seed(6)
    parameters = torch.randn(1, 2 * 10).double()
    x = torch.tensor([[0.2, -0.4]]).double().expand(256, 2)
    x = (x * 127.5 + 127.5).round() / 127.5 - 1
    blues = torch.cat([x, LEVELS[:, None]], dim=1)

    def red_and_green(parameters):
        return log_likelihood(parameters.expand(256, 20), blues).exp().sum()

    other = parameters.clone().view(2, 10)
    other[:, [3, 6, 8, 9]] += 0.7  # blue's mean, scale and two colour terms
    torch.testing.assert_close(red_and_green(other.view(1, 20)), red_and_green(parameters))
    found = mixture(parameters[0], 3)
    means = shifted(found.means, found.colours, blues[0].expand(1, 3))
    pair = log_logistic(blues[0, :2], means[:, :2], found.log_scales[:, :2]).sum(1).exp()
    torch.testing.assert_close(red_and_green(parameters), (found.logits.softmax(0) * pair).sum())


def test_draw_gives_levels_in_the_mixtures_frequencies():
    torch.manual_seed(7)
    parameters = torch.tensor([[1.0, -0.6, -1.5], [0.2, 0.5, -0.5], [-0.5, 1.1, -1.0]]).double().view(1, 9)
    count = 100_000
    x = draw(parameters.expand(count, 9), torch.rand(count, 2).double())
    levels = (x[:, 0] + 1) * 127.5
    assert (levels - levels.round()).abs().max() < 1e-9
    chance = log_likelihood(parameters.expand(256, 9), LEVELS[:, None]).exp()
    seen = torch.bincount(levels.round().long(), minlength=256) / count
    # Kolmogorov and Smirnov's distance stays below 1.95 / sqrt(n) in 999 of 1000 draws.
    assert (seen.cumsum(0) - chance.cumsum(0)).abs().max() < 1.95 / count**0.5
    assert seen[255] == pytest.approx(float(chance[255]), abs=0.005)


def test_draw_lets_colours_follow_those_before():
    torch.manual_seed(8)
    parameters = torch.tensor([[0.0, 0.1, -0.1, 0.0, -1.5, -1.5, -1.5, 1.0, -0.8, 0.5]]).double()
    count = 20_000
    x = draw(parameters.expand(count, 10), torch.rand(count, 4).double())
    a, b, c = np.tanh([1.0, -0.8, 0.5])
    inner = (x.abs() < 0.999).all(1)
    red, green, blue = x[inner].T
    assert float((green - a * red).mean()) == pytest.approx(-0.1, abs=0.01)
    assert float(torch.stack([green - a * red, red]).corrcoef()[0, 1]) == pytest.approx(0, abs=0.05)
    assert float((blue - b * red - c * green).mean()) == pytest.approx(0, abs=0.01)
    assert float(torch.stack([blue - b * red - c * green, green]).corrcoef()[0, 1]) == pytest.approx(
        0, abs=0.05
    )


@pytest.mark.parametrize(("height", "width", "channels"), SHAPES)
@pytest.mark.parametrize("layers", [1, 3])
def test_drawing_pixel_by_pixel_is_the_same_net(height, width, channels, layers):
    family = make(height, width, channels, layers=layers)
    torch.manual_seed(9)
    y, u = torch.tensor([0, 3, 1]), torch.rand(3, height, width, 1 + channels).double()
    with torch.no_grad():
        x, nats = trace(family.network, y, u)
        parameters = family.network.double()(x, y)
        # The forward pass gives float32: its own digits bound how near the two can come.
        exact = full(family.network, x, y)
    torch.testing.assert_close(parameters.double(), exact, rtol=1e-6, atol=1e-6)
    by_pixel = log_likelihood(exact, x.permute(0, 2, 3, 1))
    torch.testing.assert_close(by_pixel.sum((1, 2)), nats, rtol=1e-9, atol=1e-6)
    # The same uniform numbers draw the same pixels from what the forward pass says.
    assert torch.equal(draw(exact, u).permute(0, 3, 1, 2), x)
    assert len(x.unique()) > 20


def full(network, x, y):
    """The forward pass before it is rounded to float32."""
    said = []
    handle = network.out.register_forward_hook(lambda module, given, out: said.append(out))
    network(x, y)
    handle.remove()
    return said[0]


@pytest.mark.parametrize("channels", [1, 3])
def test_score_and_bits_are_the_likelihood_in_bits(channels):
    family = make(channels=channels).float()
    y = torch.tensor([0, 3, 1])
    x, score = family.sample(y, [5, 6, 7])
    images = x.float() / 127.5 - 1
    each = [-family.bits_per_dim(Batch(images[i : i + 1], y[i : i + 1])) for i in range(3)]
    assert score.tolist() == pytest.approx(each, rel=1e-3)
    with torch.no_grad():
        nats = log_likelihood(family.network(images, y), images.permute(0, 2, 3, 1)).sum()
    assert family.bits_per_dim(Batch(images, y)) == pytest.approx(
        -float(nats) / (3 * channels * 64 * math.log(2)), rel=1e-5
    )
    assert family.step(Batch(images, y), 0.5)["loss"] == pytest.approx(-float(score.mean()), rel=1e-3)


def test_learning_rate_warms_up_and_falls_to_zero():
    family = make().float()
    batch = Batch(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]))
    rates = []
    for progress in (0.0, 0.015, 0.03, 0.5, 1.0):
        family.step(batch, progress)
        rates.append(family.optimisers["network"].param_groups[0]["lr"] / family.config.lr)
    assert rates == pytest.approx([0, 0.5, 1, 0.5, 0], abs=0.01)


@pytest.mark.parametrize("wrong", [Spec(1, 28, 4, 2), Spec(1, 260, 28, 2), Spec(2, 28, 28, 2)])
def test_shapes_it_cannot_make_are_refused(wrong):
    with pytest.raises(ValueError, match="pixelrnn makes images"):
        build(Config(), wrong)
