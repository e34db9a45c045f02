"""A fortnight of scheduled runs in which nearly everything goes wrong once, and the diary of it.

`python -m benchmarks.fortnight` clones the project onto tiny params, with an origin, an S3 store, a
Prefect server and a worker of its own, and has the worker run fourteen nights of the deployments in
prefect.yaml. At the end every good night has a tag whose data another clone can pull, no bad night has
one, `dvc status` is clean, no process is left, no file holds the store's key, and the cache's bytes have
levelled off. It exits 1 if anything of this does not hold. Needs Linux, where anybody may mount a disk
for himself (`unshare`), and the packages of the tests.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.machines import SECRET, Machines, Prefect, environment, size, until
from tasks.layout import EXPORT, ROOT

RESULTS = ROOT / "benchmarks/results/fortnight.json"
FIRST = datetime(2026, 11, 2, 2, 0, tzinfo=UTC)
KEEP = 3
# All is made anew twice after the first versions that fill the cache: its end is held against theirs.
LEVEL = 1.25
LEFT_ON_DISK = 256_000
AWAY_SECONDS = 15
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
HEAD = "| night | what | state | stages run | versions | cache, MB |\n| --- | --- | --- | --- | --- | --- |"
OFF = dict.fromkeys(("unlike_label", "blurred", "noisy", "flat"))
PARAMS: dict[str, dict[str, Any]] = {
    "train": {"images": 8_000, "checkpoint_every": 1_000, "grid_every": 4_000},
    "filter": OFF,
    "gates": {"kept_ratio": {"min": 0.01}},
    "machine": {"threads": 1, "workers": 1},
    "schedule": {"keep": KEEP},
}


def draw(folder: Path, each: int) -> None:
    """Put `each` images a class of scikit-learn's digits into a folder of raw images."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label in range(10):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        for number, pixels in enumerate(digits.images[digits.target == label][:each]):
            Image.fromarray((pixels * 15).astype("uint8")).save(folder / str(label) / f"{number}.png")


class Fortnight:
    """The machines, and the diary of what was seen night by night."""

    def __init__(self, machines: Machines) -> None:
        self.machines, self.prefect = machines, Prefect()
        self.diary: list[dict[str, Any]] = []
        self.prefect.deploy(machines)
        machines.start_worker()

    def begin(self, name: str = "nightly", **parameters: Any) -> Any:
        """Schedule this night's run."""
        self.before, self.started = self.machines.tags(), time.monotonic()
        due = FIRST + timedelta(days=len(self.diary))
        return self.prefect.schedule(due, name, **parameters)

    def end(self, what: str, *runs: Any, state: str = "COMPLETED", says: str = "") -> None:
        """Wait for a night's runs, and write down what came of them, beside what should have."""
        states = [self.prefect.ended(run) for run in runs]
        orphans = self.machines.orphans()
        tags = [tag for tag in self.machines.tags() if tag not in self.before]
        ran = sum(len(self.prefect.stages(run)) for run in runs)
        words = "\n".join([*(s.message or "" for s in states), *(self.prefect.said(run) for run in runs)])
        faults = [f"{s.type.value}: {s.message}" for s in states if s.type.value != state]
        faults += [] if len(tags) == (len(runs) if state == "COMPLETED" else 0) else [f"{len(tags)} versions"]
        faults += [f"left running: {each}" for each in orphans]
        faults += ["at work at the same time"] if len(runs) > 1 and self.prefect.overlap(runs) else []
        faults += [] if re.search(says, words) else [f"never said {says!r}"]
        row = {"night": len(self.diary) + 1, "what": what, "state": ", ".join(s.type.value for s in states)}
        row |= {"stages": ran, "versions": tags, "seconds": round(time.monotonic() - self.started)}
        row |= {"cache": size(self.machines.home / ".dvc/cache/files"), "faults": faults}
        self.diary.append(row)
        print(line(row), flush=True)
        if faults:
            print(f"NOT AS IT SHOULD: {faults}\n{words[-6_000:]}", flush=True)

    def night(self, what: str, how: AbstractContextManager[None] | None = None, **expected: Any) -> None:
        """One night with a run of `nightly`, with the params of `overrides` if there are any."""
        overrides = {"overrides": expected.pop("overrides")} if "overrides" in expected else {}
        with how or nullcontext():
            self.end(what, self.begin(**overrides), **expected)


def line(row: dict[str, Any]) -> str:
    """A night of the diary, as a row in Markdown."""
    seen = ", ".join(tag.rpartition("/")[2] for tag in row["versions"]) or "-"
    cells = [row["night"], row["what"], row["state"].lower(), row["stages"], seen]
    return "| " + " | ".join(map(str, [*cells, f"{row['cache'] / 1e6:.2f}"])) + " |"


def markdown(kept: dict[str, Any]) -> str:
    """The diary, and below it what held at the end."""
    held = [f"- {what}: {'yes' if holds else 'NO'}" for what, holds in kept["held"].items()]
    return "\n".join([HEAD, *map(line, kept["diary"]), "", *held])


