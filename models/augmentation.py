"""Standard augmentation, a batch at a time: the rival that synthetic images have to beat.

All draws come from torch's global CPU generator, one per image and transform, so that a seed gives
the same images on every device.
"""

import math
from collections.abc import Callable, Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

SHIFT = 0.1  # share of a side
TURN = 15.0  # degrees
ZOOM = 0.15
ERASED = (0.02, 0.2)  # share of the area
ASPECT = 3.0
COLOUR = 0.2


def augmented(x_BCHW: Tensor, names: Sequence[str]) -> Tensor:
    """Change each image in [-1, 1] by its own draw of every named transform; the shape stays.

    Shift, rotate and scale are one warp, so that an image is interpolated once. Raises KeyError for a
    name that is neither in WARPS nor in CHANGES.
    """
    moves = [WARPS[name](len(x_BCHW)) for name in names if name not in CHANGES]
    if moves:
        x_BCHW = warped(x_BCHW, reduce(torch.matmul, moves))
    for name in names:
        if name in CHANGES:
            x_BCHW = CHANGES[name](x_BCHW)
    return x_BCHW


def warped(x_BCHW: Tensor, move_B33: Tensor) -> Tensor:
    """Look each pixel up where the matrix sends it (x, y in [-1, 1]); beyond the edge its pixels repeat."""
    grid_BHW2 = F.affine_grid(move_B33[:, :2].to(x_BCHW), list(x_BCHW.shape), align_corners=False)
    return F.grid_sample(x_BCHW, grid_BHW2, padding_mode="border", align_corners=False)


def shift(count: int) -> Tensor:
    """(B, 3, 3): by up to a tenth of a side along each axis."""
    move_B33 = torch.eye(3).repeat(count, 1, 1)
    move_B33[:, :2, 2] = 2 * SHIFT * _either(count, 2)
    return move_B33


def rotate(count: int) -> Tensor:
    """(B, 3, 3): about the centre by up to 15 degrees either way."""
    angle_B = math.radians(TURN) * _either(count)
    move_B33 = torch.eye(3).repeat(count, 1, 1)
    move_B33[:, 0, 0] = move_B33[:, 1, 1] = angle_B.cos()
    move_B33[:, 1, 0] = angle_B.sin()
    move_B33[:, 0, 1] = -angle_B.sin()
    return move_B33


def scale(count: int) -> Tensor:
    """(B, 3, 3): larger or smaller by up to 15 %, each axis by its own factor."""
    factor_B2 = 1 + ZOOM * _either(count, 2)
    return torch.cat([1 / factor_B2, torch.ones(count, 1)], 1).diag_embed()


def erase(x_BCHW: Tensor) -> Tensor:
    """Fill a rectangle of half of the images with their mean (Zhong et al. 2020, arXiv 1708.04896)."""
    B, _, H, W = x_BCHW.shape
    low, high = ERASED
    area_B, aspect_B = low + (high - low) * torch.rand(B), ASPECT ** _either(B)
    side_B2 = (torch.stack([area_B * aspect_B, area_B / aspect_B], 1)).sqrt().clamp(max=1.0)
    start_B2 = (1 - side_B2) * torch.rand(B, 2)
    rows_BH, columns_BW = (
        (at >= start_B2[:, n, None]) & (at < (start_B2 + side_B2)[:, n, None])
        for n, at in enumerate((_centres(H), _centres(W)))
    )
    hit_B = torch.rand(B) < 0.5
    hole_B1HW = (rows_BH[:, :, None] & columns_BW[:, None] & hit_B[:, None, None])[:, None]
    return torch.where(hole_B1HW.to(x_BCHW.device), x_BCHW.mean((2, 3), keepdim=True), x_BCHW)


def flip(x_BCHW: Tensor) -> Tensor:
    """Mirror half of the images left to right."""
    hit_B = (torch.rand(len(x_BCHW)) < 0.5).to(x_BCHW.device)
    return torch.where(hit_B[:, None, None, None], x_BCHW.flip(3), x_BCHW)


def colour(x_BCHW: Tensor) -> Tensor:
    """Change brightness, contrast and, of colour images, saturation by up to 20 %."""
    shade_B3 = COLOUR * _either(len(x_BCHW), 3).to(x_BCHW)[:, :, None, None, None]
    lightness, contrast, saturation = shade_B3.unbind(1)
    grey_B1HW = x_BCHW.mean(1, keepdim=True)
    x_BCHW = grey_B1HW + (1 + saturation) * (x_BCHW - grey_B1HW)
    mean_B111 = x_BCHW.mean((1, 2, 3), keepdim=True)
    return (mean_B111 + (1 + contrast) * (x_BCHW - mean_B111) + lightness).clamp(-1, 1)


def _either(*shape: int) -> Tensor:
    """Uniform in [-1, 1), from the global CPU generator."""
    return 2 * torch.rand(*shape) - 1


def _centres(side: int) -> Tensor:
    """Where the centres of a side's pixels lie in [0, 1]."""
    return (torch.arange(side) + 0.5) / side


WARPS: dict[str, Callable[[int], Tensor]] = {"shift": shift, "rotate": rotate, "scale": scale}
CHANGES: dict[str, Callable[[Tensor], Tensor]] = {"erase": erase, "flip": flip, "colour": colour}
