"""Ingest and preprocess beside `datasets`, on the same folder of images, in images a second.

`python -m benchmarks.ingest --source FOLDER` (cifar10-5k: class folders of 32 x 32 photographs). Ours
checks, hashes, deduplicates, resizes and splits into sealed shards; the peer loads the folder with
`imagefolder`, resizes with `map` in as many processes, and writes Parquet. Each run is a process of its
own, by turns, timed once its imports are done and our workers are up (the peer forks its own); the
fastest of either counts. With a size that is not the images' own, both scale.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.rows import read_rows
from tasks import fetching, imaging, splitting
from tasks.fetching import checking
from tasks.layout import ROOT
from tasks.params import IngestParams, PreprocessParams
from tasks.shards import Shards, seal, write_text
from tasks.workers import spread

RESULT = ROOT / "benchmarks/results/ingest.json"
RUNS = ("ingest", "preprocess", "datasets")
FLOOR = 2.0


def start_up(function: Any, job: Any, workers: int) -> None:
    """Import what the first call would, here and in the workers, which the stage's own pool takes over."""
    pa.array([b""])  # imports pandas, which `datasets` does when it is imported itself
    function(job)
    if workers > 1:
        list(spread(function, [job] * 20, sys.maxsize, workers))


def ingest(source: Path, home: Path, size: int, workers: int) -> float:
    """The seconds of the ingest stage."""
    params, raw = IngestParams(source=str(source)), home / "raw"
    raw.mkdir()
    start_up(checking.verify, ([], 1), workers)
    started = time.monotonic()
    seal(raw, **fetching.keep(fetching.fetch(params, raw), raw, params, workers))
    return time.monotonic() - started


def preprocess(source: Path, home: Path, size: int, workers: int) -> float:
    """The seconds of the preprocess stage, after ingest."""
    params, raw, real = PreprocessParams(size=size, channels=3), home / "raw", home / "real"
    real.mkdir()
    first = Shards.open(raw).table(["image"])["image"][0].as_py()["bytes"]
    start_up(imaging.prepare, imaging.Job([first], [None], params), workers)
    started = time.monotonic()
    spool = imaging.spool(raw, real / "prepared", params, workers)
    seal(real, **splitting.split(spool, real, raw, params))
    return time.monotonic() - started


def peer(source: Path, home: Path, size: int, workers: int) -> float:
    """The seconds that `datasets` takes from the folder to Parquet."""
    from datasets import load_dataset

    def resize(row: dict[str, Any]) -> dict[str, Any]:
        return {"image": row["image"].convert("RGB").resize((size, size))}

    started = time.monotonic()
    loaded = load_dataset("imagefolder", data_dir=str(source), cache_dir=str(home / "cache"))
    for split, rows in loaded.map(resize, num_proc=workers).items():
        rows.to_parquet(home / f"{split}.parquet")
    return time.monotonic() - started


def alone(run: str, *arguments: Any) -> tuple[float, float]:
    """One run in a process of its own: its seconds, and those with all start-up."""
    command = [sys.executable, "-m", "benchmarks.ingest", "--alone", run, *map(str, arguments)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CI": "true"}
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1]), time.monotonic() - started


def measure(source: Path, size: int, workers: int, tries: int) -> dict[str, Any]:
    """A row: images, seconds, images a second of either, and the ratio, without start-up and with it."""
    seconds: dict[str, list[tuple[float, float]]] = {run: [] for run in RUNS}
    for _ in range(tries):
        with tempfile.TemporaryDirectory() as folder:
            for run in RUNS:
                seconds[run].append(alone(run, source.resolve(), folder, size, workers))
            images = Shards.open(Path(folder) / "raw").rows
    work, whole = ({run: min(each[n] for each in tried) for run, tried in seconds.items()} for n in (0, 1))
    return {
        "images": images,
        "workers": workers,
        "seconds": {run: round(work[run], 2) for run in RUNS},
        "with_start_up": {run: round(whole[run], 2) for run in RUNS},
        "ours": round(images / (work["ingest"] + work["preprocess"])),
        "datasets": round(images / work["datasets"]),
        "ratio": round(work["datasets"] / (work["ingest"] + work["preprocess"]), 2),
        "ratio_with_start_up": round(whole["datasets"] / (whole["ingest"] + whole["preprocess"]), 2),
    }


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The kept rows as the docs show them."""
    head = ["images/s", "ingest + preprocess", "`datasets`", "ratio", "with all start-up"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for name, row in rows.items():
        ratios = f"{row['ratio']:.1f} | {row['ratio_with_start_up']:.1f}"
        lines.append(f"| {name} | {row['ours']:,} | {row['datasets']:,} | {ratios} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table and keep the rows."""
    found = argparse.ArgumentParser("benchmarks.ingest", description=(__doc__ or "").split("\n")[0])
    found.add_argument("--source", type=Path, help="a folder of train/ and test/, and class folders in them")
    found.add_argument("--sizes", type=int, nargs="+", default=[32, 24])
    found.add_argument("--workers", type=int, default=2, help="processes, the same for both")
    found.add_argument("--tries", type=int, default=3)
    found.add_argument("--results", type=Path, default=RESULT)
    found.add_argument("--alone", nargs=5, help=argparse.SUPPRESS)
    options = found.parse_args(arguments)
    if options.alone:
        run, source, home, size, workers = options.alone
        timed = {"ingest": ingest, "preprocess": preprocess, "datasets": peer}[run]
        print(timed(Path(source), Path(home), int(size), int(workers)))
        return
    if options.source is None:
        found.error("--source: which folder of images?")
    rows = read_rows(options.results)
    for size in options.sizes:
        rows[f"{options.source.name}, to {size} x {size}"] = measure(
            options.source, size, options.workers, options.tries
        )
    write_text(options.results, json.dumps(rows, indent=1) + "\n")
    print(markdown(rows), f"\nfloor: {FLOOR:.0f}")


if __name__ == "__main__":
    main()
