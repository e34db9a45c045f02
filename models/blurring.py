"""The Gaussian blur, which both spoils images and averages what is measured of them."""

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian(x_BCHW: Tensor, sigma: float, reach: int) -> Tensor:
    """Images under a Gaussian of deviation `sigma`, cut off `reach` pixels from its middle.

    Only windows that lie whole inside: float (B, C, H - 2 reach, W - 2 reach).
    """
    C = x_BCHW.shape[1]
    place = torch.arange(-reach, reach + 1, dtype=x_BCHW.dtype, device=x_BCHW.device)
    weight = (-(place**2) / (2 * sigma**2)).exp()
    weight = (weight / weight.sum()).expand(C, 1, 1, -1)
    return F.conv2d(F.conv2d(x_BCHW, weight, groups=C), weight.mT, groups=C)
