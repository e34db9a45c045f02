"""Restoration of held-out images, beside what came in and what needs no training.

`python -m benchmarks.restore` needs `dvc repro calibrate` first. The family `restore` is trained on
data/real/train for `--minutes`, once a seed, through the project's own loop; then the whole test split is
spoiled by fixed seeds and restored. OpenCV's non-local means (Buades et al. 2005) takes part against
noise, with the settings that do best on the calibrate split. Against a low resolution the rival is the
input itself, which bicubic interpolation brought to its size. A finished row is kept.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import torch

from benchmarks.contest import Bench
from benchmarks.families import RESULTS, positive, say
from benchmarks.rows import kept, read_rows
from models.families import Batch, restore
from models.fidelity import MEASURES, fidelity, psnr
from tasks.batches import Pool, Sources
from tasks.device import Device
from tasks.errors import UserError
from tasks.layout import PARAMS, ROOT
from tasks.reading import read
from tasks.recipe import code
from tasks.shards import file_digest

SHOWN = ("noise", "super_resolution_2x")
STRENGTHS = (5, 10, 15, 20, 25, 30, 40)  # of non-local means, in grey levels
WINDOWS = ((3, 11), (5, 15), (7, 21))  # pixels a side of its patch and search; the last is OpenCV's own
TUNED = 200  # images of the calibrate split that its settings are chosen by
BATCH = 250
COLUMNS = {"psnr": ("PSNR dB", ".2f"), "ssim": ("SSIM", ".3f"), "perceptual_distance": ("perceptual", ".3f")}


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the rows that are missing, and print the table of all that were asked for."""
    options = parser().parse_args(arguments)
    try:
        params = read(PARAMS)
        bench = Bench(params, options.data, options.minutes, options.seeds, 1)
        bench.check()
        path = options.results / f"restore-{options.name or Path(params.ingest.source).stem}.json"
        read_rows(path)  # a broken file is told before any work
        rows = {
            name: kept(path, name, digest(bench, name), partial(row, bench, name)) for name in options.only
        }
    except UserError as error:
        sys.exit(str(error))
    print(table(rows))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser("benchmarks.restore", description=(__doc__ or "").split("\n")[0])
    found.add_argument("--minutes", type=positive, default=15.0, help="time that each training gets")
    found.add_argument("--data", type=Path, default=Path("data"), help="the folder of real/ and reference/")
    found.add_argument("--name", help="of the dataset, in file names; else that of ingest.source")
    found.add_argument("--only", type=some, default=SHOWN, help="degradations, with commas between")
    found.add_argument("--seeds", type=int, default=3, choices=range(1, 101), metavar="N", help="trainings")
    found.add_argument("--results", type=Path, default=RESULTS, help="the folder of finished rows")
    return found


def some(text: str) -> list[str]:
    """Names of degradations. Raises ArgumentTypeError that names an unknown one."""
    known = get_args(restore.Degradation)
    if unknown := sorted(set(text.split(",")) - set(known)):
        raise argparse.ArgumentTypeError(f"no {unknown[0]!r}; there are: {', '.join(known)}")
    return text.split(",")


