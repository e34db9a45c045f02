"""The training loop: step, watch, draw, keep the best state, go back when it turns ill.

`training.py` is what is trained and how it is saved; `tasks/watchdog.py` says whether it is well.
"""

import csv
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning_fabric import Fabric
from safetensors import SafetensorError
from safetensors.torch import save

from models.fidelity import MEASURES
from tasks.children import unbroken
from tasks.device import Device
from tasks.errors import UserError
from tasks.fitting.drawing import Draws
from tasks.fitting.together import alone, launch
from tasks.fitting.training import Training, resume
from tasks.judging import Reference
from tasks.params import TrainParams
from tasks.progress import Progress
from tasks.shards import png, whole, write_text
from tasks.watchdog import Examiner, Finding, Watchdog

log = logging.getLogger("mintage.train")
MODEL = "model.safetensors"
CHECKPOINT = "checkpoint.json"
CURVE = "loss.csv"
HEALTH = "health.csv"
STATE = "state.safetensors"
HEALTHY = "healthy.safetensors"
SLOWER = 1 / 3  # what a rollback multiplies the learning rate by
GRID_COLUMNS = 10
GRID_ROWS = 8
EXAMINED = 240  # samples of a draw that the judge sees


def fit(
    folder: Path,
    real: Path,
    calibrate: Path,
    reference: Path,
    params: TrainParams,
    block: Mapping[str, Any],
    device: Device,
) -> Path:
    """Train `params.family` on the shards `real` until `params.images` or `params.minutes`, into `folder`.

    Goes on from `folder` if a state lies there. Its draws on the way are made from the sources in
    `calibrate` if the family is asked with images. Writes the averaged weights of the best state
    (safetensors), their facts (JSON), curves of loss and health (CSV, images on their first column) and
    sample grids (PNG). A training that turns ill goes back to its last healthy draw, slower.
    Raises UserError if the family can't make such images, or if going back did not help.
    """
    if (folder / CHECKPOINT).is_file() and not any((folder / n).exists() for n in (STATE, HEALTHY)):
        return folder  # it was done, and stopped before it was sealed
    if device.processes == 1:
        return _fit(alone(device), folder, real, calibrate, reference, params, block, device)
    if params.minutes is not None:
        raise UserError(
            "params.yaml: train.minutes: processes have no clock in common. Set it to null, "
            "or machine.devices and machine.nodes to 1."
        )
    return launch(_fit, device, folder, real, calibrate, reference, params, block, device)


def _fit(
    fabric: Fabric,
    folder: Path,
    real: Path,
    calibrate: Path,
    reference: Path,
    params: TrainParams,
    block: Mapping[str, Any],
    device: Device,
) -> Path:
    """Train in one process, alone or beside others that do the same."""
    if not folder.is_dir():
        raise UserError(
            f"{folder}: the first machine's work is not here. Machines that train together need one data/ "
            "on a shared file system, and the same params, code and libraries."
        )
    training = Training(real, params, block, device, fabric)
    resumed = resume(training, [folder / STATE, folder / HEALTHY])
    fabric.barrier()  # nobody may write what another is still looking for
    if not resumed:
        training.save(folder / HEALTHY)
    (folder / "grids").mkdir(exist_ok=True)
    examiner, draws = Examiner(Reference(reference), device), planned(training, calibrate)
    heeds = training.writes and hasattr(training.family, "heed")
    if heeds and examiner.reference.facts["task"] == "classes":
        training.judge = examiner.judge
    with Progress("train", params.images, training.images) as progress:
        try:
            run(folder, training, draws, examiner, progress)
        except KeyboardInterrupt:
            training.save(folder / STATE)
            raise
    return write_checkpoint(folder, training) if training.writes else folder


def run(
    folder: Path, training: Training, draws: Draws | None, examiner: Examiner, progress: Progress
) -> None:
    """Train to the end of the budget, with the best state in MODEL; raises UserError if it stays ill."""
    params, watchdog = training.params, watch(training)
    while training.family.TRAINS:
        over, finding = training.progress >= 1, None
        examined = training.health[-1]["images"] if training.health else -1
        due = training.images // params.grid_every > max(examined, 0) // params.grid_every
        if due or (over and training.images > examined):
            finding = examine_once(folder, training, watchdog, draws, examiner)
        if over and not finding:
            return
        with unbroken():  # a stop in the middle of a step would leave a state that no step ends in
            if not finding:
                before, metrics = training.images, training.step()
                progress.add(training.batch_size, f"loss {metrics['loss']:.4f}")
                finding = watchdog.step(metrics, training.progress)
                saves = training.images // params.checkpoint_every > before // params.checkpoint_every
                if saves and not finding and training.is_finite():
                    training.save(folder / STATE)
            if finding:
                roll_back(folder, training, finding)
                watchdog = watch(training)
    if training.writes:
        keep(folder, training.averaged())


def watch(training: Training) -> Watchdog:
    """The training's watchdog, which remembers in the training's own state."""
    return Watchdog(training.family.ALARMS, training.watch, getattr(training.family, "settled", 0.0))


def planned(training: Training, calibrate: Path) -> Draws | None:
    """What each draw of a training shows: a grid of GRID_COLUMNS classes side by side, and some more.

    None where another process writes, and so draws: sources are decoded once, not in every process.
    """
    if not training.writes:
        return None
    count, classes = GRID_ROWS * GRID_COLUMNS, training.spec.classes
    grid_y_N = np.arange(count) % GRID_COLUMNS % max(classes, 1)
    y_N = np.concatenate([grid_y_N, np.arange(EXAMINED - count) % max(classes, 1)])
    return Draws(training.family, y_N if classes else None, EXAMINED, calibrate)


