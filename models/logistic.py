"""The discretised logistic distribution, the likelihood of grey levels that two families share."""

import torch
import torch.nn.functional as F
from torch import Tensor


def log_logistic(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """ln of a logistic's mass on x's grey level, of 256 in [-1, 1], elementwise.

    Salimans et al. 2017, arXiv 1701.05517, eq. 1 and 2. The end levels also hold all that lies beyond.
    """
    inverse, half = (-log_scale).exp(), 1 / 255
    above, below = (x - mean + half) * inverse, (x - mean - half) * inverse
    low, high = F.logsigmoid(above), F.logsigmoid(-below)
    # s(a) - s(b) = s(a) s(-b) (1 - e^(b - a)), which keeps its digits where both tails are flat.
    between = low + high + torch.log(-torch.expm1(below - above))
    return torch.where(x < -1 + half, low, torch.where(x > 1 - half, high, between))
