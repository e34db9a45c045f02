"""What each option of a family is worth: the family as it is, and with one setting changed at a time.

`python -m benchmarks.options gan vae` needs `dvc repro calibrate` first. Every row is one training on
`--images` images of data/real/train, and as many samples as there are train images; accuracy is
evaluate's on the test split, unfiltered. Finished rows are kept in benchmarks/results, and made again
only if what decides them has changed.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from benchmarks.contest import Bench
from benchmarks.families import RESULTS, read_rows
from models.families import load, names
from tasks import fitting
from tasks.errors import UserError
from tasks.layout import PARAMS, ROOT
from tasks.params import read
from tasks.shards import file_digest, write_text

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "dbn": [{}, {"lr": 5e-3}, {"gibbs": 1}, {"hidden": [1024]}, {"sample_gibbs": 25}],
    "diffusion": [{}, {"label_dropout": 0.0}, {"p_mean": -1.2}, {"width": 32}],
    "gan": [
        {},
        {"objective": "non_saturating"},
        {"objective": "minimax"},
        {"gamma": 0.1},
        {"gamma": 0.0},
        {"augment": True},
        {"width": 64},
    ],
    "pixelrnn": [{}, {"layers": 1}, {"mixtures": 2}, {"hidden": 32}],
    "vae": [
        {},
        {"prior": "normal"},
        {"components": 1},
        {"noise": True},
        {"likelihood": "logistic"},
        {"likelihood": "logistic", "noise": True},
        {"perceptual": 0.1},
        {"beta": 1.0},
        {"beta": 0.2},
        {"kl_warm_up": 0.0},
        {"free_bits": 0.5},
    ],
}


def main() -> None:
    """Make the rows that are missing, and print the table of the families that were asked for."""
    found = argparse.ArgumentParser("benchmarks.options", description=(__doc__ or "").split("\n")[0])
    found.add_argument("families", nargs="*", choices=[*names(), []], help="all, if none is named")
    found.add_argument("--images", type=int, default=40_000, help="the budget of each training")
    found.add_argument("--data", type=Path, default=Path("data"), help="the folder of real/ and reference/")
    found.add_argument("--seeds", type=int, default=3, help="probes a row")
    options = found.parse_args()
    try:
        bench = Bench(read(PARAMS), options.data, 0.0, options.seeds, 0)
        bench.check()
        for family in options.families or OPTIONS:
            print(f"{family}, {options.images:,} images")
            for change in OPTIONS[family]:
                print(line(change, kept(bench, family, change, options.images)), flush=True)
    except UserError as error:
        sys.exit(str(error))


def kept(bench: Bench, family: str, change: dict[str, Any], images: int) -> dict[str, Any]:
    """The row of one change: made now, unless it was for the same settings, code and data."""
    path = RESULTS / "options.json"
    rows, name = read_rows(path), f"{family} {json.dumps(change, sort_keys=True)} {images}"
    files = [ROOT / f"models/families/{family}.py", bench.data / "reference/judge.safetensors"]
    parts = [name, bench.params.families[family], bench.seeds, bench.device.facts, *map(file_digest, files)]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    if rows.get(name, {}).get("digest") != digest:
        rows[name] = {"digest": digest, **made(bench, family, change, images)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(rows, indent=1) + "\n")
    return rows[name]


def made(bench: Bench, family: str, change: dict[str, Any], images: int) -> dict[str, Any]:
    """Train with one change, draw and measure. A training that stays ill says so instead."""
    block = {**bench.params.families[family], **change}
    params = bench.params.train.model_copy(update={"family": family, "images": images})
    with tempfile.TemporaryDirectory() as work:
        try:
            real, reference = bench.data / "real/train", bench.data / "reference"
            folder = fitting.fit(Path(work), real, reference, params, block, bench.device)
        except UserError as error:
            return {"ill": str(error)}
        made = load(family).build(load(family).Config(**block), bench.spec)
        made.load_state_dict(load_file(folder / fitting.MODEL))
        facts = json.loads((folder / fitting.CHECKPOINT).read_text(encoding="utf-8"))
    drawn = bench.sampled(bench.device.place(made).eval(), bench.device)
    return {
        "accuracy": bench.accuracy(drawn, "test", bench.seeds),
        **bench.distances(drawn),
        "rollbacks": len(facts["rollbacks"]),
    }


def line(change: dict[str, Any], row: dict[str, Any]) -> str:
    """A row as text."""
    told = ", ".join(f"{key} {value}" for key, value in change.items()) or "as it is"
    if "ill" in row:
        return f"  {told:40} {row['ill']}"
    accuracy = row["accuracy"]
    spread = "" if accuracy["std"] is None else f" ± {100 * accuracy['std']:.2f}"
    measures = ", ".join(f"{key} {row[key]:.3f}" for key in ("frechet_distance", "precision", "coverage"))
    return f"  {told:40} {100 * accuracy['mean']:.2f} %{spread}, {measures}, {row['rollbacks']} rollbacks"


if __name__ == "__main__":
    main()
