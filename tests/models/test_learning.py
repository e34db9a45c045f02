import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from models.families import Batch, Spec
from models.learning import Learner

SPEC = Spec(1, 8, 8, 0)


def learner(lr=2.0):
    torch.manual_seed(0)
    networks = {"network": nn.Linear(3, 1), "rival": nn.Linear(3, 1)}
    return Learner(SimpleNamespace(lr=lr), SPEC, (0.9, 0.99), **networks)


def rate(progress, factor=1.0, **options):
    made = learner()
    made.scale_lr(factor)
    made.pace(progress, **options)
    (one,) = {group["lr"] for adam in made.optimisers.values() for group in adam.param_groups}
    return one


def test_the_rate_rises_to_its_height_and_falls_along_a_cosine_to_nothing():
    assert rate(0.0) == 0.0
    assert rate(0.015) == pytest.approx(1.0, rel=1e-2)
    assert rate(0.5) == pytest.approx(1.0)
    assert rate(0.25) == pytest.approx(1 + math.cos(math.pi / 4))
    assert rate(1.0) == pytest.approx(0.0)
    assert max(range(100), key=lambda n: rate(n / 100)) == 3


def test_a_rollbacks_factor_scales_it_all():
    assert rate(0.3, factor=0.25) == pytest.approx(rate(0.3) / 4)


def test_the_rise_is_as_long_as_asked():
    assert rate(0.1, warm_up=0.2) == pytest.approx(rate(0.1) / 2)
    assert rate(0.1, warm_up=0.1) == rate(0.1, warm_up=0.01)


def test_a_step_updates_one_network_and_tells_the_norm_before_it_is_clipped():
    x = torch.randn(4, 3)
    made, weights = learner(), []
    for clip in (None, 1e-9):
        made = learner()
        before = [p.clone() for p in made.rival.parameters()]
        weight = made.network.weight.clone()
        norm = made.descend(1000 * made.through["network"](x).sum(), clip=clip)
        weights.append(made.network.weight - weight)
        kept = made.network.weight.grad.norm()
        assert norm == pytest.approx(float((1000 * x.sum(0)).square().sum() + 4000.0**2) ** 0.5, rel=1e-4)
        assert (kept < 1e-8) == (clip is not None)
        assert all(torch.equal(a, b) for a, b in zip(made.rival.parameters(), before, strict=True))
    assert weights[0].abs().min() > 0


def test_fabric_wraps_every_network_and_leaves_the_state_as_it_was():
    made, seen = learner(), []

    def setup(network, adam):
        return SimpleNamespace(__call__=lambda x: seen.append("through") or network(x)), adam

    plain = list(made.state_dict())
    made.attach(SimpleNamespace(setup=setup, backward=lambda loss: seen.append("back") or loss.backward()))
    for name in ("network", "rival"):
        made.descend(made.through[name](torch.ones(2, 3)).sum(), name)
    assert seen == ["through", "back"] * 2
    assert list(made.state_dict()) == plain
    assert plain[0] == "lr_factor"


def test_images_without_labels_are_all_of_class_0():
    x_BCHW = torch.zeros(3, 1, 8, 8)
    assert Batch(x_BCHW, None).labels_B.tolist() == [0, 0, 0]
    assert Batch(x_BCHW, torch.tensor([2, 0, 1])).labels_B.tolist() == [2, 0, 1]
