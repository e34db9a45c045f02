"""Held-out images from their sketches, beside a network without a discriminator and one plain colour.

`python -m benchmarks.pix2pix` needs `dvc repro calibrate` first, with `preprocess.condition: edges` (or
another one). The family `pix2pix` is trained on data/real/train for
`--images`, once a seed, through the project's own loop, and so is its network by L1 alone (Isola et al.
2017, section 4.1). Each then answers the condition of every image of the test split, told its class and
no more: mean colours are drawn by fixed seeds. The plain colour is the mean of all training pixels.

How near answers come to the true images is told pair by pair, and how real they look by the Fréchet
distance to the test split in the features of EfficientNet-Lite0. A finished row is kept.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import restore
from benchmarks.contest import Bench
from benchmarks.families import RESULTS, say
from benchmarks.rows import kept, read_rows
from models import extractors, features
from models.measures import frechet_distance
from tasks.batches import Pool, Sources
from tasks.device import Device
from tasks.errors import UserError
from tasks.fitting import tile
from tasks.layout import PARAMS, ROOT
from tasks.params import TrainParams
from tasks.reading import read
from tasks.recipe import code
from tasks.shards import file_digest, png, whole

PLAIN, OTHERS = "mean colour", "train images"
TRAINED: dict[str, dict[str, Any]] = {  # what a contestant's block says otherwise than that of params.yaml
    "L1 alone": {"adversarial": 0.0, "feature_matching": 0.0},
    "pix2pix": {},
}
SIDE = 1_000  # images a side that the Fréchet distance sees
BATCH = 250
COLUMNS, AGAIN = 10, 3  # of a grid: conditions, and answers to each
HEADS = {**restore.COLUMNS, "frechet_distance": ("Fréchet", ".1f")}


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the rows that are missing, and print the table."""
    options = parser().parse_args(arguments)
    try:
        params = read(PARAMS)
        bench = Bench(params, options.data, 0, options.seeds, 1)
        bench.check()
        if lacking := features.missing():
            raise UserError(f"{lacking}.")
        if not bench.spec.condition:
            raise UserError(
                f"{options.data}/real: its images come without a condition. Set preprocess.condition to "
                "edges, and run `dvc repro calibrate`."
            )
        dataset = options.name or Path(params.ingest.source).stem
        rows = run(bench, options.images, options.results, dataset)
    except UserError as error:
        sys.exit(str(error))
    print(markdown(rows))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser("benchmarks.pix2pix", description=(__doc__ or "").split("\n")[0])
    found.add_argument("--images", type=int, default=40_000, metavar="N", help="that each training sees")
    found.add_argument("--data", type=Path, default=Path("data"), help="the folder of real/ and reference/")
    found.add_argument("--name", help="of the dataset, in file names; else that of ingest.source")
    found.add_argument("--seeds", type=int, default=3, choices=range(1, 101), metavar="N", help="trainings")
    found.add_argument("--results", type=Path, default=RESULTS, help="the folder of finished rows and grids")
    return found


