"""Conditions: what an image-conditioned family is shown of a real image, taken from it in preprocess.

A condition is an image itself (a sketch, the grey, the partner that the user gave), or a map, whose
pixels are ids; either is uint8 (1 or 3, H, W), of the size of the image, and stored as PNG.
"""

from typing import Any

import numpy as np

from tasks.params import PreprocessParams

ROUNDS = 10  # of k-means
BLUR = 1.0  # pixels; before edges are looked for, as Canny has it
WEIGHTS = (0.299, 0.587, 0.114)  # of red, green and blue in luminance (ITU-R BT.601)


def described(params: PreprocessParams) -> dict[str, Any] | None:
    """The condition's name, the channels that a family sees of it, and its ids if it is a map (else 0)."""
    if params.condition is None:
        return None
    ids = params.colours if params.condition == "colours" else params.mask.count if params.mask else 0
    channels = params.channels if params.condition == "paired" else 1
    return {"name": params.condition, "channels": ids or channels, "ids": ids}


def extract(image_CHW: np.ndarray, params: PreprocessParams) -> np.ndarray | None:
    """The condition of a uint8 image (1 or 3, H, W); None where it is not taken from the image itself."""
    if params.condition == "edges":
        return edges(image_CHW)
    if params.condition == "grey":
        return grey(image_CHW)
    if params.condition == "colours":
        return colours(image_CHW, params.colours)
    return None


def grey(image_CHW: np.ndarray) -> np.ndarray:
    """The luminance of an image: uint8 (1, H, W)."""
    if len(image_CHW) == 1:
        return image_CHW
    return np.round(np.tensordot(WEIGHTS, image_CHW, 1)).astype(np.uint8)[None]


def edges(image_CHW: np.ndarray) -> np.ndarray:
    """A sketch: white, and black where Canny (1986) finds an edge; uint8 (1, H, W).

    Its upper threshold is Otsu's on the strength of the gradient, the lower one is half of that: so each
    image has edges, whatever its contrast.
    """
    import cv2

    cv2.setNumThreads(1)
    smooth = cv2.GaussianBlur(grey(image_CHW)[0], (0, 0), BLUR)
    right, down = (cv2.Sobel(smooth, cv2.CV_16S, *step) for step in ((1, 0), (0, 1)))
    strength = np.abs(right.astype(np.int32)) + np.abs(down.astype(np.int32))
    scale = max(int(strength.max()), 1) / 255
    high, _ = cv2.threshold((strength / scale).astype(np.uint8), 0, 255, cv2.THRESH_OTSU)
    found = cv2.Canny(right, down, max(high, 1) * scale / 2, max(high, 1) * scale)
    return 255 - np.asarray(found, np.uint8)[None]


def colours(image_CHW: np.ndarray, count: int) -> np.ndarray:
    """A map of ids below `count`: each pixel's colour among the image's own, the darkest is 0.

    The colours come from k-means (Lloyd 1982), which starts at the `count` quantiles of luminance, so
    that one image has one map. uint8 (1, H, W).
    """
    pixels_ND = image_CHW.reshape(len(image_CHW), -1).T.astype(np.float64)
    light = np.array(WEIGHTS) if len(image_CHW) == 3 else np.ones(1)
    order_N = np.argsort(pixels_ND @ light, kind="stable")
    centres_KD = pixels_ND[order_N[((np.arange(count) + 0.5) * len(order_N) / count).astype(int)]]
    id_N = _nearest(pixels_ND, centres_KD)
    for _ in range(ROUNDS):
        before_N = id_N
        size_K = np.bincount(id_N, minlength=count)[:, None]
        sums_KD = np.stack([np.bincount(id_N, channel_N, count) for channel_N in pixels_ND.T], 1)
        centres_KD = np.where(size_K > 0, sums_KD / np.maximum(size_K, 1), centres_KD)
        id_N = _nearest(pixels_ND, centres_KD)
        if np.array_equal(id_N, before_N):
            break
    size_K = np.bincount(id_N, minlength=count)
    light_K = np.bincount(id_N, pixels_ND @ light, count) / np.maximum(size_K, 1)
    rank_K = np.argsort(np.argsort(np.where(size_K > 0, light_K, centres_KD @ light), kind="stable"))
    return rank_K[id_N].astype(np.uint8).reshape(1, *image_CHW.shape[1:])


def _nearest(pixels_ND: np.ndarray, centres_KD: np.ndarray) -> np.ndarray:
    # |p - c|^2 without |p|^2, which is the same for every centre.
    return ((centres_KD**2).sum(1) - 2 * np.einsum("nd,kd->nk", pixels_ND, centres_KD)).argmin(1)


def shown(condition_CHW: np.ndarray, ids: int) -> np.ndarray:
    """A condition to look at: an image as it is, a map's ids spread from black to white."""
    return condition_CHW if not ids else (condition_CHW.astype(np.int32) * 255 // (ids - 1)).astype(np.uint8)
