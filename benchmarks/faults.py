"""Faults planted among real images: how many of each kind the filter finds, and for the right reason.

`python -m benchmarks.faults` needs `dvc repro calibrate` first. Held-out images of the test split stand
for samples, since they have no fault of their own; train images are copied and changed, labels are
swapped, a class is collapsed to five images, and others are noise, blank or blurred. Each seed picks
other images. What is told of the sound ones is the price: how many of them would be lost, and called
copies.
"""

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from benchmarks import samples
from tasks.device import Device, prepare
from tasks.errors import UserError
from tasks.layout import PARAMS, ROOT
from tasks.params import Params
from tasks.reading import read
from tasks.shards import Shards, read_shard, shard_name, write_text

RESULTS = ROOT / "benchmarks/results"
SHOWN = ("mnist5k", "cifar10-5k")  # in the README
EACH = 200  # images of each kind of fault
COLLAPSED = 5  # images that a class collapses to
COPIED = ("identical", "copied")
LABELS = ("unlike_label", "ambiguous", "uncertain")  # a repeat of its sound twin is no swap that was found
COSTS = ("sound, lost", "sound, called a copy")  # of which the most is the worst
Parts = dict[str, tuple[np.ndarray, np.ndarray]]  # images (N, C, H, W) uint8 and labels (N,) by kind of fault


class Fault(NamedTuple):
    """What is done to images (N, C, H, W) uint8, and which reasons name it."""

    change: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    reasons: tuple[str, ...]


def one_by_one(change: Callable[[Image.Image], Image.Image]) -> Callable[[np.ndarray, Any], np.ndarray]:
    """A change of Pillow images as one of arrays."""

    def apply(x_NCHW: np.ndarray, _: Any) -> np.ndarray:
        found = []
        for x_CHW in x_NCHW:
            image = Image.fromarray(x_CHW[0] if len(x_CHW) == 1 else np.moveaxis(x_CHW, 0, -1))
            changed = np.asarray(change(image))
            found.append(changed[None] if changed.ndim == 2 else np.moveaxis(changed, -1, 0))
        return np.stack(found)

    return apply


def saved(image: Image.Image) -> Image.Image:
    """The image after JPEG at quality 75."""
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=75)
    return Image.open(buffer)


