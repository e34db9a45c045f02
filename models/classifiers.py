"""The two classifiers of the house, kept apart so that a filter never marks its own homework.

`Judge` scores samples and lends its features to every measure; `Probe` is the downstream classifier
that says what a dataset is worth. Their architectures differ on purpose: one is residual and pools
globally, the other is plain and keeps a coarse map.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEATURES = 128
WIDTH = 16  # of the probe's first convolution; each halving doubles it, up to eight times
SIZES = (8, 256)


def _check(channels: int, size: int, classes: int) -> None:
    if channels not in (1, 3):
        raise ValueError(f"classifiers take 1 or 3 channels, not {channels}")
    if not SIZES[0] <= size <= SIZES[1]:
        raise ValueError(f"classifiers take sizes {SIZES[0]} to {SIZES[1]}, not {size}")
    if classes < 2:
        raise ValueError(f"a classifier needs 2 classes or more, not {classes}")


class _Residual(nn.Module):
    """Pre-activation residual block (He et al. 2016, arXiv 1603.05027, fig. 4e); halves if stride is 2."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.skip = nn.Conv2d(c_in, c_out, 1, bias=False)
        self.shrink = nn.AvgPool2d(2, ceil_mode=True) if stride > 1 else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        h_BCHW = F.silu(self.norm1(x_BCHW))
        skip_BCHW = self.skip(self.shrink(h_BCHW))
        h_BCHW = self.conv2(F.silu(self.norm2(self.conv1(h_BCHW))))
        return skip_BCHW + h_BCHW


class Judge(nn.Module):
    """A small residual network whose 128 pooled features every measure is taken in.

    Args:
        channels: 1 or 3.
        size: pixels a side, 8 to 256.
        classes: 2 or more; 4 where it is trained to tell rotations instead (`rotate`).

    Raises:
        ValueError: an argument is out of these bounds.
    """

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        _check(channels, size, classes)
        stride = 2 if size >= 16 else 1
        halvings = max(1, (-(-size // stride) - 1).bit_length() - 2)
        widths = [max(16, FEATURES >> (halvings - i)) for i in range(halvings + 1)]
        self.stem = nn.Conv2d(channels, widths[0], 3, stride, padding=1, bias=False)
        self.blocks = nn.Sequential(
            _Residual(widths[0], widths[0], stride=1),
            *(_Residual(c_in, c_out, stride=2) for c_in, c_out in pairwise(widths)),
        )
        self.norm = nn.BatchNorm2d(FEATURES)
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Map images in [-1, 1] to class logits (B, K) and features (B, 128)."""
        h_BCHW = F.silu(self.norm(self.blocks(self.stem(x_BCHW))))
        features_BD = h_BCHW.mean((2, 3))
        return self.head(features_BD), features_BD


class Probe(nn.Module):
    """A plain network: convolution, batch norm, ReLU and max pooling, then one layer on a 3 x 3 map.

    Args:
        channels: 1 or 3.
        size: pixels a side, 8 to 256.
        classes: 2 or more.

    Raises:
        ValueError: an argument is out of these bounds.
    """

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        _check(channels, size, classes)
        halvings = max(2, (size // 3).bit_length() - 1)
        widths = [channels, *(WIDTH << min(i, 3) for i in range(halvings))]
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise(widths):
            layers += [
                nn.Conv2d(c_in, c_out, 3, padding=1, bias=False),
                nn.BatchNorm2d(c_out),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
        self.layers = nn.Sequential(
            *layers,
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(9 * widths[-1], classes),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map images in [-1, 1] to class logits (B, K)."""
        return self.layers(x_BCHW)


def rotate(x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Turn each image by 0, 90, 180 and 270 degrees: `(4B, C, H, W)`, and which turn it was `(4B,)`.

    Telling the turns apart is what the judge learns where there are no labels to learn (Gidaris et al.
    2018, arXiv 1803.07728). Raises ValueError if the images are not square.
    """
    if x_BCHW.shape[-1] != x_BCHW.shape[-2]:
        raise ValueError(f"only square images can be turned, not {x_BCHW.shape[-2]} x {x_BCHW.shape[-1]}")
    turned = [x_BCHW.rot90(k, (2, 3)) for k in range(4)]
    turn = torch.arange(4, device=x_BCHW.device).repeat_interleave(len(x_BCHW))
    return torch.cat(turned), turn


def shift(x_BCHW: Tensor, pixels: int) -> Tensor:
    """Move each image by its own whole offset of up to `pixels` a side, the edge's pixels repeated.

    Draws from torch's global CPU generator, so that a seed gives the same offsets on every device.
    """
    B, _, H, W = x_BCHW.shape
    padded = F.pad(x_BCHW, (pixels,) * 4, mode="replicate")
    corner_2B = torch.randint(0, 2 * pixels + 1, (2, B)).to(x_BCHW.device)
    rows_BH = corner_2B[0, :, None] + torch.arange(H, device=x_BCHW.device)
    columns_BW = corner_2B[1, :, None] + torch.arange(W, device=x_BCHW.device)
    batch_B = torch.arange(B, device=x_BCHW.device)
    picked_BHWC = padded[batch_B[:, None, None], :, rows_BH[:, :, None], columns_BW[:, None, :]]
    return picked_BHWC.permute(0, 3, 1, 2)