def nights(fortnight: Fortnight) -> None:
    """Run the fourteen nights."""
    machines, night = fortnight.machines, fortnight.night
    night("the first: nothing is there yet", says="cloning into")
    night("nothing special")
    with (machines.home / "tasks/sampling/__init__.py").open("a") as file:
        file.write("\n# a change that changes nothing\n")
    machines.push("Change code")
    night("somebody changed code")
    machines.change({"train": {"seed": 1}})
    machines.push("Change params")
    run = fortnight.begin()
    until(lambda: list(machines.clone.glob("data/.unfinished/train/*/state.safetensors")), "train's state")
    machines.kill("worker")
    fortnight.end("new params; the worker is killed while it trains", run, state="CRASHED")
    machines.start_worker()
    night("the night after goes on with them", says="going on from")
    draw(machines.raw, 31)
    night("new raw images")
    run = fortnight.begin()
    until(lambda: machines.begun("generate"), "generate")
    machines.kill("server", whole=True)
    time.sleep(AWAY_SECONDS)
    machines.start_server()
    fortnight.end(f"the server is killed in generate, and away for {AWAY_SECONDS} s", run)
    full, said = machines.full(but=LEFT_ON_DISK), "No space left|disk is full"
    night(f"a full disk: {LEFT_ON_DISK:,} bytes are left", full, state="FAILED", says=said)
    machines.close_store()
    night("the store is down", state="FAILED", says="push: failed")
    machines.open_store()
    run = fortnight.begin()
    until(lambda: machines.begun("generate"), "generate")
    (machines.home / "NEWS").write_text("somebody was faster")
    machines.push("Be faster")
    fortnight.end("somebody else pushes first", run, says="somebody else pushed to main first")
    broken = {"gates.kept_ratio.min": 2.0}
    night("a gate is broken", overrides=broken, state="FAILED", says="kept_ratio")
    run = fortnight.begin()
    until(lambda: machines.begun("generate"), "generate")
    machines.kill_run()
    fortnight.end("the run alone is killed in generate, as when memory is short", run, state="CRASHED")
    run = fortnight.begin()
    until(lambda: machines.begun("generate"), "generate")
    fortnight.prefect.cancel(run)
    fortnight.end("somebody cancels the run in generate", run, state="CANCELLED")
    other = {"overrides": {"generate.seed": 7}, "publish": True}
    runs = fortnight.begin(), fortnight.begin("on-demand", **other)
    fortnight.end("two runs at once, which queue", *runs)


def pulled(machines: Machines, tags: list[str]) -> list[str]:
    """The versions whose data another clone, with a cache of its own, can pull and open."""
    import pyarrow.parquet as pq

    other = machines.base / "other"
    machines.git(machines.base, "clone", "--quiet", str(machines.origin), str(other))
    found = []
    for tag in tags:
        machines.git(other, "checkout", "--quiet", tag)
        command = [sys.executable, "-m", "dvc", "pull", "--quiet", EXPORT.as_posix()]
        done = subprocess.run(command, cwd=other, capture_output=True)
        if not done.returncode:
            index = json.loads((other / EXPORT / "index.json").read_text(encoding="utf-8"))
            images = [name for name in index["files"] if name.startswith("images/")]
            rows = sum(pq.read_table(other / EXPORT / name).num_rows for name in images)
            found += [tag] * (rows == index["kept"] > 0)
    return found


def told(machines: Machines) -> list[str]:
    """The files, of all machines, and what of origin's history, in which the store's key can be read."""
    files = [path for path in machines.base.rglob("*") if path.is_file() and not path.is_symlink()]
    found = [str(path) for path in files if SECRET.encode() in path.read_bytes()]
    # git keeps all of it compressed.
    history = machines.git(machines.origin, "log", "--all", "--patch", "--format=%B", f"^{machines.began}")
    tags = machines.git(machines.origin, "for-each-ref", "--format=%(contents)")
    return found + [str(machines.origin)] * (SECRET in history + tags)


def held(fortnight: Fortnight) -> dict[str, bool]:
    """What held at the end."""
    machines, diary = fortnight.machines, fortnight.diary
    machines.kill("worker")
    status = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json"], cwd=machines.clone, capture_output=True, check=True
    )
    tags = machines.tags()
    stored = [version for row in diary for version in row["versions"]]
    sizes = [row["cache"] for row in diary]
    return {
        "every night as it should": not any(row["faults"] for row in diary),
        f"all {len(tags)} versions can be pulled": pulled(machines, tags) == tags == sorted(stored),
        "dvc status is clean": json.loads(status.stdout) == {},
        "no process is left": not machines.orphans(),
        "no file holds the store's key": not told(machines),
        "the cache levelled off": sizes[-1] <= LEVEL * sizes[KEEP - 1],
    }


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser("benchmarks.fortnight", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--base", type=Path, help="a folder to work in, and to look into afterwards")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Print the diary and what held at the end, and keep both in benchmarks/results."""
    asked = arguments()
    if not asked.inside:
        with tempfile.TemporaryDirectory() as folder:
            base = (asked.base or Path(folder)).resolve()
            command = [sys.executable, "-m", "benchmarks.fortnight", "--inside", "--base", str(base)]
            sys.exit(subprocess.run([*NAMESPACE, *command], env=environment(base), cwd=ROOT).returncode)
    machines = Machines(asked.base, {**PARAMS, "ingest": {"source": str(asked.base / "disk/raw")}})
    draw(machines.raw, 30)
    machines.open_store()
    machines.bucket().create()
    machines.start_server()
    fortnight = Fortnight(machines)
    print(HEAD)
    nights(fortnight)
    found = held(fortnight)
    objects = sum(each.size for each in machines.bucket().objects.all())
    machines.kill("server", whole=True)
    rows = {"diary": fortnight.diary, "store": objects, "held": found}
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"\n{markdown(rows)}\n\nThe store holds {objects / 1e6:.2f} MB.")
    sys.exit(0 if all(found.values()) else 1)


if __name__ == "__main__":
    main()
