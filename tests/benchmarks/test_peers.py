import pytest

from benchmarks import peers
from models.families import Spec
from tasks.errors import UserError


def test_a_peer_has_about_as_many_parameters():
    sizes = [{"width": w} for w in (16, 32, 48)]
    assert peers.match(1_000, sizes, lambda c: c["width"] ** 2) == {"width": 32}
    with pytest.raises(UserError, match="no network"):
        peers.match(5_000, sizes, lambda c: c["width"] ** 2)


@pytest.mark.parametrize(("side", "levels"), [(28, 3), (32, 4), (8, 2)])
def test_a_peer_halves_sides_without_padding(side, levels):
    config = next(peers.unets(Spec(1, side, side, 10)))
    assert len(config["block_out_channels"]) == len(config["up_block_types"]) == levels