def digest(bench: Bench, degradation: str) -> str:
    """Stands for all that decides a row: settings, code, data, judge and machine."""
    files = [ROOT / name for name in code("train", "restore")] + [ROOT / "benchmarks/restore.py"]
    files += [s.folder / "index.json" for s in bench.splits.values()]
    files.append(bench.data / "reference/judge.safetensors")
    train = bench.train_params("restore", bench.minutes).model_dump(mode="json")
    parts = [block(bench, degradation), train, bench.seeds, bench.device.facts, cv2.__version__]
    told = json.dumps([*parts, [file_digest(path) for path in files]], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def block(bench: Bench, degradation: str) -> dict[str, Any]:
    """The family's block in params.yaml, for this degradation."""
    return {**bench.params.families["restore"], "degradation": degradation}


def row(bench: Bench, degradation: str) -> dict[str, Any]:
    """What each contestant makes of the spoilt test split; of restore the mean over seeds and each one's."""
    pools = {name: Pool.open(bench.data / "real" / name) for name in ("calibrate", "test")}
    config = restore.Config(**block(bench, degradation))
    truth, spoilt = pools["test"].x_NCHW, spoiled(pools["test"], config, bench.device)
    measured = {"as it came": means(spoilt, truth)}
    if degradation == "noise":
        best = tuned(spoiled(pools["calibrate"], config, bench.device), pools["calibrate"].x_NCHW)
        name = "non-local means, h {}, {} in {} pixels".format(*best)
        measured[name] = means(non_local_means(spoilt, *best), truth)
    found, images = [], []
    for seed in range(bench.seeds):
        say(f"{degradation}: {bench.minutes:g} minutes, seed {seed}")
        params = bench.train_params("restore", bench.minutes).model_copy(update={"seed": seed})
        trained, _ = bench.fit(params, block(bench, degradation), bench.data / "real/train")
        found.append(means(restored(trained.family, pools["test"], trained.device), truth))
        images.append(trained.images)
    mean = {name: round(float(np.mean([each[name] for each in found])), 4) for name in found[0]}
    return {
        "minutes": bench.minutes,
        "tested": len(truth),
        "images": images,
        "measured": measured | {"restore": mean},
        "per_seed": found,
    }


def means(x_NCHW: torch.Tensor, truth_NCHW: torch.Tensor) -> dict[str, float]:
    """Each measure of how near images come to the true ones, the mean over all."""
    found = fidelity(x_NCHW, truth_NCHW)
    return {name: round(float(found[name].mean()), 4) for name in MEASURES if name in found}


def spoiled(pool: Pool, config: restore.Config, device: Device) -> torch.Tensor:
    """Every image of a split as the degradation leaves it, by its number as its seed: uint8."""
    family = restore.build(config, pool.spec)
    return torch.cat([torch.from_numpy(shown) for _, _, shown in _asked(family, pool, device)])


def restored(family: Any, pool: Pool, device: Device) -> torch.Tensor:
    """The family's answers to the same spoilt images: uint8."""
    asked = _asked(family, pool, device)
    return torch.cat([family.sample(None, seeds, sources)[0].cpu() for sources, seeds, _ in asked])


def _asked(family: Any, pool: Pool, device: Device) -> Iterator[tuple[list[Batch], list[int], Any]]:
    """Every image of a split as generate would ask with it, batch by batch."""
    every = Sources(pool, np.arange(len(pool))[:, None])
    for start in range(0, len(pool), BATCH):
        part = every.take(slice(start, start + BATCH))
        seeds = part.rows_NP[:, 0].tolist()
        with torch.inference_mode(), device.autocast():
            sources, shown = part.asked(family, seeds, device)
            yield sources, seeds, shown


def tuned(spoilt_NCHW: torch.Tensor, truth_NCHW: torch.Tensor) -> tuple[int, int, int]:
    """The strength, patch and search of non-local means that give the highest PSNR on some images."""
    settings = [(h, *window) for h in STRENGTHS for window in WINDOWS]
    truth = truth_NCHW[:TUNED]
    return max(settings, key=lambda s: float(psnr(non_local_means(spoilt_NCHW[:TUNED], *s), truth).mean()))


def non_local_means(x_NCHW: torch.Tensor, strength: float, patch: int, search: int) -> torch.Tensor:
    """OpenCV's denoising of uint8 images: grey ones by its grey, colour ones by its colour version."""
    found = []
    for x_HWC in x_NCHW.permute(0, 2, 3, 1).numpy():
        if x_HWC.shape[2] == 1:
            clean = cv2.fastNlMeansDenoising(x_HWC, None, strength, patch, search)[..., None]
        else:
            clean = cv2.fastNlMeansDenoisingColored(
                np.ascontiguousarray(x_HWC[..., ::-1]), None, strength, strength, patch, search
            )[..., ::-1]
        found.append(torch.from_numpy(np.ascontiguousarray(clean)).permute(2, 0, 1))
    return torch.stack(found)


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| against | | " + " | ".join(head for head, _ in COLUMNS.values()) + " |"]
    lines.append("| --- " * (2 + len(COLUMNS)) + "|")
    for name, found in rows.items():
        for contestant, measured in found["measured"].items():
            cells = [format(measured[k], form) if k in measured else "-" for k, (_, form) in COLUMNS.items()]
            lines.append(f"| {name.replace('_', ' ')} | {contestant} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
