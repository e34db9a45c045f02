"""From a checkpoint to samples on disk, beside diffusers: images a second, and what they teach a classifier.

`python -m benchmarks.generation` needs `dvc repro calibrate` first, and the package diffusers. Both learn
from the same images for `--minutes`, on the same threads. Ours then draws as generate does: it loads the
checkpoint, draws with each number of `--steps`, and writes PNGs into sealed Parquet. The peer, of as many
parameters, is in memory already, draws 20 steps of DPM-Solver++ in batches of 256, and saves each image as
a PNG in a folder. Accuracy is the probe's on the test split, trained on the samples alone.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import peers
from benchmarks.contest import Bench, Trained, on_threads, told
from benchmarks.families import RESULTS, cell, positive
from models.families import names
from tasks import fitting, probing, sampling
from tasks.errors import UserError
from tasks.layout import PARAMS
from tasks.params import GenerateParams
from tasks.reading import read
from tasks.sampling import planning
from tasks.shards import Shards, seal, write_text

RESULT = RESULTS / "generation.json"
PEER, BATCH = "diffusers", 256
FLOOR = 30.0  # times as fast as the peer


def ours(bench: Bench, family: str, few: Sequence[int], samples: int) -> dict[str, dict[str, Any]]:
    """Train a family, and draw from its checkpoint with each number of steps."""
    params, real = bench.train_params(family, bench.minutes), bench.data / "real/train"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "checkpoint").mkdir()
        others = (bench.data / "real/calibrate", bench.data / "reference")
        block = bench.params.families[family]
        seal(fitting.fit(work / "checkpoint", real, *others, params, block, bench.device))
        rows = {}
        for steps in few:
            name = f"{family}, {steps} step{'s' if steps > 1 else ''}"
            rows[name] = drawn(bench, work / "checkpoint", work / f"synthetic-{steps}", steps, samples)
        return rows


def drawn(bench: Bench, checkpoint: Path, out: Path, steps: int, samples: int) -> dict[str, Any]:
    """Draw a sealed folder of samples, timed, and say what the first of them teach."""
    real = bench.data / "real/train"
    wanted = GenerateParams(
        **{**bench.params.generate.model_dump(), "num_samples": samples, "steps": steps, "guidance": None}
    )
    out.mkdir()
    started = time.monotonic()
    plan = planning.plan(wanted, checkpoint, real)
    for number in plan.shards:
        sampling.draw_shard(number, plan, checkpoint, real, out, bench.device)
    seal(out, **plan.describe(bench.device))
    seconds = time.monotonic() - started
    shards = Shards.open(out)
    table = shards.table(["id", "label"])
    images = probing.Images(shards.pixels(), shards.labels(), table["id"].to_numpy())
    return row(bench, images, samples, seconds)


def theirs(bench: Bench) -> dict[str, dict[str, Any]]:
    """Train the peer as long, and save as many samples as there are train images to a folder."""
    trained: Trained = bench.train(PEER, bench.default_lr(PEER), bench.minutes)
    labels, device = bench.labels, trained.device
    seeds = [planning.sample_seed(bench.params.generate.seed, n) for n in range(len(labels))]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        for at in range(0, len(labels), BATCH):
            part = slice(at, at + BATCH)
            y_B = torch.from_numpy(labels[part]).to(device.kind) if bench.spec.classes else None
            with torch.inference_mode(), device.autocast():
                x_BCHW = trained.family.sample(y_B, seeds[part])[0].cpu().numpy()
            for seed, x_CHW in zip(seeds[part], x_BCHW, strict=True):
                image = Image.fromarray(x_CHW[0] if len(x_CHW) == 1 else x_CHW.transpose(1, 2, 0))
                image.save(Path(folder) / f"{seed:016x}.png")
            found.append(x_BCHW)
        seconds = time.monotonic() - started
    images = probing.Images(np.concatenate(found), labels, np.array([f"{s:016x}" for s in seeds]))
    return {f"{PEER}, {peers.STEPS} steps": row(bench, images, len(labels), seconds)}


def row(bench: Bench, images: probing.Images, samples: int, seconds: float) -> dict[str, Any]:
    """Speed, and the accuracy of as many samples as there are train images, balanced as all are."""
    most = np.linspace(0, len(images.y) - 1, min(len(images.y), bench.splits["train"].rows)).astype(int)
    accuracy = bench.accuracy(images.take(most), "test", bench.seeds)
    return {
        "minutes": bench.minutes,
        "samples": samples,
        "rate": round(samples / seconds, 1),
        "accuracy": told(accuracy),
    }


def markdown(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows as the README's table."""
    peer = next((r["rate"] for name, r in rows.items() if name.startswith(PEER)), None)
    lines = ["|  | images/s | times the peer's | accuracy % |", "| --- | --- | --- | --- |"]
    for name, found in rows.items():
        ratio = f"{found['rate'] / peer:.1f}" if peer else "-"
        lines.append(f"| {name} | {found['rate']:,.0f} | {ratio} | {cell(found['accuracy'], '.2f')} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both, draw with both, print the table and keep the rows."""
    found = argparse.ArgumentParser("benchmarks.generation", description=(__doc__ or "").split("\n")[0])
    found.add_argument("--family", default="consistency", choices=names("label"))
    found.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4])
    found.add_argument("--minutes", type=positive, default=10.0, help="of training, for each")
    found.add_argument("--samples", type=int, default=20_000, help="that ours draws")
    found.add_argument("--seeds", type=int, default=3, help="probes a row")
    found.add_argument("--threads", type=int, help="else machine.threads")
    found.add_argument("--data", type=Path, default=Path("data"), help="the folder of real/ and reference/")
    found.add_argument("--results", type=Path, default=RESULT)
    options = found.parse_args(arguments)
    try:
        if why := peers.missing(PEER):
            raise UserError(why)
        bench = Bench(
            on_threads(read(PARAMS), options.threads), options.data, options.minutes, options.seeds, 1
        )
        bench.check()
        rows = ours(bench, options.family, options.steps, options.samples) | theirs(bench)
    except UserError as error:
        sys.exit(str(error))
    write_text(options.results, json.dumps(rows, indent=1) + "\n")
    print(markdown(rows))
    print(f"floor: {FLOOR:g} times the peer's, accuracy no lower")


if __name__ == "__main__":
    main()
