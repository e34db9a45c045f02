"""Kill generate and train at random moments, run them again, and count the identical outs.

`python -m benchmarks.kills` copies the project with tiny params, makes checkpoint and samples undisturbed,
then again and again: begins, sends SIGKILL at a random moment of the work (to all of its processes, to
the first alone, or to a worker), runs the same command again, and compares the sealed digests. Then it
draws with other numbers of workers, and on a Dask cluster over loopback, one of whose two workers is killed.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks.low_data import project
from benchmarks.machines import until
from benchmarks.orchestration import server
from benchmarks.rows import read_rows
from tasks.children import die_with_parent
from tasks.device import prepare
from tasks.layout import CHECKPOINT, PARAMS, ROOT, SYNTHETIC, UNFINISHED
from tasks.params import Machine
from tasks.shards import INDEX, file_digest, write_text

RESULTS = ROOT / "benchmarks/results/kills.json"
TARGETS = {"generate": ("all", "the first process", "a worker"), "train": ("all", "the first process")}
OUTS = {"train": CHECKPOINT, "generate": SYNTHETIC}
TINY: dict[str, dict[str, Any]] = {
    "ingest": {"source": "data/sources/digits.yaml"},
    "preprocess": {"size": 8},
    "calibrate": {"images": 12_000},
    "train": {"images": 6_000, "checkpoint_every": 1_000, "grid_every": 2_000},
    "generate": {"num_samples": 2_000, "batch": 50, "shard_size": 50},
    "machine": {"device": "cpu", "threads": 1, "workers": 1},
}
STATES = ("shard-*.parquet", "state.safetensors", "healthy.safetensors")
WORKERS = (1, 2, 4)
PATIENCE = 120  # seconds
TRIES = 10  # to kill a stage before it is done


class Project:
    """A copy of the project in which stages are run, killed, and run again."""

    def __init__(self, root: Path, environment: Mapping[str, str]) -> None:
        plain = yaml.safe_load((ROOT / PARAMS).read_text(encoding="utf-8"))
        self.params = {name: {**block, **TINY.get(name, {})} for name, block in plain.items()}
        self.facts = prepare(Machine(**self.params["machine"]), "auto").facts
        self.root, self.environment = root, {**os.environ, **environment, "CI": "true"}
        root.mkdir()
        project(root, self.params)

    def machine(self, **changes: Any) -> None:
        """Change how work is carried out, and nothing else."""
        given = {**self.params, "machine": {**self.params["machine"], **changes}}
        write_text(self.root / PARAMS, yaml.safe_dump(given, sort_keys=False))

    def begin(self, *command: str) -> "subprocess.Popen[str]":
        """Start a Python command that leads a session of its own."""
        return subprocess.Popen(
            [sys.executable, *command], cwd=self.root, env=self.environment, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=die_with_parent,
        )  # fmt: skip

    def run(self, stage: str) -> None:
        """Run a stage to its end."""
        running = self.begin("-m", f"flows.{stage}")
        said, _ = running.communicate(timeout=PATIENCE)
        if running.returncode:
            raise RuntimeError(f"{stage} failed:\n{said}")

    def clear(self, stage: str) -> None:
        """Take away a stage's out and its unfinished work."""
        for path in (OUTS[stage], UNFINISHED / stage):
            shutil.rmtree(self.root / path, ignore_errors=True)

    def digest(self, stage: str) -> str:
        """Stands for a sealed out: its index holds the digest of every file."""
        return file_digest(self.root / OUTS[stage] / INDEX)

    def at_work(self, stage: str, running: "subprocess.Popen[str]", shards: int = 0) -> None:
        """Wait until the stage has begun its own work, and has written so many shards."""
        deadline = time.monotonic() + PATIENCE
        while running.poll() is None and time.monotonic() < deadline:
            begun = list((self.root / UNFINISHED / stage).glob("*/recipe.json"))
            if begun and len(list(begun[0].parent.glob("shard-*.parquet"))) >= shards:
                return
            time.sleep(0.01)
        raise RuntimeError(f"{stage} ended, or never began:\n{running.communicate()[0]}")


def undisturbed(here: Project, stage: str) -> tuple[str, float]:
    """Run a stage from nothing; return its digest, and the seconds of its own work."""
    here.clear(stage)
    running = here.begin("-m", f"flows.{stage}")
    here.at_work(stage, running)
    started = time.monotonic()
    while not (here.root / OUTS[stage] / INDEX).is_file() and running.poll() is None:
        time.sleep(0.01)
    seconds = time.monotonic() - started
    said, _ = running.communicate(timeout=PATIENCE)
    if running.returncode:
        raise RuntimeError(f"{stage} failed:\n{said}")
    return here.digest(stage), seconds


def killed(here: Project, stage: str, target: str, after: float) -> tuple[str, str] | None:
    """Begin a stage, kill `target` so many seconds into the work, and run it again until it is done.

    Returns the digest, and how far it was: `begun`, or `half done`; None if it was done too soon.
    """
    here.clear(stage)
    running = here.begin("-m", f"flows.{stage}")
    here.at_work(stage, running)
    if target == "a worker":
        here.at_work(stage, running, shards=1)  # before that it would only be starting
    time.sleep(after)
    victims = workers(running.pid)[:1] if target == "a worker" else [running.pid]
    over = not victims or (here.root / OUTS[stage] / INDEX).is_file()
    made = [p for n in STATES for p in (here.root / UNFINISHED / stage).glob(f"*/{n}")]
    with suppress(ProcessLookupError):
        for victim in victims:
            (os.killpg if target == "all" else os.kill)(victim, signal.SIGKILL)
    running.communicate(timeout=PATIENCE)
    if over:
        return None
    if running.returncode:
        here.run(stage)
    return here.digest(stage), "half done" if made else "begun"


