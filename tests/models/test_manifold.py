import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import manifold
from models.manifold import Manifold

REAL = torch.tensor([[0.0], [1.0], [10.0], [12.0], [50.0]])  # radii: 1, 1, 2, 2, 38


def test_balls_count_whom_they_hold_by_query_and_by_ball():
    by_query, by_ball, _ = Manifold.of(REAL, 1).tell(torch.tensor([[0.5], [11.0], [30.0], [-2.0]]))
    assert by_query.tolist() == [[2, 2, 1, 0]]
    assert by_ball.tolist() == [[1, 1, 1, 1, 1]]


def test_balls_of_several_k_are_each_those_of_their_own():
    rng = torch.Generator().manual_seed(0)
    rows, queries = torch.randn(23, 3, generator=rng), torch.randn(17, 3, generator=rng)
    both, alone = Manifold.of(rows, 3, 5), [Manifold.of(rows, k) for k in (3, 5)]
    for side in (0, 1):
        expected = torch.cat([each.tell(queries)[side] for each in alone])
        assert torch.equal(both.tell(queries)[side], expected)
        assert not torch.equal(*expected)
    assert torch.equal(both.tell(queries).realism_N, alone[0].tell(queries).realism_N)


def test_realism_is_the_largest_radius_over_distance_of_the_smaller_half_of_balls():
    found = Manifold.of(REAL, 1).tell(torch.tensor([[0.5], [3.0], [14.0], [40.0]])).realism_N
    # The ball of 50, wide because it is alone, is not trusted: 40 would lie well inside it.
    assert found.tolist() == pytest.approx([2.0, 0.5, 1.0, 2 / 28])


@given(st.integers(1, 9))
def test_blocks_change_nothing(size):
    rng = torch.Generator().manual_seed(size)
    rows, queries = torch.randn(23, 3, generator=rng), torch.randn(17, 3, generator=rng)
    whole = Manifold.of(rows, 3, 5)
    expected = whole.tell(queries)
    kept, manifold.BLOCK = manifold.BLOCK, size
    try:
        again = whole.tell(queries)
    finally:
        manifold.BLOCK = kept
    assert all(torch.equal(a, b) for a, b in zip(expected[:2], again[:2], strict=True))
    torch.testing.assert_close(expected.realism_N, again.realism_N)


def test_too_few_rows_for_a_ball_are_told():
    with pytest.raises(ValueError, match="5 nearest others of 5"):
        Manifold.of(REAL, 5)
