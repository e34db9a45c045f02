"""The mixture against Gaussians that are known."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from models.mixture import fit_mixture

CENTRES = torch.tensor([[-6.0, 2.0], [5.0, -3.0]], dtype=torch.float64)
SPREADS = torch.tensor([[[1.0, 0.0], [0.6, 0.5]], [[0.7, 0.0], [-0.9, 1.2]]], dtype=torch.float64)
SHARES = torch.tensor([0.25, 0.75], dtype=torch.float64)


def clouds(count=4_000, var=0.1):
    """Points of the two Gaussians, the diagonal variance taken off their means and given beside them."""
    torch.manual_seed(4)
    cov = SPREADS @ SPREADS.mT - var * torch.eye(2).double()
    which = (torch.rand(count) < SHARES[1]).long()
    draws = MultivariateNormal(CENTRES[which], cov[which]).sample()
    return draws, torch.full((count, 2), var, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(4))
def test_mixture_finds_two_gaussians_that_stand_apart(seed):
    draws, var = clouds()
    torch.manual_seed(seed)
    share, centre, spread = fit_mixture(draws, var, 2)
    order = centre[:, 0].argsort()
    torch.testing.assert_close(share[order], SHARES, atol=0.03, rtol=0)
    torch.testing.assert_close(centre[order], CENTRES, atol=0.1, rtol=0)
    cov = (spread @ spread.mT)[order]
    torch.testing.assert_close(cov, SPREADS @ SPREADS.mT, atol=0.15, rtol=0)
    assert not spread.triu(1).any()


def test_mixture_of_one_is_the_moments_of_all_clouds():
    draws, var = clouds()
    share, centre, spread = fit_mixture(draws, var, 1)
    assert share.tolist() == [1.0]
    torch.testing.assert_close(centre[0], draws.mean(0))
    whole = draws.T.cov(correction=0) + torch.diag(var[0])
    keep = 4_000 / 4_002
    expected = keep * whole + (1 - keep) * torch.diag(whole.diagonal())
    torch.testing.assert_close(spread[0] @ spread[0].T, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 7, 20])
def test_mixture_of_few_clouds_leaves_the_rest_without_a_share(count):
    torch.manual_seed(5)
    mean, var = torch.randn(count, 6), torch.rand(count, 6) + 0.1
    share, centre, spread = fit_mixture(mean, var, 8)
    used = max(1, count // 8)
    assert share.shape == (8,)
    assert centre.shape == (8, 6)
    assert float(share.sum()) == pytest.approx(1)
    assert not share[used:].any()
    assert (share[:used] > 0).all()
    assert torch.isfinite(spread).all()
    assert (spread.diagonal(dim1=1, dim2=2) > 0).all()
    if count == 1:
        torch.testing.assert_close(centre[0], mean[0].double())
        torch.testing.assert_close(spread[0], torch.diag((var[0].double() + 1e-6).sqrt()))


def test_equal_clouds_do_not_break_the_mixture():
    share, centre, spread = fit_mixture(torch.ones(40, 3), torch.zeros(40, 3), 4)
    assert torch.isfinite(share).all()
    torch.testing.assert_close(share @ centre, torch.ones(3).double(), rtol=0, atol=1e-5)
    assert (spread.diagonal(dim1=1, dim2=2) > 0).all()
