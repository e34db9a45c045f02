import math

import numpy as np
import pytest
import torch

from models import measures as M


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def test_margin_and_entropy_against_closed_forms():
    probs = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [1.0, 0.0, 0.0], [1 / 3] * 3])
    label = torch.tensor([0, 1, 0, 2])
    assert M.margin(probs, label).tolist() == pytest.approx([0.5, -0.5, 1.0, 0.0], abs=1e-6)
    assert M.entropy(probs)[2:].tolist() == pytest.approx([0.0, math.log(3)], abs=1e-6)


def test_frechet_distance_of_gaussians_with_known_moments(rng):
    real = torch.randn(4000, 6, generator=rng)
    real = (real - real.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(real.T.cov()).T)
    scale = torch.tensor([0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
    fake = real * scale + 2.0
    expected = 6 * 4.0 + float(((scale - 1) ** 2).sum())
    assert M.frechet_distance(fake, real) == pytest.approx(expected, rel=1e-3)
    assert M.frechet_distance(real, real) == pytest.approx(0.0, abs=1e-6)


def test_kernel_distance_is_the_unbiased_estimate_written_out(rng):
    real, fake = torch.randn(30, 4, generator=rng), torch.randn(30, 4, generator=rng) + 1

    def k(a, b):
        return (a @ b.T / 4 + 1) ** 3

    own = [(k(t, t).sum() - k(t, t).trace()) / (30 * 29) for t in (real, fake)]
    expected = float(own[0] + own[1] - 2 * k(real, fake).mean())
    assert M.kernel_distance(fake, real)[0] == pytest.approx(expected, rel=1e-4)
    alike = torch.randn(2000, 4, generator=rng), torch.randn(2000, 4, generator=rng)
    assert abs(M.kernel_distance(*alike)[0]) < 0.02 < M.kernel_distance(alike[0] + 1, alike[1])[0]


def test_precision_falls_with_strays_and_recall_with_missing_modes(rng):
    real = torch.cat([torch.randn(100, 3, generator=rng), torch.randn(100, 3, generator=rng) + 50])
    half = torch.randn(200, 3, generator=rng) * 0.5
    precise, recalled, *_ = M.neighbourhood(half, real, k=5)
    assert precise.double().mean() > 0.95
    assert recalled.double().mean() <= 0.5
    assert not recalled[100:].any()
    strays = torch.cat([real, torch.randn(200, 3, generator=rng) - 300])
    precise, recalled, *_ = M.neighbourhood(strays, real)
    assert precise[:200].all()
    assert not precise[200:].any()
    assert recalled.all()
    for pair in ((half[:3], real), (half, real[:5])):
        with pytest.raises(ValueError, match="more than 3 fake rows and 5 real ones"):
            M.neighbourhood(*pair)


def test_density_and_coverage_by_hand():
    real = torch.tensor([[0.0], [1.0], [10.0], [12.0]])  # radii to the nearest other: 1, 1, 2, 2
    fake = torch.tensor([[0.5], [11.0], [30.0], [0.0]])
    # Balls around: 0.5 lies in two, 11 in two, 30 in none, 0 in two (at the very edge of the second's).
    *_, density, covered = M.neighbourhood(fake, real, k=1, dense=1)
    assert density.tolist() == [2, 2, 0, 2]
    assert covered.all()
    # To the second nearest other: 10, 9, 9, 11, of which 0.5 and 11 lie in two each.
    *_, density, covered = M.neighbourhood(fake[:3], real, k=1, dense=2)
    assert density.tolist() == [1, 1, 0]
    assert covered.all()
    assert not M.neighbourhood(fake[2:3].expand(2, 1), real, k=1, dense=1)[3].any()


def test_inception_score_from_one_to_the_number_of_classes():
    sure, unsure = torch.eye(4), torch.full((4, 4), 0.25)
    assert M.inception_score(sure) == pytest.approx(4)
    assert M.inception_score(unsure) == pytest.approx(1)
    assert M.inception_score(sure[:1].expand(8, -1)) == pytest.approx(1)


def test_balance_is_one_for_even_classes_and_zero_for_a_single_one():
    assert M.balance(torch.arange(12) % 3, 3) == pytest.approx(1)
    assert M.balance(torch.zeros(5, dtype=torch.int64), 3) == pytest.approx(0)
    assert M.balance(torch.tensor([0, 0, 0, 1]), 2) == pytest.approx(0.8112781)


def test_moments_are_numpys(rng):
    rows = torch.randn(5000, 4, generator=rng)
    mean, covariance = M.moments(rows)
    assert mean == pytest.approx(rows.double().numpy().mean(0))
    assert covariance == pytest.approx(np.cov(rows.double().numpy(), rowvar=False))


def test_the_numbers_are_those_of_torch_fidelity_on_the_same_features(rng):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    real, fake = torch.randn(900, 16, generator=rng), torch.randn(700, 16, generator=rng) * 1.2 + 0.3
    fid = fid_statistics_to_metric(*map(fid_features_to_statistics, (fake, real)), verbose=False)
    assert M.frechet_distance(fake, real) == pytest.approx(fid["frechet_inception_distance"], rel=1e-3)
    options = {"kid_subset_size": 600, "kid_subsets": 50, "rng_seed": 0, "verbose": False}
    kid = kid_features_to_metric(fake.double(), real.double(), **options)
    mean, std = M.kernel_distance(fake, real, 600)
    assert mean == pytest.approx(kid["kernel_inception_distance_mean"], rel=1e-3)
    assert std == pytest.approx(kid["kernel_inception_distance_std"], rel=1e-3)
    options = {"prc_neighborhood": 3, "prc_batch_size": 1000, "save_cpu_ram": False, "verbose": False}
    prc = prc_features_to_metric(fake.double(), real.double(), **options)
    precise, recalled, *_ = M.neighbourhood(fake, real)
    assert float(precise.double().mean()) == pytest.approx(prc["precision"], rel=1e-3)
    assert float(recalled.double().mean()) == pytest.approx(prc["recall"], rel=1e-3)
    logits = torch.randn(600, 10, generator=rng) * 2
    isc = isc_features_to_metric(logits, splits=1)
    assert M.inception_score(logits.softmax(1)) == pytest.approx(isc["inception_score_mean"], rel=1e-3)
