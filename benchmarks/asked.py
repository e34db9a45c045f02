"""What families that are asked with images are worth where real ones are few, beside standard augmentation.

`python -m benchmarks.asked` runs the whole pipeline once for each family, with `--per-class` real train
images a class and the family's own budget and condition, in a copy of the project. Evaluate trains
probes on the real images, on the same under `evaluate.augment`, and on them with the kept samples: five
seeds, paired by test image. With `--references`, a folder of images, `style` takes part with their styles
as well. A finished family is kept in benchmarks/results, and is not made again while nothing that decides
it has changed.
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

RESULTS = ROOT / "benchmarks/results/asked.json"
ARMS = ["real", "real_augmented", "real_synthetic"]
FAMILIES: dict[str, dict[str, Any]] = {
    "texture": {},
    "breed": {"train.images": 60_000},
    "pix2pix": {"train.images": 16_000, "preprocess.condition": "edges"},
    "spade": {"train.images": 16_000, "preprocess.condition": "colours"},
    "restore": {"train.images": 10_000},
    "style": {"train.images": 8_000},
}
REFERRED = "style, references"
DIFFERENCES = ("real_synthetic_minus_real_augmented", "real_synthetic_minus_real")


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the rows that are missing, and print the table of all that were asked for."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        params = {
            name: low_data.params_of(options.per_class, [*own, *options.set], options.seeds, ARMS)
            for name, own in settings(options.families, options.references).items()
        }
        rows = low_data.rows(params, options.results)
    except UserError as error:
        sys.exit(str(error))
    print(markdown(rows))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser("benchmarks.asked", description=(__doc__ or "").split("\n")[0])
    found.add_argument("--families", type=lambda text: text.split(","), default=list(FAMILIES))
    found.add_argument("--per-class", type=int, default=50, metavar="N", help="real train images a class")
    found.add_argument("--references", type=Path, metavar="FOLDER", help="images of reference for `style`")
    found.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a param")
    found.add_argument("--seeds", type=int, default=5, choices=range(1, 101), metavar="N")
    found.add_argument("--results", type=Path, default=RESULTS, help="the file of finished families")
    return found


def settings(families: Sequence[str], references: Path | None) -> dict[str, list[str]]:
    """What each row sets of params, as `key=value`; one row more for `style` if there are references."""
    found = {}
    for name in families:
        found[name] = [f"{key}={value}" for key, value in FAMILIES.get(name, {}).items()]
        found[name].append(f"train.family={name}")
    if references and "style" in found:
        found[REFERRED] = [*found["style"], f"train.references={references}"]
    return found


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The README's table: accuracy in % and differences in points, each with its 95 % interval."""
    head = ["", "kept %", *(f"`{arm}`" for arm in ARMS)]
    head += ["`{}` − `{}`".format(*pair.split("_minus_")) for pair in DIFFERENCES]
    lines = [head, ["---"] * len(head)]
    for name, row in rows.items():
        cells = [low_data.cell(row["accuracy"][arm]) for arm in ARMS]
        cells += [low_data.cell(row["difference"][pair], "+.2f") for pair in DIFFERENCES]
        lines.append([name, f"{100 * row['kept'] / row['samples']:.1f}", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
