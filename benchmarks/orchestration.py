"""What `dvc repro` costs beside the stages' own work, next to bare DVC with eight empty scripts.

`python -m benchmarks.orchestration` clones the project, runs it on tiny params with no Prefect
server, with one, and with nothing changed, and prints the seconds that no task accounts for.
"""

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
    "filter": {"probability": None, "outlier_distance": None},
    "evaluate": {"images": 500, "seeds": 1},
}
TASK_SECONDS = """
    select sum((julianday(end_time) - julianday(start_time)) * 86400) from task_run where start_time > ?
"""


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


def task_seconds(home: Path, since: str) -> float:
    """The seconds that tasks report in Prefect's database: the stages' own work."""
    with sqlite3.connect(home / "prefect.db") as database:
        return database.execute(TASK_SECONDS, (since,)).fetchone()[0] or 0.0


def overhead(root: Path, environment: dict[str, str]) -> dict[str, float]:
    """Run all stages; return seconds in all, in tasks, and the rest."""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    wall = repro(root, environment, "--force")
    own = task_seconds(root / ".prefect", since)
    return {"wall": round(wall, 1), "own": round(own, 1), "outside": round(wall - own, 1)}


@contextmanager
def server(environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """A Prefect server on loopback that outlives the stages."""
    before = os.environ.copy()
    os.environ.update({"PREFECT_HOME": environment["PREFECT_HOME"]})
    running = Server()
    try:
        yield {**environment, "PREFECT_API_URL": running.wait()}
    finally:
        running.stop()
        os.environ.clear()
        os.environ.update(before)


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
        rows = {"no server": overhead(root, environment)}
        with server(environment) as served:
            rows["server up"] = overhead(root, served)
        rows["nothing changed"] = {"outside": round(repro(root, environment), 1)}
        rows["bare dvc, 8 empty scripts"] = {"outside": round(bare(Path(folder) / "bare"), 1)}
    peer = rows["bare dvc, 8 empty scripts"]["outside"]
    for name, row in rows.items():
        print(
            f"{name:28} outside the stages' work {row['outside']:6.1f} s   {row['outside'] / peer:5.1f}x bare"
        )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
