"""Sets and outcomes that the tests of probing share, made without training."""

import numpy as np

from tasks.probing import Images, Outcome, Splits, Trial, gather
from tests import making


def gathered(data) -> Splits:
    real = data / "real"
    return gather(real / "train", real / "calibrate", real / "test", data / "synthetic", data / "scores")


def made(labels) -> Images:
    """Images of these labels."""
    labels = np.asarray(labels)
    return Images(making.pictures(labels % 4, 0), labels, np.arange(len(labels)).astype(str))


def alike(truth, synthetic=None, kept=None, measures=None, **changes) -> Splits:
    """Splits of the same labels; all synthetic samples are kept unless told."""
    drawn = made(truth if synthetic is None else synthetic)
    keep = np.ones(len(drawn.y), bool) if kept is None else np.asarray(kept)
    reasons = np.where(keep, None, "copy")
    return Splits(
        making.CLASSES, made(truth), made(truth), made(truth), drawn, reasons, measures or {}, **changes
    )


def outcome(arm, seed, right, truth, images=30, calibrate=None) -> Outcome:
    """A trial whose probe labelled the first `right` test images correctly, or those where it is True."""
    right = np.arange(len(truth)) < right if np.isscalar(right) else right
    curve = [] if calibrate is None else [{"images": 1.0, "loss": 1.0, "accuracy": calibrate}]
    return Outcome(Trial(arm, seed), images, np.where(right, truth, truth + 1), curve)
