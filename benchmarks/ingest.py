"""Ingest and preprocess beside `datasets`, on the same folder of images, in images a second.

`python -m benchmarks.ingest --source FOLDER` (cifar10-5k: class folders of 32 x 32 photographs). Ours
checks, hashes, deduplicates, resizes and splits into sealed shards; the peer loads the folder with
`imagefolder`, resizes with `map` in as many processes, and writes Parquet. Each run is a process of its
own, by turns, timed once its imports are done; the fastest of either counts. With a size that is not the
images' own, both scale.
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

from tasks import fetching, imaging, splitting
from tasks.layout import ROOT
from tasks.params import IngestParams, PreprocessParams
from tasks.shards import Shards, seal, write_text

RESULT = ROOT / "benchmarks/results/ingest.json"
RUNS = ("ingest", "preprocess", "datasets")
FLOOR = 2.0


def ingest(source: Path, home: Path, size: int, workers: int) -> float:
    """The seconds of the ingest stage."""
    params, raw = IngestParams(source=str(source)), home / "raw"
    raw.mkdir()
    started = time.monotonic()
    seal(raw, **fetching.keep(fetching.fetch(params, raw), raw, params, workers))
    return time.monotonic() - started


def preprocess(source: Path, home: Path, size: int, workers: int) -> float:
    """The seconds of the preprocess stage, after ingest."""
    params, raw, real = PreprocessParams(size=size, channels=3), home / "raw", home / "real"
    real.mkdir()
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


def alone(run: str, *arguments: Any) -> float:
    """One run in a process of its own: its seconds."""
    command = [sys.executable, "-m", "benchmarks.ingest", "--alone", run, *map(str, arguments)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CI": "true"}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def measure(source: Path, size: int, workers: int, tries: int) -> dict[str, Any]:
    """A row: images, images a second of either, and the ratio."""
    fastest: dict[str, float] = {}
    for _ in range(tries):
        with tempfile.TemporaryDirectory() as folder:
            for run in RUNS:
                seconds = alone(run, source.resolve(), folder, size, workers)
                fastest[run] = min(seconds, fastest.get(run, seconds))
            images = Shards.open(Path(folder) / "raw").rows
    ours = fastest["ingest"] + fastest["preprocess"]
    return {
        "images": images,
        "workers": workers,
        **{f"{run}_seconds": round(seconds, 2) for run, seconds in fastest.items()},
        "ours": round(images / ours),
        "datasets": round(images / fastest["datasets"]),
        "ratio": round(fastest["datasets"] / ours, 2),
    }


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The kept rows as the README shows them."""
    lines = ["| images/s | ingest + preprocess | `datasets` | ratio |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {name} | {r['ours']:,} | {r['datasets']:,} | {r['ratio']:.1f} |" for name, r in rows.items()
    ]
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
    rows = {}
    for size in options.sizes:
        rows[f"{options.source.name}, to {size} x {size}"] = measure(
            options.source, size, options.workers, options.tries
        )
    write_text(options.results, json.dumps(rows, indent=1) + "\n")
    print(markdown(rows), f"\nfloor: {FLOOR:.0f}")


if __name__ == "__main__":
    main()