def shifted(x_NCHW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image moved by a pixel in one of eight directions, the edge's pixels repeated."""
    _, _, H, W = x_NCHW.shape
    padded = np.pad(x_NCHW, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    ways = [(a, b) for a in range(3) for b in range(3) if (a, b) != (1, 1)]
    places = (ways[n] for n in rng.integers(len(ways), size=len(x_NCHW)))
    return np.stack([x[:, a : a + H, b : b + W] for x, (a, b) in zip(padded, places, strict=True)])


def rounded(x_NCHW: np.ndarray) -> np.ndarray:
    """Any numbers as uint8."""
    return x_NCHW.round().clip(0, 255).astype(np.uint8)


COPIES = {
    "exact copy": Fault(lambda x, _: x, ("identical",)),
    "saved as JPEG": Fault(one_by_one(saved), COPIED),
    "shifted by a pixel": Fault(shifted, COPIED),
    "brighter by 20": Fault(lambda x, _: rounded(x + 20.0), COPIED),
    "darker by a fifth": Fault(lambda x, _: rounded(x * 0.8), COPIED),
    "noise of deviation 8": Fault(lambda x, rng: rounded(x + rng.normal(0, 8, x.shape)), COPIED),
    "mirrored": Fault(lambda x, _: x[..., ::-1], COPIED),
}
RUINS = {  # any reason will do: such an image has to go
    "noise": Fault(lambda x, rng: rng.integers(0, 256, x.shape, dtype=np.uint8), ()),
    "blank": Fault(lambda x, rng: np.zeros_like(x) + rng.integers(0, 256, (len(x), 1, 1, 1), np.uint8), ()),
    "blurred": Fault(one_by_one(lambda i: i.filter(ImageFilter.GaussianBlur(i.width / 10))), ()),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Plant, filter, and print the table; the result is kept."""
    found = argparse.ArgumentParser("benchmarks.faults", description=(__doc__ or "").split("\n")[0])
    found.add_argument("--data", type=Path, default=Path("data"), help="the folder of real/ and reference/")
    found.add_argument("--name", help="of the dataset, in the result's file name; else that of ingest.source")
    found.add_argument("--seeds", type=int, default=3, choices=range(1, 101), metavar="N")
    found.add_argument("--results", type=Path, default=RESULTS, help="the folder of results")
    options = found.parse_args(arguments)
    try:
        params = read(PARAMS)
        rows = [trial(params, options.data, seed) for seed in range(options.seeds)]
        result = {name: [row[name] for row in rows] for name in rows[0]}
        options.results.mkdir(parents=True, exist_ok=True)
        name = options.name or Path(params.ingest.source).stem
        write_text(options.results / f"faults-{name}.json", json.dumps(result, indent=1) + "\n")
    except UserError as error:
        sys.exit(str(error))
    print(table(result))


def trial(params: Params, data: Path, seed: int) -> dict[str, float]:
    """The share found of each kind, with this seed's choice of images."""
    real = {name: Shards.open(data / "real" / name) for name in ("train", "test")}
    x, y = ({name: take(s) for name, s in real.items()} for take in (Shards.pixels, Shards.labels))
    rng = np.random.default_rng(seed)
    shown = rng.permutation(np.flatnonzero(y["test"] == y["test"].max()))[:COLLAPSED]
    left = np.setdiff1d(np.arange(len(y["test"])), shown)  # or the five would be repeats of other ones
    parts: Parts = {"sound": (x["test"][left], y["test"][left])}
    pool = {"train": np.arange(len(y["train"])), "test": left}
    for kinds, split in ((COPIES, "train"), (RUINS, "test")):
        for name, fault in kinds.items():
            rows = rng.permutation(pool[split])[:EACH]
            parts[name] = np.ascontiguousarray(fault.change(x[split][rows], rng)), y[split][rows]
    classes = real["train"].classes
    if len(classes) > 1:
        rows = rng.permutation(left)[:EACH]
        other = (y["test"][rows] + rng.integers(1, len(classes), len(rows))) % len(classes)
        parts["swapped label"] = x["test"][rows], other
    rows = np.repeat(shown, EACH // COLLAPSED)
    parts["collapsed class"] = x["test"][rows], y["test"][rows]
    device = prepare(params.machine, params.filter.precision)
    reasons = filtered(params, data, parts, classes, device)
    found = {}
    for name, why in reasons.items():
        wanted = LABELS if name == "swapped label" else (COPIES | RUINS).get(name, Fault(shifted, ())).reasons
        found[name] = float(np.mean([bool(set(w) & set(wanted)) if wanted else bool(w) for w in why]))
    found["sound, called a copy"] = float(np.mean([bool(set(w) & set(COPIED)) for w in reasons["sound"]]))
    repeats = sum("duplicate" in w for w in reasons["collapsed class"])
    found["collapsed class"] = repeats / (EACH // COLLAPSED * COLLAPSED - COLLAPSED)  # the five may stay
    return {f"{name}, lost" if name == "sound" else name: round(share, 4) for name, share in found.items()}


def filtered(
    params: Params, data: Path, parts: Parts, classes: list[str], device: Device
) -> dict[str, list[list[str]]]:
    """The filter's reasons against each image of each part, all judged as one set of samples."""
    with tempfile.TemporaryDirectory() as work:
        drawn = samples.write(Path(work) / "synthetic", parts.values(), classes)
        scores = samples.filtered(drawn, data, params.filter, device, Path(work) / "scores")
        judged = [read_shard(scores / shard_name(n), ["reasons"])["reasons"] for n in range(len(parts))]
    return {name: column.to_pylist() for name, column in zip(parts, judged, strict=True)}


def table(result: dict[str, list[float]]) -> str:
    """The share of each kind that was found, the mean and the worst of the seeds."""
    width = max(map(len, result))
    lines = [f"{'':{width}}  mean %  worst %"]
    for name, shares in result.items():
        lines.append(f"{name:{width}}  {100 * np.mean(shares):6.2f}  {100 * worst(name, shares):7.2f}")
    return "\n".join(lines)


def worst(kind: str, shares: Sequence[float]) -> float:
    """The least that was found of a fault, or the most that was lost of sound images."""
    return max(shares) if kind in COSTS else min(shares)


def markdown(results: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """The README's table: by kind and dataset, the share found in %, the worst of the seeds in brackets."""
    lines = [["", *(f"`{name}`" for name in results)], ["---"] * (1 + len(results))]
    for kind in next(iter(results.values())):
        shares = [found[kind] for found in results.values()]
        lines.append([kind, *(f"{100 * np.mean(s):.1f} ({100 * worst(kind, s):.1f})" for s in shares)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
