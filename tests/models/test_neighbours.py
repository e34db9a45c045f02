import pytest
import torch

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
