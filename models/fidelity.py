"""How near an image comes to the one that it should be, or was made from: one number a pair.

Peak signal-to-noise ratio, structural similarity (Wang et al. 2004, "Image quality assessment: from
error visibility to structural similarity"), and the perceptual distance of `models/features.py`.
"""

import torch
from torch import Tensor

from models import features
from models.blurring import gaussian

MEASURES = ("psnr", "ssim", "perceptual_distance")

WINDOW, SIGMA = 11, 1.5  # of the Gaussian weights that SSIM averages with (section III.C)
K1, K2 = 0.01, 0.03
MOST = 100.0  # decibels: what equal images are given
PIXELS = 2**20  # compared at once


def psnr(x_BCHW: Tensor, y_BCHW: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of pairs of uint8 images (B,): 10 lg(255^2 / MSE) decibels, 100 at most."""
    error_B = (x_BCHW.double() - y_BCHW.double()).square().mean((1, 2, 3))
    return (10 * (255**2 / error_B).log10()).clamp(max=MOST).float()


def ssim(x_BCHW: Tensor, y_BCHW: Tensor) -> Tensor:
    """Structural similarity of pairs of uint8 images (B,), at most 1 (Wang et al. 2004, eq. 13 and 17).

    Each channel by itself, over the windows that lie whole inside the image, which are smaller than 11
    pixels a side where the image is.
    """
    x_BCHW, y_BCHW = x_BCHW.double(), y_BCHW.double()
    c1, c2 = (K1 * 255) ** 2, (K2 * 255) ** 2
    mean_x, mean_y = _blurred(x_BCHW), _blurred(y_BCHW)
    var_x = _blurred(x_BCHW**2) - mean_x**2
    var_y = _blurred(y_BCHW**2) - mean_y**2
    covariance = _blurred(x_BCHW * y_BCHW) - mean_x * mean_y
    light = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (light * structure).mean((1, 2, 3)).float()


def _blurred(x_BCHW: Tensor) -> Tensor:
    return gaussian(x_BCHW, SIGMA, (min(WINDOW, *x_BCHW.shape[2:]) - 1) // 2)


@torch.no_grad()
def fidelity(x_NCHW: Tensor, y_NCHW: Tensor, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Every measure of pairs of uint8 images: float32 (N,) each, on the CPU.

    perceptual_distance is left out where the packages of the extra `features` are not installed.
    """
    found: dict[str, list[Tensor]] = {"psnr": [], "ssim": []}
    if not features.missing():
        found["perceptual_distance"] = []
    size = max(1, PIXELS // max(x_NCHW[:1].numel(), 1))
    for pair in zip(x_NCHW.split(size), y_NCHW.split(size), strict=True):
        x_BCHW, y_BCHW = (each.to(device) for each in pair)
        found["psnr"].append(psnr(x_BCHW, y_BCHW))
        found["ssim"].append(ssim(x_BCHW, y_BCHW))
        if "perceptual_distance" in found:
            scaled = (each.float() / 127.5 - 1 for each in (x_BCHW, y_BCHW))
            found["perceptual_distance"].append(features.perceptual_distance(*scaled))
    return {name: torch.cat(parts).cpu() if parts else torch.zeros(0) for name, parts in found.items()}
