import math

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


def test_nearest_is_exact_sorted_and_blind_to_the_batch(rng):
    base, queries = torch.randn(200, 16, generator=rng) + 100, torch.randn(50, 16, generator=rng) + 100
    base[7] = queries[3]
    distance, index = M.nearest(queries, base, 4)
    truth, order = torch.cdist(queries.double(), base.double()).sort(dim=1)
    assert torch.equal(index, order[:, :4])
    torch.testing.assert_close(distance, truth[:, :4].float())
    assert (index[3, 0], distance[3, 0]) == (7, 0.0)
    alone = M.nearest(queries[3:5], base, 4)
    assert torch.equal(alone[0], distance[3:5])
    with pytest.raises(ValueError, match="201 nearest of 200"):
        M.nearest(queries, base, 201)


def test_nearest_other_leaves_out_the_row_itself_but_not_its_copies():
    rows = torch.tensor([[0.0], [0.0], [0.0], [3.0], [7.0]])
    distance, index = M.nearest_other(rows, 1)
    assert distance[:, 0].tolist() == [0, 0, 0, 3, 4]
    assert (index[:, 0] != torch.arange(5)).all()
    with pytest.raises(ValueError, match="5 nearest others of 5"):
        M.nearest_other(rows, 5)


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
    assert M.kernel_distance(fake, real) == pytest.approx(expected, rel=1e-4)
    alike = torch.randn(2000, 4, generator=rng), torch.randn(2000, 4, generator=rng)
    assert abs(M.kernel_distance(*alike)) < 0.02 < M.kernel_distance(alike[0] + 1, alike[1])


def test_precision_falls_with_strays_and_recall_with_missing_modes(rng):
    real = torch.cat([torch.randn(100, 3, generator=rng), torch.randn(100, 3, generator=rng) + 50])
    half = torch.randn(200, 3, generator=rng) * 0.5
    precision, recall = M.precision_recall(half, real, k=5)
    assert precision > 0.95
    assert recall <= 0.5
    strays = torch.cat([real, torch.randn(200, 3, generator=rng) - 300])
    assert M.precision_recall(strays, real) == (0.5, 1.0)


def test_density_and_coverage_by_hand():
    real = torch.tensor([[0.0], [1.0], [10.0], [12.0]])  # radii to the nearest other: 1, 1, 2, 2
    fake = torch.tensor([[0.5], [11.0], [30.0], [0.0]])
    # Balls around: 0.5 lies in two, 11 in two, 30 in none, 0 in two (at the very edge of the second's).
    density, coverage = M.density_coverage(fake, real, k=1)
    assert density == pytest.approx(6 / 4)
    assert coverage == 1.0
    assert M.density_coverage(fake[2:3], real, k=1) == (0.0, 0.0)
    # To the second nearest other: 10, 9, 9, 11, of which 0.5 and 11 lie in two each.
    assert M.density_coverage(fake[:3], real, k=2) == (pytest.approx(4 / (2 * 3)), 1.0)


def test_all_set_measures_together_and_none_where_rows_are_too_few(rng):
    real, fake = torch.randn(100, 8, generator=rng), torch.randn(80, 8, generator=rng)
    found = M.set_measures(fake, real)
    assert found == M.set_measures(fake.clone(), real.clone())
    assert (found["precision"], found["recall"]) == M.precision_recall(fake, real)
    assert all(math.isfinite(v) for v in found.values())
    assert set(M.set_measures(fake[:5], real).values()) == {None}
