"""Which memory layout each family trains fastest in on this device.

`python -m benchmarks.layouts` needs `dvc repro preprocess` first. Every family is stepped in both layouts
in turn, so that whatever else the machine does falls on both; a layout's speed is that of its median step.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from benchmarks.contest import on_threads
from benchmarks.families import RESULTS
from models.families import class_of, names
from tasks.device import Device, prepare
from tasks.errors import UserError
from tasks.fitting.training import Training
from tasks.layout import PARAMS
from tasks.params import Params
from tasks.reading import read
from tasks.shards import write_text

RESULT = RESULTS / "layouts.json"
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
WARM_UP = 3  # steps that are not timed


def laid(device: Device, layout: torch.memory_format) -> Device:
    """The same device, which trains in this layout."""
    kind = type("Laid", (Device,), {"training_format": property(lambda _: layout)})
    return kind(**{field.name: getattr(device, field.name) for field in fields(device)})


def measure(params: Params, data: Path, family: str, steps: int) -> dict[str, float]:
    """Training images a second in each layout. Raises UserError if the family can't train on this data."""
    device = prepare(params.machine, params.train.precision)
    chosen = params.train.model_copy(update={"family": family})
    block = params.families[family]
    runs = {
        name: Training(data / "real/train", chosen, block, laid(device, layout))
        for name, layout in LAYOUTS.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(WARM_UP + steps):
        for name, run in runs.items():
            started = time.monotonic()
            run.step()
            if device.kind == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.monotonic() - started)
    return {
        name: round(run.batch_size / statistics.median(seconds[name][WARM_UP:]), 1)
        for name, run in runs.items()
    }


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows as the docs show them."""
    lines = [f"| training images/s | {' | '.join(LAYOUTS)} |", "| --- | --- | --- |"]
    lines += [f"| {n} | {' | '.join(f'{row[name]:,.0f}' for name in LAYOUTS)} |" for n, row in rows.items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every family that can train on the data, print the table and keep the rows."""
    found = argparse.ArgumentParser("benchmarks.layouts", description=(__doc__ or "").split("\n")[0])
    found.add_argument(
        "--families", type=lambda text: text.split(","), help="all that train, if none is named"
    )
    found.add_argument("--steps", type=int, default=60)
    found.add_argument("--threads", type=int, help="else machine.threads")
    found.add_argument("--data", type=Path, default=Path("data"), help="the folder of real/")
    found.add_argument("--results", type=Path, default=RESULT)
    options = found.parse_args(arguments)
    rows = {}
    try:
        params = on_threads(read(PARAMS), options.threads)
        if unknown := sorted(set(options.families or []) - set(names())):
            raise UserError(f"--families: no family {unknown[0]!r}; there are: {', '.join(names())}.")
        for family in options.families or [name for name in names() if class_of(name).TRAINS]:
            try:
                rows[family] = measure(params, options.data, family, options.steps)
                print(family, rows[family], flush=True)
            except UserError as error:
                if options.families:
                    raise
                print(f"{family}: not measured. {error}", file=sys.stderr)
    except UserError as error:
        sys.exit(str(error))
    write_text(options.results, json.dumps(rows, indent=1) + "\n")
    print(markdown(rows))


if __name__ == "__main__":
    main()