@dataclass(frozen=True, eq=False)
class Truth:
    """The true images of the test split, and how near others come to them."""

    pool: Pool
    device: Device

    @cached_property
    def extractor(self) -> Any:
        """EfficientNet-Lite0, the same that `calibrate.extractors` has."""
        return extractors.load("efficientnet_lite0", torch.device(self.device.kind))

    @cached_property
    def seen_ND(self) -> torch.Tensor:
        """The features of the true images."""
        return self.seen(self.pool.x_NCHW)

    def seen(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """The features of the first SIDE images."""
        return extractors.extract(self.extractor, [x_NCHW[:SIDE]], torch.device(self.device.kind))

    def distance(self, x_NCHW: torch.Tensor) -> dict[str, float]:
        """How far a set of uint8 images is from the true ones."""
        return {"frechet_distance": round(frechet_distance(self.seen(x_NCHW), self.seen_ND), 2)}

    def measured(self, x_NCHW: torch.Tensor) -> dict[str, float]:
        """The same, and how near each answer is to its own true image: the mean over all."""
        return {**restore.means(x_NCHW, self.pool.x_NCHW), **self.distance(x_NCHW)}


def run(bench: Bench, images: int, results: Path, dataset: str) -> dict[str, dict[str, Any]]:
    """Every contestant's row, each written at once; those already there for the same settings are kept."""
    path = results / f"pix2pix-{dataset}.json"
    read_rows(path)  # a broken file is told before any work
    truth = Truth(Pool.open(bench.data / "real/test"), bench.device)
    makers = {OTHERS: partial(plain, bench, truth, OTHERS), PLAIN: partial(plain, bench, truth, PLAIN)}
    for name in TRAINED:
        grid = results / f"grids/{dataset}-{name.replace(' ', '-')}.png"
        makers[name] = partial(row, bench, truth, name, images, grid)
    return {name: kept(path, name, digest(bench, name, images), make) for name, make in makers.items()}


def train_params(bench: Bench, images: int, seed: int = 0) -> TrainParams:
    """The train section, with images as the only limit."""
    changes = {"family": "pix2pix", "images": images, "minutes": None, "seed": seed}
    return bench.params.train.model_copy(update=changes)


def block(bench: Bench, name: str) -> dict[str, Any]:
    """The family's block in params.yaml, as this contestant has it."""
    return {**bench.params.families["pix2pix"], **TRAINED[name]}


def digest(bench: Bench, name: str, images: int) -> str:
    """Stands for all that decides a row: settings, code, data, judge and machine."""
    parts: list[Any] = [bench.device.facts]
    files = [ROOT / "benchmarks" / f"{module}.py" for module in ("pix2pix", "restore")]
    files += [ROOT / "models" / f"{module}.py" for module in ("extractors", "features", "measures")]
    files += [s.folder / "index.json" for s in bench.splits.values()]
    if name in TRAINED:
        parts += [block(bench, name), train_params(bench, images).model_dump(mode="json"), bench.seeds]
        files += [ROOT / each for each in code("train", "pix2pix")]
        files.append(bench.data / "reference/judge.safetensors")
    told = json.dumps([*parts, [file_digest(path) for path in files]], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def plain(bench: Bench, truth: Truth, name: str) -> dict[str, Any]:
    """The row of what nothing is trained for: the mean colour of train, or train's own images."""
    train = bench.images["train"].x
    if name == OTHERS:
        return {"per_seed": [truth.distance(torch.from_numpy(train))]}
    colour = np.round(train.mean((0, 2, 3))).astype(np.uint8)[:, None, None]
    answers = np.broadcast_to(colour, truth.pool.x_NCHW.shape).copy()
    return {"per_seed": [truth.measured(torch.from_numpy(answers))]}


def row(bench: Bench, truth: Truth, name: str, images: int, grid: Path) -> dict[str, Any]:
    """What a network makes of the test split's conditions, once a seed; write the first one's grid."""
    found = []
    for seed in range(bench.seeds):
        say(f"{name}: {images:,} images, seed {seed}")
        params = train_params(bench, images, seed)
        trained, _ = bench.fit(params, block(bench, name), bench.data / "real/train")
        answers = answered(trained.family, truth.pool, trained.device)
        found.append(truth.measured(answers))
        say(f"{name}: {found[-1]}")
        if not seed:
            grid.parent.mkdir(parents=True, exist_ok=True)
            with whole(grid) as file:
                file.write(png(drawn(trained.family, truth.pool, trained.device)))
    return {"images": images, "tested": len(truth.pool), "per_seed": found}


def answered(
    family: Any, pool: Pool, device: Device, rows_N: np.ndarray | None = None, more: int = 0
) -> torch.Tensor:
    """The family's answers to images of a split, by their row numbers, plus `more`, as seeds: uint8."""
    rows_N = np.arange(len(pool)) if rows_N is None else rows_N
    every, found = Sources(pool, rows_N[:, None]), []
    for start in range(0, len(rows_N), BATCH):
        part = every.take(slice(start, start + BATCH))
        seeds = [seed + more for seed in part.rows_NP[:, 0].tolist()]
        with torch.inference_mode(), device.autocast():
            sources, _ = part.asked(family, seeds, device)
            found.append(family.sample(sources[0].y_B, seeds, sources)[0].cpu())
    return torch.cat(found)


def drawn(family: Any, pool: Pool, device: Device) -> np.ndarray:
    """A grid (3, H, W): the conditions of COLUMNS test images, AGAIN answers to each, and the true images."""
    assert pool.c_NCHW is not None  # `main` refuses images that come without
    rows_N = np.argsort(pool.labels, kind="stable")  # every class is shown
    rows_N = rows_N[:: max(1, len(rows_N) // COLUMNS)][:COLUMNS]
    many = [answered(family, pool, device, rows_N, n * len(pool)) for n in range(AGAIN)]
    ids = (pool.shards.condition or {}).get("ids")
    asked = pool.c_NCHW[rows_N] * (255 // (ids - 1) if ids else 1)
    shown = [each.expand(-1, 3, -1, -1) for each in (asked, *many, pool.x_NCHW[rows_N])]
    return tile(torch.cat(shown).numpy(), len(rows_N))


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The README's table: the mean over seeds, and the standard deviation where there are several."""
    lines = [["", *(head for head, _ in HEADS.values())], ["---"] * (1 + len(HEADS))]
    for name, found in rows.items():
        cells = []
        for key, (_, form) in HEADS.items():
            values = [each[key] for each in found["per_seed"] if key in each]
            spread = f" ± {np.std(values, ddof=1):{form}}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):{form}}{spread}" if values else "-")
        lines.append([name, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
