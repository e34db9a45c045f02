"""What generate does beside its network's forward passes, and how long train waits for its data.

`python -m benchmarks.shares` clones the project, brings `mnist5k` as far as a shortly trained checkpoint,
and then draws samples into shards at the default steps and at fewer, and trains some more, in this
process. The first shard and the first steps are start-up, and not counted.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.memory import BEFORE, set_params
from benchmarks.orchestration import clone, plain
from tasks import sampling
from tasks.device import Device, prepare
from tasks.fitting import training
from tasks.layout import PARAMS, ROOT
from tasks.params import Params
from tasks.reading import read
from tasks.sampling import planning
from tasks.shards import write_text

RESULT = ROOT / "benchmarks/results/shares.json"
FLOORS = {"generate": 0.1, "train": 0.05}
SHORT: dict[str, dict[str, Any]] = {
    "ingest": {"source": "data/sources/mnist5k.yaml"},
    "preprocess": {"size": 28},
    "calibrate": {"images": 4_000},
    "train": {"images": 6_400},
}


class Clock:
    """Counts the seconds spent in calls that it is told to watch."""

    def __init__(self, device: Device) -> None:
        self.device, self.seconds = device, 0.0

    def now(self) -> float:
        """The time, once the device has done what it was given."""
        if self.device.kind == "cuda":
            torch.cuda.synchronize()
        return time.monotonic()

    @contextmanager
    def watching(self, owner: Any, *names: str) -> Iterator[None]:
        """Count what the functions `names` of `owner` take."""
        plain = {name: getattr(owner, name) for name in names}

        def timed(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                started = self.now()
                result = function(*arguments, **named)
                self.seconds += self.now() - started
                return result

            return call

        for name, function in plain.items():
            setattr(owner, name, timed(function))
        try:
            yield
        finally:
            for name, function in plain.items():
                setattr(owner, name, function)


def generating(data: Path, params: Params, device: Device, samples: int, steps: int | None) -> dict[str, Any]:
    """Draw `samples` into shards: images a second, and the share of time outside the network's forward."""
    wanted = params.generate.model_copy(update={"num_samples": samples, "steps": steps})
    checkpoint, real = data / "checkpoint", data / "real/train"
    plan = planning.plan(wanted, checkpoint, real)
    family = sampling._family(checkpoint.resolve(), plan.facts["digest"], device)
    clock = Clock(device)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        sampling.draw_shard(0, plan, checkpoint, real, work, device)
        rest = plan.missing(work)
        with clock.watching(type(family.network), "forward"):
            started = clock.now()
            for number in rest:
                sampling.draw_shard(number, plan, checkpoint, real, work, device)
            seconds = clock.now() - started
    drawn = samples - wanted.shard_size
    return {
        "images": drawn,
        "rate": round(drawn / seconds, 1),
        "outside": round(1 - clock.seconds / seconds, 4),
    }


def training_waits(data: Path, params: Params, device: Device, steps: int) -> dict[str, Any]:
    """Train on: images a second, and the share of time that batches are waited for."""
    run = training.Training(data / "real/train", params.train, params.family, device)
    clock = Clock(device)
    for _ in range(5):
        run.step()
    with clock.watching(training, "order"), clock.watching(run, "batch"):
        started = clock.now()
        for _ in range(steps):
            run.step()
        seconds = clock.now() - started
    images = steps * run.batch_size
    return {
        "images": images,
        "rate": round(images / seconds, 1),
        "outside": round(clock.seconds / seconds, 4),
    }


def measure(
    root: Path, samples: int, few: Sequence[int], threads: int | None, family: str | None = None
) -> dict[str, dict[str, Any]]:
    """All rows, by what was done; `family`: else that of params.yaml."""
    environment = clone(root)
    train = {**SHORT["train"], **({"family": family} if family else {})}
    set_params(root, {**SHORT, "train": train, "machine": {"threads": threads}})
    plain(root, environment, BEFORE)
    params = read(root / PARAMS)
    device = prepare(params.machine, params.generate.precision)
    rows = {"generate, default steps": generating(root / "data", params, device, samples, None)}
    for steps in few:
        name = f"generate, {steps} step{'s' if steps > 1 else ''}"
        rows[name] = generating(root / "data", params, device, samples, steps)
    rows["train, waiting for data"] = training_waits(root / "data", params, device, 200)
    return rows


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["|  | images/s | outside % |", "| --- | --- | --- |"]
    lines += [f"| {name} | {r['rate']:,.0f} | {100 * r['outside']:.1f} |" for name, r in rows.items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table and keep the rows."""
    found = argparse.ArgumentParser("benchmarks.shares", description=(__doc__ or "").split("\n")[0])
    found.add_argument("--samples", type=int, default=20_000)
    found.add_argument("--steps", type=int, nargs="*", default=[2], help="few steps, beside the default")
    found.add_argument("--threads", type=int, help="of the computation; all cores unless told")
    found.add_argument("--family", help="else train.family; one that samples in 1 step is `consistency`")
    found.add_argument("--results", type=Path, default=RESULT)
    options = found.parse_args(arguments)
    asked = (options.samples, options.steps, options.threads, options.family)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder) / "project", *asked)
    write_text(options.results, json.dumps(rows, indent=1) + "\n")
    print(markdown(rows))
    print("floors:", ", ".join(f"{name} {100 * share:.0f} %" for name, share in FLOORS.items()))


if __name__ == "__main__":
    main()
