"""Near-duplicates: a hash proposes pairs, and the pixels must agree.

On small grey images any perceptual hash alone groups far too much (a quarter of `digits`), so
it only saves comparing all with all.
"""

from collections.abc import Callable, Iterator

import numpy as np

from tasks.imaging import THUMB

BANDS = 8
# Neighbouring cells differ by more than these grey levels, or the bit says no: in black and
# other flat areas the sign of the difference is noise.
MARGIN = 4
# How far two images of the same scene may be apart in average grey.
BRIGHTNESS = 32
# Contrast below this many grey levels is not stretched: it would make twins of noise.
FLOOR = 8.0
# Root mean square difference after normalising, which is a correlation of 0.99. In mnist5k and
# CIFAR-10 the closest strangers reach 0.98; the same image saved as JPEG of quality 75, 0.998.
AGREE = 0.14
AGREE_THUMB = 0.25
# In one bucket of one band, images this many apart in order of brightness are not compared.
# Where thousands are that much alike, the ones in between link them.
REACH = 1_000
BLOCK = 4_096


def near_pairs(thumbs: np.ndarray, pixels: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """All (P, 2) pairs of rows, first below second, that are near-duplicates of each other.

    `thumbs` is (N, 81) uint8, `pixels` decodes rows to (B, C, H, W). Memory grows with N and
    with the pairs found; the hash gets longer with N, so buckets stay small.
    """
    found: set[tuple[int, int]] = set()
    for pairs in _proposed(thumbs):
        pairs = pairs[_agree(thumbs[pairs[:, 0]], thumbs[pairs[:, 1]], AGREE_THUMB)]
        found.update(map(tuple, np.sort(pairs, axis=1).tolist()))
    proposed = np.array(sorted(found), np.int64).reshape(-1, 2)
    kept = [proposed[:0]]
    for start in range(0, len(proposed), 256):
        pairs = proposed[start : start + 256]
        kept.append(pairs[_agree(pixels(pairs[:, 0]), pixels(pairs[:, 1]), AGREE)])
    return np.concatenate(kept)


def _agree(a: np.ndarray, b: np.ndarray, at_most: float) -> np.ndarray:
    """Which of N images in `a` equal those in `b`, but for a little noise, brightness and contrast."""
    (x, mean_x), (y, mean_y) = _normal(a), _normal(b)
    difference = np.sqrt(((x - y) ** 2).mean(1))
    return (difference <= at_most) & (np.abs(mean_x - mean_y) <= BRIGHTNESS)


def _normal(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    flat = images.reshape(len(images), -1).astype(np.float32)
    mean = flat.mean(1, keepdims=True)
    flat -= mean
    return flat / np.maximum(flat.std(1, keepdims=True), FLOOR), mean[:, 0]


def _proposed(thumbs: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs (P, 2) that agree on all bits of a band, in blocks; a pair may come more than once."""
    brightness = thumbs.mean(1)
    for keys in _bands(thumbs):
        order = np.lexsort((brightness, keys))
        key, light = keys[order], brightness[order]
        left = np.arange(len(order))
        block: list[np.ndarray] = []
        size = 0
        for apart in range(1, REACH + 1):
            left = left[left + apart < len(order)]
            # In this order, who is too far apart now stays so.
            right = left + apart
            left = left[(key[left] == key[right]) & (light[right] - light[left] <= BRIGHTNESS)]
            if not len(left):
                break
            block.append(np.stack([order[left], order[left + apart]], 1))
            size += len(left)
            if size >= BLOCK:
                yield from _blocks(block)
                block, size = [], 0
        yield from _blocks(block)


def _blocks(pairs: list[np.ndarray]) -> Iterator[np.ndarray]:
    joined = np.concatenate(pairs) if pairs else np.zeros((0, 2), np.int64)
    for start in range(0, len(joined), BLOCK):
        yield joined[start : start + BLOCK]


def _bands(thumbs: np.ndarray) -> Iterator[np.ndarray]:
    """BANDS keys (N,) int64 of difference-hash bits, so that one flipped bit spoils one band alone.

    The bits that split these images most evenly are dealt out in turn: a bit that is the same in
    all images, as in MNIST's black border, would tell nothing and fill the buckets.
    """
    t = thumbs.reshape(-1, THUMB, THUMB).astype(np.int16)
    across = (t[:, :, 1:] - t[:, :, :-1] > MARGIN).reshape(len(t), -1)
    down = (t[:, 1:] - t[:, :-1] > MARGIN).reshape(len(t), -1)
    bits = np.concatenate([across, down], 1)
    unevenness = np.abs(2 * bits.sum(0, dtype=np.int64) - len(bits))
    width = min(max(len(bits).bit_length(), 8), bits.shape[1] // BANDS)
    chosen = np.argsort(unevenness, kind="stable")[: BANDS * width]
    for band in range(BANDS):
        yield bits[:, chosen[band::BANDS]] @ (1 << np.arange(width, dtype=np.int64))