def examine_once(
    folder: Path, training: Training, watchdog: Watchdog, draws: Draws | None, examiner: Examiner
) -> Finding | None:
    """Examine in the process that writes and so has `draws`, and tell the others what was found."""
    finding = examine(folder, training, watchdog, draws, examiner) if draws else None
    if training.fabric.world_size > 1:
        told = (finding, training.health, training.watch)
        finding, training.health, remembered = training.fabric.broadcast(told)
        training.watch.update(remembered)  # in place, since the watchdog holds it too
    return finding


def examine(
    folder: Path, training: Training, watchdog: Watchdog, draws: Draws, examiner: Examiner
) -> Finding | None:
    """Draw at fixed seeds, show the draw as a grid, have it judged; keep the state if it is the best.

    Returns what is wrong with the draw, or None; then the state is one to go back to.
    """
    if not training.is_finite():  # the next step would find it, but no such state may be kept
        return Finding("the weights became no numbers")
    family, count = training.averaged(), GRID_ROWS * GRID_COLUMNS
    x_NCHW = draws.draw(family, count, training.device)
    with whole(folder / "grids" / f"{training.images:09d}.png") as file:
        file.write(png(tile(x_NCHW[:count], GRID_COLUMNS)))
    found = examiner.examine(x_NCHW, draws.y_N) | draws.fidelity(family, x_NCHW, training.device)
    with unbroken():
        if finding := watchdog.draw(found, training.progress):
            return finding
        if watchdog.is_best(found["score"], training.images):
            keep(folder, family)
        # Only now, since what stands in `health` is not examined again: an interrupted draw must be.
        training.health.append({"images": training.images, **found})
        training.save(folder / HEALTHY)
    return None


def keep(folder: Path, family: Any) -> None:
    """Write the family's weights, whole or not at all: they are what the training gives."""
    weights = {k: v.detach().cpu().contiguous() for k, v in family.state_dict().items()}
    with whole(folder / MODEL) as file:
        file.write(save(weights))


def roll_back(folder: Path, training: Training, finding: Finding) -> None:
    """Go back to the last healthy draw with a lower learning rate; UserError once that was done enough."""
    at, tried = training.images, training.rollbacks
    try:
        training.load(folder / HEALTHY, training.seconds)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise UserError(
            f"train: {finding.what} (at {at:,} images), and the state to go back to is not readable: "
            f"{folder / HEALTHY} ({error}). Remove {folder} and run `dvc repro train` again."
        ) from None
    # With no time left and no healthy draw, what it would go back to was never trained.
    too_late = training.out_of_time and "best" not in training.watch
    if len(tried) == training.params.max_rollbacks or too_late:
        key = f"families.{training.params.family}.{finding.key}"
        now = getattr(training.family.config, finding.key)
        raise UserError(
            f"train: {finding.what} (at {at:,} images, rolled back {len(tried)} times). "
            f"{finding.verb.capitalize()} {key} (now {now:g})."
        )
    done = [*tried, {"images": at, "finding": finding.what}]
    training.family.scale_lr(SLOWER ** (len(done) - len(training.rollbacks)))
    training.rollbacks = done
    training.save(folder / STATE)
    log.warning(
        "%s (at %s images); back to %s images, slower", finding.what, f"{at:,}", f"{training.images:,}"
    )


def write_checkpoint(folder: Path, training: Training) -> Path:
    """Write what generate reads beside the weights: facts and curves; drop the states to resume from."""
    best = training.watch.get("best_images", training.images)
    facts = {
        "family": training.params.family,
        "config": training.block,
        "classes": training.classes,
        "channels": training.spec.channels,
        "size": training.spec.height,
        "images": training.images,
        "best_images": best,
        "ended_by": training.ended_by,
        "rollbacks": training.rollbacks,
        "parameters": sum(p.numel() for p in training.family.parameters()),
        "train": training.params.model_dump(mode="json"),
        "environment": training.device.facts,
    }
    if condition := training.real.shards.condition:
        facts["condition"] = condition
    if len(training.references):
        facts["references"] = len(training.references)
    if measured := held_out(training, best):
        facts["held_out"] = measured
    for grid in (folder / "grids").iterdir():
        if int(grid.stem) not in {row["images"] for row in training.health}:
            grid.unlink()  # of a draw that was found ill
    write_text(folder / CHECKPOINT, json.dumps(facts, indent=1) + "\n")
    write_table(folder / CURVE, training.curve, ["images", "loss"])
    write_table(folder / HEALTH, training.health, ["images", "classes_shown", "variety", "score"])
    (folder / STATE).unlink(missing_ok=True)
    (folder / HEALTHY).unlink(missing_ok=True)
    return folder


def held_out(training: Training, best: int) -> dict[str, float]:
    """What the best state's answers to held-out pairs measured; nothing of a family that is not paired."""
    row: dict[str, Any] = next((row for row in training.health if row["images"] == best), {})
    return {name: row[name] for name in MEASURES if name in row}


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write rows as CSV with all columns that any of them has, or with `columns` if there are none."""
    names = list(dict.fromkeys(name for row in rows for name in row)) or list(columns)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()})


def tile(x_NCHW: np.ndarray, columns: int) -> np.ndarray:
    """Lay equal-sized images in rows of `columns`: (N, C, H, W) to (C, rows H, columns W)."""
    count, channels, height, width = x_NCHW.shape
    grid = x_NCHW.reshape(count // columns, columns, channels, height, width)
    return grid.transpose(2, 0, 3, 1, 4).reshape(channels, -1, columns * width)
