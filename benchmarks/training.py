"""How long a training takes until its samples teach a classifier to 95 %, beside diffusers.

`python -m benchmarks.training` needs `dvc repro calibrate` first, and the package diffusers. Each
contestant is trained for the shortest of `--minutes`, then anew for the next, until the probe that saw its
samples alone names so many of the test split right: a learning rate falls with the budget, so one long
training would not tell. The peer is tried with `--peer` minutes; what never gets there says how far it came.
Finished rows are kept, and made again only if what decides them has changed.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.contest import Bench, on_threads, told
from benchmarks.families import RESULTS, cell, positive, some
from benchmarks.rows import kept, read_rows
from tasks.errors import UserError
from tasks.layout import PARAMS
from tasks.reading import read

RESULT = RESULTS / "training.json"
PEER, WANTED = "diffusers", 0.95
FLOOR = 3.0  # times as fast as the peer


def reach(bench: Bench, name: str, ladder: Sequence[float]) -> dict[str, Any]:
    """Train with one budget after the other until `WANTED` is reached: what each of them came to."""
    tried: list[dict[str, Any]] = []
    for minutes in sorted(ladder):
        trained = bench.train(name, bench.default_lr(name), minutes)
        accuracy = replace(bench, minutes=minutes).accuracy(bench.draw(trained), "test", bench.seeds)
        tried.append({"minutes": minutes, "images": trained.images, "accuracy": told(accuracy)})
        if accuracy["mean"] >= WANTED:
            break
    return {"tried": tried, "reached": tried[-1]["accuracy"]["mean"] >= WANTED}


def digest(bench: Bench, name: str, ladder: Sequence[float]) -> str:
    """Stands for what decides a row: all that decides the longest training's, and the budgets."""
    longest = replace(bench, minutes=max(ladder)).digest(name)
    return hashlib.sha256(json.dumps([longest, sorted(ladder)]).encode()).hexdigest()[:16]


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows as the README's table: the budget that was enough, or the longest, which was not."""
    lines = ["|  | minutes | training images | accuracy % | peer's time |", "| --- | --- | --- | --- | --- |"]
    peer = rows.get(PEER)
    for name, row in rows.items():
        last = row["tried"][-1]
        more = "" if row["reached"] else "over "
        ratio = "-"
        if peer and row["reached"]:
            least = "" if peer["reached"] else "over "
            ratio = f"{least}{peer['tried'][-1]['minutes'] / last['minutes']:.1f} times"
        cells = [f"{more}{last['minutes']:g}", f"{last['images']:,}", cell(last["accuracy"], ".2f")]
        lines.append(f"| {name} | {' | '.join(cells)} | {ratio} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the rows that are missing, each written at once, and print the table."""
    found = argparse.ArgumentParser("benchmarks.training", description=(__doc__ or "").split("\n")[0])
    found.add_argument("--families", type=some, default=["vae", "gan", "diffusion"])
    found.add_argument("--minutes", type=positive, nargs="+", default=[0.25, 0.5, 1, 2, 3, 4, 6, 8])
    found.add_argument("--peer", type=positive, nargs="+", default=[12, 24], help="the peer's minutes")
    found.add_argument("--seeds", type=int, default=3, help="probes a row")
    found.add_argument("--threads", type=int, help="else machine.threads")
    found.add_argument("--data", type=Path, default=Path("data"), help="the folder of real/ and reference/")
    found.add_argument("--results", type=Path, default=RESULT)
    options = found.parse_args(arguments)
    try:
        if why := peers.missing(PEER):
            raise UserError(why)
        bench = Bench(on_threads(read(PARAMS), options.threads), options.data, 0.0, options.seeds, 1)
        bench.check()
        read_rows(options.results)  # a broken file is told before any work
        ladders = {**dict.fromkeys(options.families, options.minutes), PEER: options.peer}
        rows = {
            name: kept(
                options.results, name, digest(bench, name, ladder), partial(reach, bench, name, ladder)
            )
            for name, ladder in ladders.items()
        }
    except UserError as error:
        sys.exit(str(error))
    print(markdown(rows))
    print(f"floor: {FLOOR:g} times as fast as the peer")


if __name__ == "__main__":
    main()