def workers(parent: int) -> list[int]:
    """The worker processes of a stage."""
    found = []
    for listed in Path(f"/proc/{parent}/task").glob("*/children"):  # any of its threads may have started them
        with suppress(FileNotFoundError, ProcessLookupError):
            for child in listed.read_text().split():
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
    return found


@contextmanager
def cluster(here: Project) -> Iterator[tuple[str, list["subprocess.Popen[str]"]]]:
    """A Dask scheduler and two workers, of one thread each, over loopback."""
    told = here.root / "scheduler.json"
    told.unlink(missing_ok=True)
    quiet = ("--no-dashboard", "--scheduler-file", str(told))
    parts = [here.begin("-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", "0", *quiet)]
    try:
        until(lambda: told.is_file() and told.read_text(), "Dask's scheduler")
        own = ("--nthreads", "1", "--no-nanny", "--host", "127.0.0.1", *quiet)
        parts += [here.begin("-m", "dask", "worker", *own) for _ in range(2)]
        yield json.loads(told.read_text())["address"], parts[1:]
    finally:
        for part in parts:
            with suppress(ProcessLookupError):
                os.killpg(part.pid, signal.SIGKILL)
            part.communicate()


def on_dask(here: Project, kill: bool) -> str:
    """Generate on a cluster of two workers; kill one of them once a shard is there. Returns the digest."""
    here.clear("generate")
    with cluster(here) as (address, parts):
        here.machine(engine="dask", scheduler=address)
        running = here.begin("-m", "flows.generate")
        if kill:
            here.at_work("generate", running, shards=2)
            os.kill(parts[0].pid, signal.SIGKILL)
        said, _ = running.communicate(timeout=PATIENCE)
    if running.returncode:
        raise RuntimeError(f"generate on Dask failed:\n{said}")
    return here.digest("generate")


def measure(here: Project, times: Mapping[str, int], results: Path) -> dict[str, Any]:
    """Make the rows of the table: how often each was tried, and how often the digest was the undisturbed one.

    Each try is written at once. Those that are there under the same code and machine are not made again.
    """
    decided = made_by(here)
    rows = read_rows(results)
    if rows.get("computed_on", {}).get("digest") != decided:
        rows = {"computed_on": {"digest": decided, **here.facts}}
    for stage in ("ingest", "preprocess", "calibrate", "train"):
        here.run(stage)
    ways = {f"generate, {count} workers": partial(with_workers, here, count) for count in WORKERS}
    ways["generate, Dask, 2 workers"] = partial(on_dask, here, False)
    ways["generate, Dask, 1 of 2 workers killed"] = partial(on_dask, here, True)
    for stage, count in times.items():
        here.machine()
        whole, seconds = undisturbed(here, stage)
        for target in TARGETS[stage]:
            name = f"{stage}, {target} killed"
            number = TARGETS[stage].index(target)
            for n in range(
                rows.get(name, {}).get("tried", 0), len(range(number, count, len(TARGETS[stage])))
            ):
                rng = random.Random(f"{name} {n}")
                here.machine(workers=2 if stage == "generate" and (n % 2 or target == "a worker") else 1)
                tries = (killed(here, stage, target, rng.random() * seconds) for _ in range(TRIES))
                found = next(filter(None, tries), None)
                if not found:
                    raise RuntimeError(f"{name}: {TRIES} times it was done before it could be killed")
                note(results, rows, name, found[0] == whole, found[1])
        if stage == "generate":
            for name in [name for name in ways if name not in rows]:
                note(results, rows, name, ways[name]() == whole)
    return rows


def note(results: Path, rows: dict[str, Any], name: str, identical: bool, state: str | None = None) -> None:
    """Count a try, and write all that was counted so far."""
    row = rows.setdefault(name, {"tried": 0, "identical": 0})
    row["tried"] += 1
    row["identical"] += identical
    if state:
        row[state] = row.get(state, 0) + 1
    write_text(results, json.dumps(rows, indent=1) + "\n")
    print(f"{name}, {state or 'done'}: {'identical' if identical else 'DIFFERENT'}", flush=True)


def made_by(here: Project) -> str:
    """Stands for all that decides the rows: code, params, and what floating point depends on."""
    files = sorted(p for room in ("flows", "tasks", "models") for p in (here.root / room).rglob("*.py"))
    decides = [here.params, here.facts, [file_digest(path) for path in files]]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def with_workers(here: Project, count: int) -> str:
    """Generate with so many processes; returns the digest."""
    here.clear("generate")
    here.machine(workers=count)
    here.run("generate")
    return here.digest("generate")


def table(rows: Mapping[str, Any]) -> str:
    """The rows as Markdown."""
    lines = ["| | tried | identical |", "| --- | --- | --- |"]
    counted = {name: row for name, row in rows.items() if "tried" in row}
    lines += [f"| {name} | {row['tried']} | {row['identical']} |" for name, row in counted.items()]
    return "\n".join(lines)


def main() -> None:
    """Print the table, and keep it in benchmarks/results."""
    parser = argparse.ArgumentParser("benchmarks.kills", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--generate", type=int, default=20, help="kills")
    parser.add_argument("--train", type=int, default=10, help="kills")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = {"PREFECT_HOME": str(Path(folder) / "prefect")}
        with server({**os.environ, **home}) as served:
            here = Project(Path(folder) / "project", served)
            times = {"generate": options.generate, "train": options.train}
            print(table(measure(here, times, options.results)))


if __name__ == "__main__":
    main()
