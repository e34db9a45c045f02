"""The discretised logistic: its mass, and what it keeps of it where both tails are flat."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.logistic import log_logistic

LEVELS = torch.arange(256, dtype=torch.float64) * 2 / 255 - 1


@settings(deadline=None)  # a busy machine stalls
@given(mean=st.floats(-1.5, 1.5), log_scale=st.floats(-7, 2))
def test_logistic_mass_is_shared_among_the_256_levels(mean, log_scale):
    mean, log_scale = torch.tensor(mean).double(), torch.tensor(log_scale).double()
    mass = log_logistic(LEVELS, mean, log_scale).exp()
    assert float(mass.sum()) == pytest.approx(1, abs=1e-9)
    edges = ((LEVELS[:-1] + LEVELS[1:]) / 2 - mean) / log_scale.exp()
    below = torch.cat([torch.zeros(1).double(), edges.sigmoid(), torch.ones(1).double()])
    torch.testing.assert_close(mass, below.diff(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("log_scale", [-6.0, -3.0, 2.0])
def test_logistic_mass_and_slope_are_numbers_however_wrong_the_mean(log_scale):
    mean = torch.linspace(-1, 1, 9)[:, None].repeat(1, 256).requires_grad_()
    scale = torch.tensor(log_scale, requires_grad=True)
    nats = log_logistic(LEVELS.float(), mean, scale)
    assert torch.isfinite(nats).all()
    exact = log_logistic(LEVELS.float().double(), mean.double(), scale.double())
    torch.testing.assert_close(nats.double(), exact, rtol=1e-3, atol=1e-3)
    nats.sum().backward()
    assert torch.isfinite(mean.grad).all()
    assert torch.isfinite(scale.grad)
