"""Peak memory of generate, and of filter and export after it, at few and at many samples.

`python -m benchmarks.memory` clones the project, trains a tiny `vae` on `digits`, and runs the three
stages as a user does, a process each, at 10,000 and at 100,000 samples. What generate holds must not
grow with them; filter and export compare or list all samples, and are told beside it.
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
from typing import Any, NamedTuple

from benchmarks.orchestration import TINY, clone, plain
from tasks.layout import ROOT
from tasks.overriding import override
from tasks.shards import write_text

RESULT = ROOT / "benchmarks/results/memory.json"
BEFORE = ("ingest", "preprocess", "calibrate", "train")
MEASURED = ("generate", "filter", "export")
FLOOR = 1.1  # what generate may hold at many samples, beside what it holds at few
LOG = "command.log"  # in the clone: what the last command said
PARAMS: dict[str, dict[str, Any]] = {
    **TINY,
    "train": {"family": "vae", "images": 4_000},
    "generate": {"batch": 250, "shard_size": 1_000, "steps": None},
    "evaluate": {"arms": ["real", "synthetic"], "images": 500, "seeds": 1},
    "machine": {"device": "cpu", "threads": 1, "workers": 1},
}


def set_params(root: Path, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Change the params of the project in `root`."""
    keys = {f"{section}.{key}": value for section, block in changes.items() for key, value in block.items()}
    override(root / "params.yaml", keys)


class Spent(NamedTuple):
    """What a command took: seconds by the clock and of a processor, and the most MiB that it held."""

    seconds: float
    cpu_seconds: float
    peak: float


def spent(root: Path, environment: Mapping[str, str], *command: str) -> Spent:
    """Run a Python command in `root`. Raises RuntimeError with the end of what it said if it fails."""
    started = time.monotonic()
    with open(root / LOG, "wb") as log:
        child = subprocess.Popen(
            [sys.executable, *command], cwd=root, env=environment, stdout=log, stderr=log
        )
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError((root / LOG).read_text(encoding="utf-8")[-2_000:])
    return Spent(time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def stage(name: str, root: Path, environment: Mapping[str, str]) -> Spent:
    """Run a stage as a user does."""
    return spent(root, environment, "-m", f"flows.{name}")


def measure(root: Path, few: int, many: int, stages: Sequence[str]) -> dict[str, Any]:
    """For each stage, its peak in MiB at few and at many samples, and the ratio."""
    environment = clone(root)
    set_params(root, PARAMS)
    plain(root, environment, BEFORE)
    peaks: dict[str, list[float]] = {name: [] for name in stages}
    for count in (few, many):
        set_params(root, {"generate": {"num_samples": count}})
        for name in MEASURED[: 1 + max(MEASURED.index(name) for name in stages)]:
            if name == "export":
                plain(root, environment, ["evaluate"])
            if name in stages:
                peaks[name].append(stage(name, root, environment).peak)
            else:
                plain(root, environment, [name])
    return {
        name: {f"{few}": round(a, 1), f"{many}": round(b, 1), "ratio": round(b / a, 3)}
        for name, (a, b) in peaks.items()
    }


def markdown(rows: Mapping[str, Mapping[str, float]]) -> str:
    """The rows as Markdown."""
    few, many, _ = next(iter(rows.values()))
    lines = [
        f"| peak MiB | {int(few):,} samples | {int(many):,} samples | ratio |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {n} | {r[few]:,.0f} | {r[many]:,.0f} | {r['ratio']:.2f} |" for n, r in rows.items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table and keep the rows."""
    found = argparse.ArgumentParser("benchmarks.memory", description=(__doc__ or "").split("\n")[0])
    found.add_argument("--samples", type=int, nargs=2, default=(10_000, 100_000))
    found.add_argument("--stages", nargs="+", choices=MEASURED, default=MEASURED)
    found.add_argument("--results", type=Path, default=RESULT)
    options = found.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        few, many = options.samples
        rows = measure(Path(folder) / "project", few, many, options.stages)
    write_text(options.results, json.dumps(rows, indent=1) + "\n")
    print(markdown(rows))
    print(f"floor of generate: {FLOOR}")


if __name__ == "__main__":
    main()
