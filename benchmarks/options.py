"""What each option of a family is worth: the family as it is, and with one thing changed at a time.

`python -m benchmarks.options` needs `dvc repro calibrate` first. Every row is one training on `--images`
images of data/real/train (or, where it says so, of the first few of each class), and as many samples as
there are train images. Accuracy is the probe's on the test split, trained on the samples alone,
unfiltered, for a third of evaluate's images; set measures are in the judge's features. Finished rows are
kept in benchmarks/results, and made again only if what decides them has changed.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from benchmarks.contest import Bench, on_threads, told
from benchmarks.families import RESULTS, cell
from benchmarks.rows import kept
from tasks.errors import UserError
from tasks.layout import PARAMS, ROOT
from tasks.reading import read
from tasks.shards import Shards, file_digest, seal, shard_name, write_shard

PROBE_IMAGES = 20_000
PLAIN = "as it is"


class Row(NamedTuple):
    """One change: of the family's block, of how it is sampled, or of how many real images a class it sees."""

    family: str
    config: Mapping[str, Any] = {}
    sampling: Mapping[str, Any] = {}
    per_class: int | None = None

    def __str__(self) -> str:
        changes = [f"{key}: {json.dumps(value)}" for key, value in {**self.config, **self.sampling}.items()]
        few = [f"{self.per_class} real images a class"] if self.per_class else []
        return ", ".join([*few, *changes]) or PLAIN


ROWS = [
    Row("vae"),
    Row("vae", {"prior": "normal"}),
    Row("vae", {"components": 1}),
    Row("vae", {"likelihood": "logistic"}),
    Row("vae", {"noise": True}),
    Row("vae", {"likelihood": "logistic", "noise": True}),
    Row("vae", {"beta": 1.0}),
    Row("vae", {"kl_warm_up": 0.0}),
    Row("vae", {"free_bits": 0.5}),
    Row("vae", {"perceptual": 0.1}),
    Row("gan"),
    Row("gan", {"objective": "non_saturating"}),
    Row("gan", {"objective": "minimax"}),
    Row("gan", {"augment": True}),
    Row("gan", per_class=20),
    Row("gan", {"augment": True}, per_class=20),
    Row("consistency"),
    Row("consistency", {"flow": 0.75}),
    Row("consistency", {"stride": 0.2}),
    Row("diffusion"),
    Row("diffusion", sampling={"guidance": 1.0}),
    Row("diffusion", sampling={"sampler": "heun"}),
    Row("diffusion", {"p_mean": -1.2}),
    Row("diffusion", {"label_dropout": 0.0}),
    Row("dbn"),
    Row("dbn", {"visible": "gaussian"}),
    Row("dbn", {"hidden": [1024]}),
    Row("dbn", {"gibbs": 1}),
    Row("dbn", {"decay": 0.0}),
    Row("dbn", {"sample_gibbs": 20}),
    Row("pixelrnn"),
    Row("pixelrnn", {"layers": 1}),
    Row("pixelrnn", {"mixtures": 5}),
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the rows that are missing, and print the table."""
    found = argparse.ArgumentParser("benchmarks.options", description=(__doc__ or "").split("\n")[0])
    found.add_argument("--families", type=lambda text: text.split(","), help="all, if none is named")
    found.add_argument("--images", type=int, default=20_000, help="the budget of each training")
    found.add_argument("--data", type=Path, default=Path("data"), help="the folder of real/ and reference/")
    found.add_argument("--seeds", type=int, default=3, help="probes a row")
    found.add_argument("--threads", type=int, help="else machine.threads")
    found.add_argument("--results", type=Path, default=RESULTS, help="the folder of finished rows")
    options = found.parse_args(arguments)
    try:
        params = on_threads(read(PARAMS), options.threads)
        evaluate = params.evaluate.model_copy(update={"images": PROBE_IMAGES})
        params = params.model_copy(update={"evaluate": evaluate})
        bench = Bench(params, options.data, 0.0, options.seeds, 0)
        bench.check()
        rows = [row for row in ROWS if row.family in (options.families or [row.family])]
        for row in rows:
            name, decided = f"{row.family}, {row}", digest(bench, row, options.images)
            making = partial(make, bench, row, options.images)
            made = kept(options.results / "options.json", name, decided, making)
            print(f"{name:55} {words(made)}", flush=True)
    except UserError as error:
        sys.exit(str(error))


def digest(bench: Bench, row: Row, images: int) -> str:
    """Stands for what decides a row: settings, data, machine, and the code of its family."""
    files = [ROOT / f"models/families/{row.family}.py", bench.data / "reference/judge.safetensors"]
    decides = [str(row), images, bench.params.families[row.family], bench.seeds, bench.device.facts]
    told = json.dumps([*decides, *map(file_digest, files)], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def make(bench: Bench, row: Row, images: int) -> dict[str, Any]:
    """Train, draw and measure. A training that stays ill says so instead."""
    block = {**bench.params.families[row.family], **row.config}
    params = bench.params.train.model_copy(update={"family": row.family, "images": images})
    with tempfile.TemporaryDirectory() as work:
        real = bench.data / "real/train"
        if row.per_class:
            real = fewer(real, row.per_class, Path(work) / "train")
        try:
            trained, facts = bench.fit(params, block, real)
        except UserError as error:
            return {"images": images, "ill": str(error)}
    generate = bench.params.generate.model_copy(update=dict(row.sampling))
    changed = replace(bench, params=bench.params.model_copy(update={"generate": generate}))
    drawn = changed.draw(trained)
    accuracy = bench.accuracy(drawn, "test", bench.seeds)
    return {
        "images": images,
        "accuracy": told(accuracy),
        **bench.distances(drawn),
        "rollbacks": len(facts["rollbacks"]),
    }


def fewer(train: Path, each: int, folder: Path) -> Path:
    """The first `each` images of every class, sealed in `folder`."""
    shards = Shards.open(train)
    labels = shards.labels()
    rows = np.sort(np.concatenate([np.flatnonzero(labels == k)[:each] for k in np.unique(labels)]))
    table = pa.concat_tables(shards.tables())
    folder.mkdir()
    write_shard(folder / shard_name(0), table.take(rows))
    facts = {key: shards.index[key] for key in ("classes", "channels", "size")}
    return seal(folder, **facts)


def words(row: Mapping[str, Any]) -> str:
    """A row's numbers as text."""
    if "ill" in row:
        return str(row["ill"])
    accuracy, spread = row["accuracy"], ""
    if accuracy["std"] is not None:
        spread = f" ± {100 * accuracy['std']:.2f}"
    told = ", ".join(f"{key} {row[key]:.3f}" for key in ("frechet_distance", "precision", "recall"))
    return f"{100 * accuracy['mean']:.2f} %{spread}, {told}, {row['rollbacks']} rollbacks"


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The kept rows as the README's table."""
    lines = ["| | accuracy % | Fréchet | precision | recall |", "| --- | --- | --- | --- | --- |"]
    for name, row in rows.items():
        if "ill" in row:
            lines.append(f"| {name} | did not train | - | - | - |")
            continue
        numbers = f"{row['frechet_distance']:.2f} | {row['precision']:.3f} | {row['recall']:.3f}"
        lines.append(f"| {name} | {cell(row['accuracy'], '.2f')} | {numbers} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
