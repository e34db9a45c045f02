import pytest
import torch

from models import neighbours
from models.neighbours import nearest, nearest_other


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


def test_nearest_is_exact_sorted_and_blind_to_the_batch(rng):
    base, queries = torch.randn(200, 16, generator=rng) + 100, torch.randn(50, 16, generator=rng) + 100
    base[7] = queries[3]
    distance, index = nearest(queries, base, 4)
    truth, order = torch.cdist(queries.double(), base.double()).sort(dim=1)
    assert torch.equal(index, order[:, :4])
    torch.testing.assert_close(distance, truth[:, :4].float())
    assert (index[3, 0], distance[3, 0]) == (7, 0.0)
    alone = nearest(queries[3:5], base, 4)
    assert torch.equal(alone[0], distance[3:5])
    with pytest.raises(ValueError, match="201 nearest of 200"):
        nearest(queries, base, 201)


def test_nearest_other_leaves_out_the_row_itself_but_not_its_copies():
    rows = torch.tensor([[0.0], [0.0], [0.0], [3.0], [7.0]])
    distance, index = nearest_other(rows, 1)
    assert distance[:, 0].tolist() == [0, 0, 0, 3, 4]
    assert (index[:, 0] != torch.arange(5)).all()
    with pytest.raises(ValueError, match="5 nearest others of 5"):
        nearest_other(rows, 5)


def test_a_large_sets_nearest_others_are_looked_for_in_cells_and_no_repeat_is_lost(rng, monkeypatch):
    base = torch.randn(2_000, 24, generator=rng)
    rows = torch.cat([base, base[:1_000] + 0.05 * torch.randn(1_000, 24, generator=rng)])
    truth, exact = nearest_other(rows, 2)
    monkeypatch.setattr(neighbours, "EXACT", 700)
    distance, index = nearest_other(rows, 2)
    same = index[:, 0] == exact[:, 0]
    assert same[:1_000].double().mean() >= 0.99  # has a repeat
    assert same[2_000:].double().mean() >= 0.99  # is one
    assert 0.6 < same[1_000:2_000].double().mean() < 1  # among strangers alone, where cells cut
    assert torch.equal(distance[same, 0], truth[same, 0])
    assert (distance >= truth).all()
    assert (index != torch.arange(len(rows))[:, None]).all()
    assert all(torch.equal(*pair) for pair in zip(nearest_other(rows, 2), (distance, index), strict=True))


@pytest.mark.parametrize("kinds", [1, 3, 40])
def test_a_large_set_that_fell_together_is_searched_all_the_same(kinds, monkeypatch):
    rows = torch.arange(300)[:, None].remainder(kinds).float().expand(-1, 2)
    monkeypatch.setattr(neighbours, "EXACT", 100)
    monkeypatch.setattr(neighbours, "PROBES", 1)
    distance, index = nearest_other(rows, 9)
    if kinds < 40:
        assert (distance == 0).all()
    assert (distance[:, :6] == 0).all()
    assert (index >= 0).all()
    assert all(len(set(line)) == 9 for line in index.tolist())
