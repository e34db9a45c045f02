import math

import torch

from models.blurring import gaussian


def test_a_point_becomes_the_bell_and_the_sum_stays():
    x = torch.zeros(1, 2, 11, 11)
    x[0, :, 5, 5] = 1
    found = gaussian(x, 1.5, 3)
    assert found.shape == (1, 2, 5, 5)
    assert torch.equal(found[0, 0], found[0, 1])
    ratio = math.exp(-1 / (2 * 1.5**2))
    torch.testing.assert_close(found[0, 0, 2, 3] / found[0, 0, 2, 2], torch.tensor(ratio))
    torch.testing.assert_close(found[0, 0, 3, 3] / found[0, 0, 2, 2], torch.tensor(ratio**2))
    torch.testing.assert_close(gaussian(torch.ones(1, 1, 9, 9), 2.0, 4), torch.ones(1, 1, 1, 1))
