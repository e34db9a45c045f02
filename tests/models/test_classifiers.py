import pytest
import torch
from torch import nn

from models.classifiers import FEATURES, Judge, Probe, rotate, shift


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 28, 31, 64])
def test_both_take_every_size_and_give_the_promised_shapes(size, channels):
    x_BCHW = torch.randn(2, channels, size, size)
    logits, features = Judge(channels, size, 4).eval()(x_BCHW)
    assert logits.shape == (2, 4)
    assert features.shape == (2, FEATURES)
    assert Probe(channels, size, 7).eval()(x_BCHW).shape == (2, 7)


@pytest.mark.parametrize("make", [Judge, Probe])
def test_what_cannot_be_built_is_refused(make):
    for wrong in ((2, 28, 10), (1, 7, 10), (1, 257, 10), (1, 28, 1)):
        with pytest.raises(ValueError, match="classifier"):
            make(*wrong)


def test_judge_and_probe_differ_in_architecture():
    def kinds(net):
        return {type(m).__name__ for m in net.modules() if not list(m.children())}

    judge, probe = kinds(Judge(1, 28, 10)), kinds(Probe(1, 28, 10))
    assert {"ReLU", "MaxPool2d", "Dropout"} <= probe - judge
    assert "AvgPool2d" in judge - probe


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32), (3, 64), (3, 256)])
def test_judge_and_probe_share_no_run_of_layers(channels, size):
    """A convolution and its norm may be alike by chance; three layers in a row would be an architecture."""

    def runs(net):
        layers = [
            (type(m).__name__, *(tuple(p.shape) for p in m.parameters()))
            for m in net.modules()
            if not list(m.children())
        ]
        return {tuple(layers[n : n + 3]) for n in range(len(layers) - 2)}

    judge, probe = Judge(channels, size, 10), Probe(channels, size, 10)
    assert runs(judge).isdisjoint(runs(probe))
    assert runs(judge) == runs(Judge(channels, size, 10))
    assert judge.head.weight.shape != probe.layers[-1].weight.shape
    with pytest.raises(RuntimeError, match="Missing key"):
        probe.load_state_dict(judge.state_dict())


@pytest.mark.parametrize("make", [Judge, Probe])
def test_both_learn_a_few_images_by_heart(make):
    torch.manual_seed(0)
    x_BCHW, y_B = torch.randn(16, 1, 12, 12), torch.arange(16) % 4
    net = make(1, 12, 4)
    adam = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(40):
        out = net(x_BCHW)
        loss = nn.functional.cross_entropy(out[0] if isinstance(out, tuple) else out, y_B)
        adam.zero_grad()
        loss.backward()
        adam.step()
    out = net.eval()(x_BCHW)
    assert ((out[0] if isinstance(out, tuple) else out).argmax(1) == y_B).all()


def test_rotate_turns_by_quarter_turns_and_says_which():
    x_BCHW = torch.arange(2 * 9.0).reshape(2, 1, 3, 3)
    turned, turn = rotate(x_BCHW)
    assert turn.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert torch.equal(turned[:2], x_BCHW)
    assert turned[2, 0, 0].tolist() == [2, 5, 8]  # counter-clockwise: the right edge goes to the top
    assert torch.equal(turned[4:6], x_BCHW.flip(2, 3))
    assert torch.equal(turned[2:4].flip(2, 3), turned[6:8])
    with pytest.raises(ValueError, match="3 x 4"):
        rotate(torch.zeros(1, 1, 3, 4))


def test_shift_moves_each_image_whole_and_repeats_its_edge():
    torch.manual_seed(0)
    x_BCHW = torch.arange(25.0).reshape(1, 1, 5, 5).expand(64, 2, 5, 5)
    moved = shift(x_BCHW, 1)
    centres = {tuple(m[0, 1:4, 1:4].flatten().tolist()) for m in moved}
    assert len(centres) == 9  # every offset in -1, 0, 1 a side
    assert all(torch.equal(m[0], m[1]) for m in moved)
    down_right = next(m[0] for m in moved if m[0, 2, 2] == 18)  # shows what lay one below and one right
    assert torch.equal(down_right[:4, :4], x_BCHW[0, 0, 1:, 1:])
    assert torch.equal(down_right[4, :4], x_BCHW[0, 0, 4, 1:])
    assert torch.equal(shift(x_BCHW, 0), x_BCHW)
