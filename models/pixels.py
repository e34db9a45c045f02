"""From a family's numbers to those of an image file."""

from torch import Tensor


def eight_bits(x_BCHW: Tensor) -> Tensor:
    """Images in [-1, 1] as whole numbers from 0 to 255, still floats."""
    return (x_BCHW * 127.5 + 127.5).round().clamp(0, 255)
