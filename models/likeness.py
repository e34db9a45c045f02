"""Is one image another one again? What is the same under small changes, in pixels.

A copy that was shifted by a pixel, mirrored, saved again, made brighter or a little noisy is still a
copy, and features that were learned for classes may miss it. So a signature proposes, and pixels decide.
Images are compared as thumbnails, so that size costs nothing.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 32  # of a thumbnail, at most
FREQUENCIES = 6  # of a signature, along each axis
COARSE = 8  # pixels a side, for a first look
FLOOR = 8.0  # grey levels of deviation below which contrast is not stretched: it would be noise
AVERAGED = 14  # pixels a side, from which 2 x 2 are averaged
SHIFTS = (-1, 0, 1)  # pixels of a thumbnail, along each axis
CHUNK = 1024
FEW = 64  # of images that may be large, or of pairs, whose every shift is held at once


class Sketch(NamedTuple):
    """What images are compared by: `thumbnails`, `signature` and `rough` of them, a row an image."""

    thumbs_NCHW: Tensor
    signatures_NF: Tensor
    looks_ND: Tensor


def sketch(x_NCHW: Tensor) -> Sketch:
    """Sketch uint8 images (N, C, H, W)."""
    thumbs_NCHW = thumbnails(x_NCHW)
    return Sketch(thumbs_NCHW, signature(thumbs_NCHW), rough(thumbs_NCHW))


def thumbnails(x_NCHW: Tensor) -> Tensor:
    """uint8 images made smaller by averaging where a side exceeds 32 pixels: uint8 (N, C, h, w)."""
    sides = min(SIDE, x_NCHW.shape[2]), min(SIDE, x_NCHW.shape[3])
    if sides == tuple(x_NCHW.shape[2:]):
        return x_NCHW
    parts = [
        F.adaptive_avg_pool2d(x_BCHW.float(), sides).round().to(torch.uint8) for x_BCHW in x_NCHW.split(FEW)
    ]
    return torch.cat(parts)


def signature(thumbs_NCHW: Tensor) -> Tensor:
    """(N, 66) float32 of unit length, the same for an image shifted round its edges, mirrored or lit anew.

    The spectrum's magnitudes do not know where an image lies, and averaged over the sign of the
    horizontal frequency they do not know its mirror image either.
    """
    if not len(thumbs_NCHW):
        return torch.zeros(0, (2 * FREQUENCIES - 1) * FREQUENCIES)
    found = []
    for x_BCHW in thumbs_NCHW.split(CHUNK):
        spectrum_BHW = torch.fft.fft2(x_BCHW.float().mean(1), norm="ortho").abs()
        H, W = spectrum_BHW.shape[1:]
        rows = torch.arange(-FREQUENCIES + 1, FREQUENCIES) % H
        columns = torch.arange(FREQUENCIES) % W
        right, left = (spectrum_BHW[:, rows][:, :, c] for c in (columns, -columns % W))
        low_BF = ((right + left) / 2).flatten(1)
        low_BF[:, (FREQUENCIES - 1) * FREQUENCIES] = 0  # the mean grey
        found.append(F.normalize(low_BF, dim=1, eps=1e-3))
    return torch.cat(found)


def rough(thumbs_NCHW: Tensor) -> Tensor:
    """(N, 64) float32: each thumbnail in 8 x 8 grey pixels, light and contrast taken out."""
    parts = [F.adaptive_avg_pool2d(x.float().mean(1, keepdim=True), COARSE) for x in thumbs_NCHW.split(CHUNK)]
    return torch.cat([_plain(part) for part in parts])


def rough_residual(a_ND: Tensor, b_NkD: Tensor) -> Tensor:
    """(N, k): a first look at `residual`, of what `rough` made; `b` are k images for each in `a`."""
    mirrored_ND = a_ND.unflatten(1, (COARSE, COARSE)).flip(2).flatten(1)
    apart_N2k = torch.cdist(torch.stack([a_ND, mirrored_ND], 1), b_NkD)
    return apart_N2k.amin(1) / COARSE


def residual(a_PCHW: Tensor, b_PCHW: Tensor) -> Tensor:
    """How much of each uint8 thumbnail in `a` the one in `b` does not explain: (P,) float32, 0 and up.

    The root mean square difference after light and contrast are taken out, at the best of the shifts by
    up to a pixel and of the mirror image: 0 for a copy; for strangers sqrt(2 - 2 r), r being their
    correlation. Above 15 pixels a side, 2 x 2 are averaged first, so that noise counts for less.
    """
    found = [_residual(*pair) for pair in zip(a_PCHW.split(FEW), b_PCHW.split(FEW), strict=True)]
    return torch.cat(found)


def _residual(a_BCHW: Tensor, b_BCHW: Tensor) -> Tensor:
    H, W = (side - 2 for side in a_BCHW.shape[2:])
    step = 2 if min(H, W) >= AVERAGED else 1
    a_BCHW, b_BCHW = (_averaged(x.float(), step) for x in (a_BCHW, b_BCHW))
    core_BD = _plain(a_BCHW[..., 1 : H + 2 - step : step, 1 : W + 2 - step : step])
    starts = [1 + shift for shift in SHIFTS]
    seen = [
        x_BCHW[..., down : down + H + 1 - step : step, right : right + W + 1 - step : step]
        for x_BCHW in (b_BCHW, b_BCHW.flip(3))
        for down in starts
        for right in starts
    ]
    views_VBD = _plain(torch.cat(seen)).unflatten(0, (len(seen), -1))
    return (core_BD - views_VBD).square().mean(2).amin(0).sqrt()


def _averaged(x_BCHW: Tensor, step: int) -> Tensor:
    """The mean of each `step` x `step` pixels, wherever they start."""
    if step == 1:
        return x_BCHW
    x_BCHW = x_BCHW[..., :-1, :] + x_BCHW[..., 1:, :]
    return (x_BCHW[..., :-1] + x_BCHW[..., 1:]).div_(4)


def _plain(x_BCHW: Tensor) -> Tensor:
    """Flat, of mean 0 and deviation 1 (less where there is hardly any contrast)."""
    x_BD = x_BCHW.flatten(1)
    x_BD = x_BD - x_BD.mean(1, keepdim=True)
    return x_BD / x_BD.square().mean(1, keepdim=True).sqrt().clamp(min=FLOOR)
