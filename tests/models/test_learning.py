import math

import pytest
import torch

from models.learning import set_rate


def rate(progress, **options):
    adam = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=9.0)
    set_rate(adam, 2.0, progress, torch.tensor(options.pop("factor", 1.0)), **options)
    return adam.param_groups[0]["lr"]


def test_the_rate_rises_to_its_height_and_falls_along_a_cosine_to_nothing():
    assert rate(0.0) == 0.0
    assert rate(0.015) == pytest.approx(1.0, rel=1e-2)
    assert rate(0.5) == pytest.approx(1.0)
    assert rate(0.25) == pytest.approx(1 + math.cos(math.pi / 4))
    assert rate(1.0) == pytest.approx(0.0)
    assert max(range(100), key=lambda n: rate(n / 100)) == 3


def test_a_factor_scales_it_all():
    assert rate(0.3, factor=0.25) == pytest.approx(rate(0.3) / 4)


def test_the_rise_is_as_long_as_asked():
    assert rate(0.1, warm_up=0.2) == pytest.approx(rate(0.1) / 2)
    assert rate(0.1, warm_up=0.1) == rate(0.1, warm_up=0.01)
