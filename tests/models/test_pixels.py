import torch

from models.pixels import eight_bits


def test_every_grey_level_comes_back_and_what_lies_beyond_is_the_nearest():
    levels = torch.arange(256.0)
    assert torch.equal(eight_bits(levels / 127.5 - 1), levels)
    assert eight_bits(torch.tensor([-1.5, 1.2])).tolist() == [0, 255]
