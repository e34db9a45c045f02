"""How fast `style` and `texture` make images: of the photographs that scikit-learn ships, on this machine.

`python -m benchmarks.painting` asks each family as generate does. A network that is not trained takes as
long as one that is, so AdaIN's decoder is a new one; an optimisation also tells what it leaves of its loss.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from sklearn.datasets import load_sample_images

from benchmarks.families import RESULTS
from models.families import Batch, Spec, load
from tasks.device import Device, prepare
from tasks.params import Machine
from tasks.shards import write_text

RESULT = RESULTS / "painting.json"


class Work(NamedTuple):
    """What a family is asked for: images of `size` pixels a side, so many, with these keys of its block."""

    family: str
    block: dict[str, Any]
    size: int
    images: int
    floor: str = ""


WORKS = {
    "`style`, optimised": Work("style", {"method": "optimise"}, 128, 2, "60 s an image at most"),
    "`style`, AdaIN": Work("style", {"method": "adain"}, 64, 256, "10 images/s"),
    "`texture`, quilted": Work("texture", {"exemplar": 0.5}, 256, 32, "1 megapixel/s"),
    "`texture`, quilted, tileable": Work("texture", {"exemplar": 0.5, "tileable": True}, 256, 32),
    "`texture`, optimised": Work("texture", {"method": "optimise", "exemplar": 0.5}, 128, 2),
}


def photographs(size: int, count: int) -> torch.Tensor:
    """(count, 3, size, size) uint8: parts of the two photographs, of twice that side, made smaller."""
    rng, whole, found = np.random.default_rng(0), load_sample_images().images, []
    for number in range(count):
        x_HWC = whole[number % len(whole)]
        side = min(2 * size, *x_HWC.shape[:2])
        top, left = (rng.integers(0, length - side + 1) for length in x_HWC.shape[:2])
        part_HWC = x_HWC[top : top + side, left : left + side]
        found.append(cv2.resize(part_HWC, (size, size), interpolation=cv2.INTER_AREA))
    return torch.from_numpy(np.stack(found).transpose(0, 3, 1, 2))


def measure(work: Work, device: Device) -> dict[str, Any]:
    """Ask for all images at once: images and megapixels a second, and the mean score if there is one."""
    module = load(work.family)
    spec = Spec.of((3, work.size, work.size), 0, None)
    torch.manual_seed(0)
    family = device.place(module.build(module.Config(**work.block), spec)).eval()
    x_BCHW = device.scaled(photographs(work.size, work.images))
    sources = [Batch(x_BCHW.roll(n, 0), None) for n in range(family.PARENTS)]
    seeds = list(range(work.images))
    with torch.inference_mode(), device.autocast():
        family.sample(None, seeds[:1], [Batch(each.x_BCHW[:1], None) for each in sources])
        started = time.monotonic()
        made_BCHW, score_B = family.sample(None, seeds, sources)
        if device.kind == "cuda":
            torch.cuda.synchronize()
        seconds = time.monotonic() - started
    rate = len(made_BCHW) / seconds
    score = None if score_B is None else round(float(score_B.mean()), 4)
    return {"size": work.size, "rate": rate, "megapixels": rate * work.size**2 / 1e6, "score": score}


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["|  | pixels | images/s | s an image | megapixels/s | score | floor |"]
    lines.append("| --- " * 7 + "|")
    for name, row in rows.items():
        score = "-" if row["score"] is None else f"{row['score']:.3f}".replace("-", "−")
        cells = [f"{row['size']} x {row['size']}", f"{row['rate']:.3g}", f"{1 / row['rate']:.3g}"]
        cells += [f"{row['megapixels']:.2f}", score, WORKS[name].floor or "-"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, keep the rows and print the table."""
    found = argparse.ArgumentParser("benchmarks.painting", description=(__doc__ or "").split("\n")[0])
    found.add_argument("--threads", type=int, help="of the computation; all cores unless told")
    found.add_argument("--results", type=Path, default=RESULT)
    options = found.parse_args(arguments)
    device = prepare(Machine(threads=options.threads), "auto")
    rows = {name: measure(work, device) for name, work in WORKS.items()}
    told = {name: {**row, **device.facts} for name, row in rows.items()}
    write_text(options.results, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    print(markdown(rows))


if __name__ == "__main__":
    main()
