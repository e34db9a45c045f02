"""What an image looks like whatever it shows: light, contrast, focus. Tensors in, one number an image out."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

PIXELS = 2**22  # measured at once
FLAT = 4.0  # grey levels within which neighbouring pixels count as one plain area


def appearance(x_NCHW: Tensor) -> dict[str, Tensor]:
    """Measure uint8 images (N, C, H, W), in grey: float32 (N,) each.

    sharpness: variance of the Laplacian over the variance of the grey, 0 and up: low where an image is
        blurred, high where it is noise, whatever its contrast (Pech-Pacheco et al. 2000, but for the ratio).
    brightness, contrast: mean and standard deviation of the grey, over 255.
    blank: share of pixels that differ from none of their eight neighbours by more than 4 grey levels.
    saturated: share of values that are 0 or 255.
    """
    parts = [
        _appearance(x_BCHW)
        for x_BCHW in x_NCHW.split(max(1, PIXELS // x_NCHW[0].numel()) if len(x_NCHW) else 1)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _appearance(x_BCHW: Tensor) -> dict[str, Tensor]:
    grey_B1HW = x_BCHW.float().mean(1, keepdim=True)
    centre = grey_B1HW[..., 1:-1, 1:-1]
    around = grey_B1HW[..., :-2, 1:-1] + grey_B1HW[..., 2:, 1:-1]
    around = around + grey_B1HW[..., 1:-1, :-2] + grey_B1HW[..., 1:-1, 2:]
    laplacian_BD = (around - 4 * centre).flatten(1)
    grey_BD = grey_B1HW.flatten(1)
    variance_B = grey_BD.var(1, correction=0)
    low, high = _around(grey_B1HW, torch.minimum), _around(grey_B1HW, torch.maximum)
    apart_BD = torch.maximum(high - grey_B1HW, grey_B1HW - low).flatten(1)
    return {
        "sharpness": laplacian_BD.var(1, correction=0) / variance_B.clamp(min=1.0),
        "brightness": grey_BD.mean(1) / 255,
        "contrast": variance_B.sqrt() / 255,
        "blank": (apart_BD <= FLAT).float().mean(1),
        "saturated": ((x_BCHW == 0) | (x_BCHW == 255)).flatten(1).float().mean(1),
    }


def _around(x_B1HW: Tensor, chosen: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """What is chosen of each 3 x 3 pixels: one axis after the other, which is faster than a pooling layer."""
    x_B1HW = F.pad(x_B1HW, (1, 1, 1, 1), "replicate")
    x_B1HW = chosen(chosen(x_B1HW[..., :-2, :], x_B1HW[..., 1:-1, :]), x_B1HW[..., 2:, :])
    return chosen(chosen(x_B1HW[..., :-2], x_B1HW[..., 1:-1]), x_B1HW[..., 2:])
