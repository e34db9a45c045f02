"""What the filter is worth, family by family: what it keeps, against as many samples kept by chance.

`python -m benchmarks.filtering` runs the whole pipeline once for each family, with its own budget of
images, in a copy of the project, and has evaluate train probes on the kept samples and on as many of
each class that chance kept: five seeds, paired by test image. A finished family is kept in
benchmarks/results, and is not made again while nothing that decides it has changed.
"""

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import low_data
from tasks.errors import UserError
from tasks.layout import ROOT

RESULTS = ROOT / "benchmarks/results/filtering.json"
ARMS = ["synthetic", "random_drop", "unfiltered"]
IMAGES = {"dbn": 300_000, "diffusion": 100_000, "gan": 60_000, "pixelrnn": 25_000, "vae": 200_000}
PAIR = "synthetic_minus_random_drop"


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the rows that are missing, and print the table of all that were asked for."""
    found = argparse.ArgumentParser("benchmarks.filtering", description=(__doc__ or "").split("\n")[0])
    found.add_argument("--families", type=lambda text: text.split(","), default=list(IMAGES))
    found.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a param")
    found.add_argument("--seeds", type=int, default=5, choices=range(1, 101), metavar="N")
    found.add_argument("--results", type=Path, default=RESULTS)
    options = found.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        rows = run(options.families, options.set, options.seeds, options.results)
    except UserError as error:
        sys.exit(str(error))
    print(markdown(rows))


def run(
    families: Sequence[str], changes: Sequence[str], seeds: int, results: Path
) -> dict[str, dict[str, Any]]:
    """Make the wanted rows, each written at once; those already there for the same settings are kept."""
    wanted = {}
    for family in families:
        own = [f"train.family={family}", f"train.images={IMAGES.get(family, 60_000)}"]
        wanted[family] = low_data.params_of(None, [*own, *changes], seeds, ARMS)
    return low_data.rows(wanted, results)


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The README's table: accuracy in % and the difference in points, each with its 95 % interval."""
    head = ["", "kept %", "kept by the filter", "kept by chance", "difference", "unfiltered"]
    lines = [head, ["---"] * len(head)]
    for name, row in rows.items():
        accuracy = row["accuracy"]
        share = f"{100 * row['kept'] / row['samples']:.1f}"
        difference = low_data.cell(row["difference"][PAIR], "+.2f")
        arms = [low_data.cell(accuracy[arm]) for arm in ARMS]
        lines.append([f"`{name}`", share, arms[0], arms[1], difference, arms[2]])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
