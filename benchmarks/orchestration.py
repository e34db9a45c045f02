"""What `dvc repro` costs beside the stages' own work, next to bare DVC with eight empty scripts.

`python -m benchmarks.orchestration` clones the project and runs it on tiny params: its stages as
plain scripts, then by `dvc repro` with no Prefect server, with one, and with nothing changed. It
prints by how much the later runs are slower than the plain scripts.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from flows.server import Server
from tasks.layout import ROOT

RESULTS = ROOT / "benchmarks/results/orchestration.json"
TINY: dict[str, dict[str, Any]] = {
    "ingest": {"source": "data/sources/digits.yaml"},
    "preprocess": {"size": 8},
    "calibrate": {"images": 2_000},
    "train": {"images": 2_000},
    "generate": {"num_samples": 100, "batch": 50, "steps": 4},
    "filter": {"unlike_label": None, "outlier": None},
    "evaluate": {"images": 500, "seeds": 1},
}


def clone(root: Path) -> dict[str, str]:
    """Clone the project into `root` with tiny params; return the environment to run it in."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(root)], check=True)
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    tiny = {section: {**values, **TINY.get(section, {})} for section, values in params.items()}
    (root / "params.yaml").write_text(yaml.safe_dump({**tiny, "gates": {}}, sort_keys=False))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PREFECT_HOME": str(root / ".prefect"), "CI": "true"}


def repro(root: Path, environment: dict[str, str], *options: str) -> float:
    """Run `dvc repro` and return its wall-clock seconds."""
    started = time.monotonic()
    command = [sys.executable, "-m", "dvc", "repro", "--quiet", *options]
    subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True)
    return time.monotonic() - started


def plain(root: Path, environment: Mapping[str, str], stages: Sequence[str]) -> float:
    """Run the crafts of `stages` as plain scripts, one process a stage, and return the seconds."""
    started = time.monotonic()
    for stage in stages:
        command = [sys.executable, "-m", "benchmarks.plain", stage]
        subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True)
    return time.monotonic() - started


@contextmanager
def server(environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """A Prefect server on loopback that outlives the stages."""
    with mock.patch.dict(os.environ, PREFECT_HOME=environment["PREFECT_HOME"]), Server() as running:
        yield {**environment, "PREFECT_API_URL": running.wait()}


def bare(root: Path) -> float:
    """DVC alone: eight stages that each run an empty Python script."""
    root.mkdir()
    stages = {
        f"stage{n}": {
            "cmd": f"{sys.executable} -c \"open('out{n}', 'w').close()\"",
            "deps": [f"out{n - 1}"] if n else [],
            "outs": [f"out{n}"],
        }
        for n in range(8)
    }
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=root, check=True)
    return repro(root, dict(os.environ))


def main() -> None:
    """Print the table, and keep it in benchmarks/results."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "project"
        environment = clone(root)
        repro(root, environment)  # the first run also makes Prefect's database
        stages = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
        own = plain(root, environment, list(stages))
        seconds = {"no server": repro(root, environment, "--force")}
        with server(environment) as served:
            seconds["server up"] = repro(root, served, "--force")
        rows = {
            name: {"wall": round(wall, 1), "outside": round(wall - own, 1)} for name, wall in seconds.items()
        }
        rows["nothing changed"] = {"outside": round(repro(root, environment), 1)}
        rows["bare dvc, 8 empty scripts"] = {"outside": round(bare(Path(folder) / "bare"), 1)}
    peer = rows["bare dvc, 8 empty scripts"]["outside"]
    print(f"the stages' own work, as eight plain scripts: {own:.1f} s")
    for name, row in rows.items():
        print(f"{name:28} outside it {row['outside']:6.1f} s   {row['outside'] / peer:5.1f}x bare")
    rows["plain scripts"] = {"wall": round(own, 1)}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
