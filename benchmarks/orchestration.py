"""What DVC and Prefect cost beside the stages' own work, next to bare DVC with eight empty scripts.

`python -m benchmarks.orchestration` clones the project and runs it on tiny params: its stages as
plain scripts, then by `dvc repro` with no Prefect server and with one, by the pipeline flow, and with
nothing changed. It prints how much longer the later runs take a stage: the middle of all rounds, and
the lowest and the highest.
"""

import argparse
import json
import os
import shutil
import statistics
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
PEER = "more: bare DVC, 8 empty scripts"
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


def seconds(root: Path, environment: Mapping[str, str], *command: str) -> float:
    """Run a Python module as a command, and return its wall-clock seconds."""
    started = time.monotonic()
    whole = [sys.executable, "-m", *command]
    subprocess.run(whole, cwd=root, env=environment, check=True, capture_output=True)
    return time.monotonic() - started


def repro(root: Path, environment: Mapping[str, str], *options: str) -> float:
    """Run `dvc repro` and return its wall-clock seconds."""
    return seconds(root, environment, "dvc", "repro", "--quiet", *options)


def plain(root: Path, environment: Mapping[str, str], stages: Sequence[str]) -> float:
    """Run the crafts of `stages` as plain scripts, one process a stage, and return the seconds."""
    return sum(seconds(root, environment, "benchmarks.plain", stage) for stage in stages)


def by_flow(root: Path, served: Mapping[str, str]) -> float:
    """Run the pipeline flow; return the seconds from its first stage's start to its last one's end."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.settings import PREFECT_API_URL, temporary_settings

    seconds(root, served, "flows.pipeline")
    named = FlowFilter.model_validate({"name": {"any_": ["pipeline"]}})
    connected = temporary_settings({PREFECT_API_URL: served["PREFECT_API_URL"]})
    with connected, get_client(sync_client=True) as client:
        (run,) = client.read_flow_runs(flow_filter=named, sort=FlowRunSort.START_TIME_DESC, limit=1)
        own = FlowRunFilter.model_validate({"id": {"any_": [run.id]}})
        told = client.read_task_runs(flow_run_filter=own)
    stages = [each for each in told if "reproduce" in each.task_key]
    starts, ends = ([getattr(each, name) for each in stages] for name in ("start_time", "end_time"))
    return (max(ends) - min(starts)).total_seconds()


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


def measured(root: Path, environment: dict[str, str], stages: Sequence[str]) -> dict[str, float]:
    """One round: the seconds outside the stages' own work, and that work's."""
    own = plain(root, environment, stages)
    row = {"plain scripts": own, "more: dvc repro, no server": repro(root, environment, "--force") - own}
    with server(environment) as served:
        row["more: dvc repro, server up"] = repro(root, served, "--force") - own
        (root / "dvc.lock").unlink()
        shutil.rmtree(root / ".dvc/cache/runs")
        row["more: pipeline flow, server up"] = by_flow(root, served) - own
        row["pipeline flow, nothing changed"] = by_flow(root, served)
    row["dvc repro, nothing changed"] = repro(root, environment)
    row[PEER] = bare(root.parent / "bare")
    shutil.rmtree(root.parent / "bare")
    return row


def main() -> None:
    """Print the table, and keep it in benchmarks/results."""
    parser = argparse.ArgumentParser("benchmarks.orchestration", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "project"
        environment = clone(root)
        repro(root, environment)  # the first run also makes Prefect's database
        stages = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
        each = [measured(root, environment, list(stages)) for _ in range(rounds)]
    rows = {name: sorted(round(row[name] / len(stages), 2) for row in each) for name in each[0]}
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    print(markdown(rows))


def markdown(rows: Mapping[str, Sequence[float]]) -> str:
    """The seconds a stage (the middle of all rounds, the lowest, the highest) and the ratio to bare DVC."""
    peer = statistics.median(rows[PEER])
    lines = ["| | s a stage | times bare DVC |", "| --- | --- | --- |"]
    for name, found in rows.items():
        middle = statistics.median(found)
        lines.append(f"| {name} | {middle:.2f} [{found[0]:.2f}, {found[-1]:.2f}] | {middle / peer:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
