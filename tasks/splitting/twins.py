"""Near-duplicates: a hash proposes pairs, and the pixels must agree.

On small grey images a perceptual hash alone groups far too much (a quarter of `digits`), so it
only saves comparing all with all.
"""

from collections.abc import Callable, Iterator

import numpy as np

# Eight short hashes of each image, each with other limits: one bit that noise turned spoils one.
BANDS = 8
# How far two images of the same scene may be apart in average grey.
BRIGHTNESS = 32
# Contrast below this many grey levels is not stretched: it would make twins of noise.
FLOOR = 8.0
# Root mean square difference after normalising: a correlation of 0.99. The closest strangers
# reach 0.98 in mnist5k and in CIFAR-10; an image saved again as JPEG of quality 75, 0.998. The
# mean absolute difference would not tell them apart where most of an image is black.
AGREE = 0.14
AGREE_THUMB = 0.2
# In one bucket, images this many apart in order of brightness are not compared. Where thousands
# are that much alike, the ones in between link them.
REACH = 200
# An axis along which the middle half of the images differs by less tells them apart by noise.
SPREAD = 0.5
BLOCK = 4_096


def near_pairs(thumbs: np.ndarray, pixels: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """All (P, 2) pairs of rows, first below second, that are near-duplicates of each other.

    `thumbs` is (N, 81) uint8, `pixels` decodes rows to (B, C, H, W). Memory grows with N and
    with the pairs found, not with N squared.
    """
    normal, brightness = _normal(thumbs)
    found: set[tuple[int, int]] = set()
    for pairs in _proposed(normal, brightness):
        apart = np.sqrt(((normal[pairs[:, 0]] - normal[pairs[:, 1]]) ** 2).mean(1))
        found.update(map(tuple, np.sort(pairs[apart <= AGREE_THUMB], axis=1).tolist()))
    proposed = np.array(sorted(found), np.int64).reshape(-1, 2)
    kept = [proposed[:0]]
    for start in range(0, len(proposed), 256):
        pairs = proposed[start : start + 256]
        kept.append(pairs[agree(pixels(pairs[:, 0]), pixels(pairs[:, 1]))])
    return np.concatenate(kept)


def agree(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Which of N images (N, C, H, W) in `a` equal those in `b`, but for noise, light and contrast."""
    (x, mean_x), (y, mean_y) = _normal(a), _normal(b)
    apart = np.sqrt(((x - y) ** 2).mean(1))
    return (apart <= AGREE) & (np.abs(mean_x - mean_y) <= BRIGHTNESS)


def _normal(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each image flat (N, D) float32 with mean 0 and deviation 1, and its mean grey (N,)."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    mean = flat.mean(1, keepdims=True)
    flat -= mean
    flat /= np.maximum(flat.std(1, keepdims=True), FLOOR)
    return flat, mean[:, 0]


def _proposed(normal: np.ndarray, brightness: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs (P, 2) that share a hash, at most BLOCK at a time; a pair may come more than once."""
    for keys in _hashes(normal):
        order = np.lexsort((brightness, keys))
        key, light = keys[order], brightness[order]
        left = np.arange(len(order))
        for apart in range(1, REACH + 1):
            left = left[left + apart < len(order)]
            # Sorted like this, who has no partner at this distance has none further on.
            left = left[(key[left] == key[left + apart]) & (light[left + apart] - light[left] <= BRIGHTNESS)]
            if not len(left):
                break
            for start in range(0, len(left), BLOCK):
                some = left[start : start + BLOCK]
                yield np.stack([order[some], order[some + apart]], 1)


def _hashes(normal: np.ndarray) -> Iterator[np.ndarray]:
    """BANDS keys (N,) int64: on which side of a limit an image lies along each principal axis.

    Axes of these images, as fixed ones tell little of images that are all much alike: MNIST's
    borders are black in all. The hash gets longer with N, so that buckets stay small.
    """
    centred = normal - normal.mean(0)
    _, axes = np.linalg.eigh(centred.T.astype(np.float64) @ centred)
    width = min(len(normal).bit_length() + 2, 32, normal.shape[1])
    projected = centred @ axes[:, ::-1][:, :width]
    along = np.sort(projected, axis=0)
    telling = along[3 * len(normal) // 4] - along[len(normal) // 4] >= SPREAD
    for band in range(BANDS):
        # Limits between the 30th and the 70th percentile, spread evenly over bands and axes.
        quantiles = 0.3 + 0.4 * ((band * 0.6180 + np.arange(width) * 0.7549) % 1)
        limits = along[(quantiles * len(normal)).astype(int), np.arange(width)]
        yield ((projected > limits) & telling) @ (1 << np.arange(width, dtype=np.int64))
