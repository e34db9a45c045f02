"""Judging images by their patches, as the families do that answer a condition.

PatchGAN (Isola et al. 2017, arXiv 1611.07004, section 3.2.2), and feature matching (Wang et al. 2018,
arXiv 1711.11585, eq. 2). Normalisation is by group, since a sample must not depend on its neighbours.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2  # of the leaky ReLUs
GROUPS = 8  # of normalisation


def convolution(c_in: int, c_out: int, normed: bool = True, stride: int = 1) -> nn.Sequential:
    """Convolution, normalisation, leaky ReLU; a stride of 2 halves the side."""
    layers: list[nn.Module] = [nn.Conv2d(c_in, c_out, 2 + stride, stride, padding=1)]
    if normed:
        layers.append(nn.GroupNorm(GROUPS, c_out))
    return nn.Sequential(*layers, nn.LeakyReLU(SLOPE))


class PatchDiscriminator(nn.Module):
    """Condition and image, `c_in` channels together, to a logit for each patch, with the features below it.

    It halves the side `layers` times: 1, 2 and 3 see patches of 12, 26 and 54 pixels a side.
    """

    def __init__(self, c_in: int, width: int, layers: int) -> None:
        super().__init__()
        widths = [width << n for n in range(layers + 1)]
        blocks = [convolution(c_in, widths[0], normed=False, stride=2)]
        blocks += [convolution(a, b, stride=2) for a, b in pairwise(widths[:-1])]
        self.blocks = nn.ModuleList([*blocks, convolution(widths[-2], widths[-1])])
        self.head = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, c_BCHW: Tensor, x_BCHW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Map conditions and images to logits (B, patches), higher for real ones, and features."""
        h_BCHW, found = torch.cat([c_BCHW, x_BCHW], dim=1), []
        for block in self.blocks:
            h_BCHW = block(h_BCHW)
            found.append(h_BCHW)
        return self.head(h_BCHW).flatten(1).float(), found


def feature_matching(seen: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """The mean L1 distance of a discriminator's features of made and of real images, layer by layer."""
    pairs = zip(seen, wanted, strict=True)
    return torch.stack([F.l1_loss(a.float(), b.float()) for a, b in pairs]).mean()
