"""Which images an arm trains on, and what it is told that they show."""

import hashlib

import numpy as np

from tasks import arms
from tasks.probing.trials import Images, Splits, Trial


def arm_images(trial: Trial, splits: Splits, seed: int) -> Images:
    """The labelled images that an arm trains on, each once; none if it asks for more than were kept."""
    arm = arms.parse(trial.arm)
    train = splits.train.take(np.flatnonzero(splits.train.y >= 0))
    if arm.kind in ("real", "real_augmented"):
        return train
    if unmet(trial.arm, splits):
        return train.take(np.arange(0))
    rng = np.random.default_rng(derive(seed, trial.seed, "random_drop"))
    rows = synthetic_rows(trial.arm, splits.synthetic.y, splits.kept, train.y, rng)
    drawn = splits.synthetic.take(rows[splits.synthetic.y[rows] >= 0])
    return train + drawn if arm.kind == "real_synthetic" else drawn


def arm_targets(trial: Trial, splits: Splits, images: Images) -> np.ndarray:
    """What the probe is told of an arm's `images`: their labels (N,), or the judge's shares (N, K)."""
    if arms.parse(trial.arm).kind != "synthetic_soft" or splits.probabilities is None:
        return images.y
    row = {name: n for n, name in enumerate(splits.synthetic.ids)}
    return splits.probabilities[[row[name] for name in images.ids]]


def synthetic_rows(
    name: str, labels: np.ndarray, kept: np.ndarray, real: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The rows of the synthetic samples that an arm uses, in the order drawn; `real`: train's labels.

    `unfiltered` has the first as many as were kept; `random_drop` loses as many of each class as
    the filter dropped there, whichever chance picks; an arm with a ratio has the first kept ones of
    each class, up to its share.
    """
    arm = arms.parse(name)
    if arm.kind == "unfiltered":
        return np.arange(int(kept.sum()))
    if arm.kind == "random_drop":
        left = [
            rng.permutation(np.flatnonzero(labels == label))[: int(kept[labels == label].sum())]
            for label in np.unique(labels)
        ]
        return np.sort(np.concatenate(left)) if left else np.arange(0)
    if arm.ratio is None:
        return np.flatnonzero(kept)
    first = [np.flatnonzero(kept & (labels == k))[:n] for k, n in asked(arm.ratio, real).items()]
    return np.sort(np.concatenate(first)) if first else np.arange(0)


def asked(ratio: float, real: np.ndarray) -> dict[int, int]:
    """How many images of each class `ratio` times the real ones are, shared out as train's labels are.

    The shares add up to the whole: what rounding leaves over goes to the classes that lost most by it.
    """
    labels, counts = np.unique(real, return_counts=True)
    exact = ratio * counts
    whole = np.floor(exact + 1e-9).astype(int)
    over = round(ratio * int(counts.sum())) - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[: max(over, 0)]] += 1
    return dict(zip(labels.tolist(), whole.tolist(), strict=True))


def unmet(name: str, splits: Splits) -> str | None:
    """Why an arm can't be trained as its name says, in one line; None if it can."""
    arm = arms.parse(name)
    if arm.kind == "synthetic_soft" and splits.probabilities is None:
        return "the scores hold no class probabilities. Run `dvc repro filter` on labelled images."
    if arm.ratio is None:
        return None
    real = splits.train.y[splits.train.y >= 0]
    wanted = asked(arm.ratio, real)
    found = {k: int((splits.kept & (splits.synthetic.y == k)).sum()) for k in wanted}
    lacking = sum(max(0, n - found[k]) for k, n in wanted.items())
    if not lacking:
        return None
    return (
        f"{arm.ratio:g} times {len(real):,} real images ask for {sum(wanted.values()):,} kept ones, "
        f"class by class, and {lacking:,} are lacking. Raise generate.num_samples."
    )


def derive(*parts: object) -> int:
    """A seed of 63 bits that is the parts' own: neither order nor neighbours of a trial matter."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
