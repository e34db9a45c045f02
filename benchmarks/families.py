"""Every family and its peers, trained on the same images for the same time, in one table.

`python -m benchmarks.families` needs `dvc repro calibrate` first. The peers (benchmarks/peers.py) take
part where they are installed: `pip install diffusers pythae`. Each row is a training of `--minutes`
on data/real/train, with the settings of params.yaml, and as many samples as there are train images.
Accuracy is evaluate's: a probe trained on the samples alone, unfiltered, on the test split. Set
measures are in the judge's features, and bits/dim, where a family knows it, on the calibrate split.

The learning rates of diffusion, vae and the peers are tuned alike: `--trials` short trainings around
each one's default, a fifth as long, scored on the calibrate split. A finished row is kept in
benchmarks/results, and is not made again while nothing that decides it has changed.
"""

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.contest import MULTIPLIERS, Bench, told
from benchmarks.rows import kept, read_rows
from models.families import names
from tasks import fitting
from tasks.errors import UserError
from tasks.layout import PARAMS, ROOT
from tasks.reading import read
from tasks.shards import png, whole

RESULTS = ROOT / "benchmarks/results"
GRID = 10
TRIAL = 1 / 5  # share of the minutes that a trial gets
TRIAL_SAMPLES = 500  # at most: some sample slowly
COLUMNS: dict[str, tuple[str, str]] = {  # by key of a row: heading and format
    "parameters": ("parameters", ",.0f"),
    "train_rate": ("train img/s", ",.0f"),
    "sample_rate": ("sample img/s", ",.0f"),
    "accuracy": ("accuracy %", ".2f"),
    "frechet_distance": ("Fréchet", ".2f"),
    "precision": ("precision", ".3f"),
    "recall": ("recall", ".3f"),
    "coverage": ("coverage", ".3f"),
    "bits_per_dim": ("bits/dim", ".3f"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the rows that are missing, and print the table of all that were asked for."""
    options = parser().parse_args(arguments)
    try:
        params = read(PARAMS)
        bench = Bench(params, options.data, options.minutes, options.seeds, options.trials)
        dataset = options.name or Path(params.ingest.source).stem
        rows = run(bench, options.only or contestants(), options.results, dataset)
    except UserError as error:
        sys.exit(str(error))
    if rows:
        print(markdown(rows) if options.markdown else table(rows))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser("benchmarks.families", description=(__doc__ or "").split("\n")[0])
    found.add_argument("--minutes", type=positive, default=5.0, help="time that each training gets")
    found.add_argument("--data", type=Path, default=Path("data"), help="the folder of real/ and reference/")
    found.add_argument("--name", help="of the dataset, in file names; else that of ingest.source")
    found.add_argument("--only", type=some, help="contestants, with commas between")
    found.add_argument(
        "--seeds", type=int, default=3, choices=range(1, 101), metavar="N", help="probes a row"
    )
    found.add_argument(
        "--trials", type=int, default=3, choices=range(len(MULTIPLIERS) + 1), help="learning rates tried"
    )
    found.add_argument("--markdown", action="store_true", help="print the table as the README has it")
    found.add_argument("--results", type=Path, default=RESULTS, help="the folder of finished rows and grids")
    return found


def positive(text: str) -> float:
    """A number above 0. Raises ValueError otherwise, which argparse explains."""
    if (number := float(text)) > 0:
        return number
    raise ValueError


def some(text: str) -> list[str]:
    """Names of contestants. Raises ArgumentTypeError that names an unknown one."""
    if unknown := sorted(set(text.split(",")) - set(contestants())):
        raise argparse.ArgumentTypeError(f"no {unknown[0]!r}; there are: {', '.join(contestants())}")
    return text.split(",")


def contestants() -> list[str]:
    """Every family that is asked with labels, then every peer."""
    return [*names("label"), *peers.PEERS]


def run(bench: Bench, wanted: Sequence[str], results: Path, dataset: str) -> dict[str, dict[str, Any]]:
    """Make the wanted rows, each written at once; those already there for the same settings are kept."""
    path = results / f"families-{dataset}-{bench.minutes:g}min.json"
    rows: dict[str, dict[str, Any]] = {}
    bench.check()
    read_rows(path)  # a broken file is told before any work
    for name in wanted:
        if name in peers.PEERS and (why := peers.missing(name)):
            print(why, file=sys.stderr)
            continue
        grid = results / f"grids/{dataset}-{name}.png"
        try:
            rows[name] = kept(path, name, bench.digest(name), partial(row, bench, name, grid))
        except UserError as error:
            print(f"{name}: no row. {error}", file=sys.stderr)
    return rows


def row(bench: Bench, name: str, grid: Path) -> dict[str, Any]:
    """Tune, train, draw and measure one contestant; write its grid. Raises UserError if it stays ill."""
    rates = bench.learning_rates(name)
    tried = [{"lr": lr, "accuracy": trial(bench, name, lr)} for lr in rates] if len(rates) > 1 else []
    lr = max(tried, key=lambda t: t["accuracy"])["lr"] if tried else rates[0]
    say(f"{name}: {bench.minutes:g} minutes with lr {lr:.2g}")
    trained = bench.train(name, lr, bench.minutes)
    started = time.monotonic()
    drawn = bench.draw(trained)
    seconds = time.monotonic() - started
    grid.parent.mkdir(parents=True, exist_ok=True)
    with whole(grid) as file:
        file.write(png(fitting.tile(drawn.x[grid_rows(drawn.y)], GRID)))
    accuracy = bench.accuracy(drawn, "test", bench.seeds)
    return {
        "parameters": trained.parameters,
        "train_rate": round(trained.images / (60 * bench.minutes), 1) or None,
        "sample_rate": round(len(drawn.y) / seconds, 1),
        "accuracy": told(accuracy),
        **bench.distances(drawn),
        "bits_per_dim": bench.bits_per_dim(trained.family),
        "lr": lr,
        "tried": tried,
        "note": trained.note,
    }


def trial(bench: Bench, name: str, lr: float) -> float:
    """Accuracy of one probe on the calibrate split after a short training; 0 if it stays ill."""
    try:
        drawn = bench.draw(bench.train(name, lr, TRIAL * bench.minutes), TRIAL_SAMPLES)
    except UserError:
        return 0.0
    accuracy = bench.accuracy(drawn, "calibrate", 1)["mean"] or 0.0
    say(f"{name}: tried lr {lr:.2g}: {accuracy:.2%} on the calibrate split")
    return accuracy


def grid_rows(y_N: np.ndarray) -> np.ndarray:
    """(100,) rows of samples for a grid: column k shows class k; where there are fewer, they come again."""
    classes = [np.flatnonzero(y_N == label) for label in np.unique(y_N)]
    shown = [0] * len(classes)
    rows = []
    for place in range(GRID * GRID):
        of_class = place % GRID % len(classes)
        rows.append(classes[of_class][shown[of_class] % len(classes[of_class])])
        shown[of_class] += 1
    return np.array(rows)


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows as text, one a contestant, and under it what was tried for each. Unknown is a dash."""
    cells = [["", *(heading for heading, _ in COLUMNS.values())]]
    for name, found in rows.items():
        cells.append([name, *(cell(found.get(key), form) for key, (_, form) in COLUMNS.items())])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in cells]
    for name, found in rows.items():
        tried = "; ".join(f"lr {t['lr']:.2g} {t['accuracy']:.2%}" for t in found["tried"])
        chosen = f"lr {found['lr']:.2g}" + (f", of {tried} on the calibrate split" if tried else "")
        lines.append(f"{name}: {chosen}. {found['note'][:1].upper()}{found['note'][1:]}.")
    return "\n".join(lines)


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows as the README's table."""
    lines = [["", *(heading for heading, _ in COLUMNS.values())], ["---"] * (1 + len(COLUMNS))]
    for name, found in rows.items():
        lines.append([f"`{name}`", *(cell(found.get(key), form) for key, (_, form) in COLUMNS.items())])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Any, form: str) -> str:
    """One number as text; a dash for None, and for an accuracy its mean and deviation in percent."""
    if isinstance(value, Mapping):
        mean, std = value["mean"], value["std"]
        spread = "" if std is None else f" ± {100 * std:.2f}"
        return "-" if mean is None else f"{100 * mean:{form}}{spread}"
    return "-" if value is None else f"{value:{form}}"


def say(what: str) -> None:
    """Tell the user how far it is, but not in CI."""
    if "CI" not in os.environ:
        print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
