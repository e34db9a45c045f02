"""Evaluate's out: metrics, plots as data, and one HTML page that needs nothing but itself."""

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from tasks.errors import UserError
from tasks.params import EvaluateParams
from tasks.probing import Outcome, Splits, summarise
from tasks.reporting import charts, gallery, pictures, tables, words
from tasks.shards import file_digest, read_index, write_text

CONFUSION_LIMIT = 20
COMPARED = ("real", "synthetic")
HEALTH = {"score": "real images covered", "variety": "variety of the least varied class"}


def metrics(
    params: EvaluateParams, splits: Splits, outcomes: Sequence[Outcome], checkpoint: Path
) -> dict[str, Any]:
    """The numbers of metrics.json, and its headline: what they say of the synthetic images, in sentences."""
    numbers = summarise(params, splits, outcomes)
    if held_out := facts_of(checkpoint).get("held_out"):
        numbers["held_out"] = held_out
    return {**numbers, "headline": words.headline(numbers)}


def facts_of(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of itself."""
    return json.loads((checkpoint / "checkpoint.json").read_text(encoding="utf-8"))


def table(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The accuracy of each arm as rows of words, for a table artifact."""
    return [
        {"trained on": arm_words(arm), "images": found["images"], "accuracy": words.percent(found["mean"]),
         "± points": words.share_number(found["std"])}
        for arm, found in metrics["accuracy"].items()
    ]  # fmt: skip


def write_numbers(
    folder: Path, metrics: Mapping[str, Any], splits: Splits, outcomes: Sequence[Outcome]
) -> Path:
    """Write metrics.json, and what the page draws as CSV files for `dvc plots`. Returns `folder`."""
    text = json.dumps(metrics, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(folder / "metrics.json", text + "\n")
    accuracy = [
        {"arm": arm, "seed": seed, "accuracy": value}
        for arm, found in metrics["accuracy"].items()
        for seed, value in enumerate(found["per_seed"])
    ]
    _csv(folder / "accuracy.csv", ["arm", "seed", "accuracy"], accuracy)
    curves = [
        {"arm": o.trial.arm, "seed": o.trial.seed, **{k: round(v, 6) for k, v in point.items()}}
        for o in outcomes
        for point in o.curve
    ]
    _csv(folder / "curves.csv", ["arm", "seed", "images", "loss", "accuracy"], curves)
    guesses = [
        {"actual": splits.classes[actual], "predicted": splits.classes[guess]}
        for o in outcomes
        if o.trial.arm == "synthetic" and o.predicted is not None
        for actual, guess in zip(splits.test.y.tolist(), o.predicted.tolist(), strict=True)
        if actual >= 0
    ]
    _csv(folder / "confusion.csv", ["actual", "predicted"], guesses)
    _csv(folder / "classes.csv", ["class", *COMPARED], class_rows(metrics, splits.classes))
    measured = [
        {"measure": name} | {side: (metrics.get(side) or {}).get(name) for side in tables.SIDES}
        for name in metrics.get("after") or metrics.get("before") or {}
    ]
    _csv(folder / "measures.csv", ["measure", *tables.SIDES], measured)
    dropped = sorted((splits.measures.get("rejected") or {}).items(), key=lambda r: (-r[1], r[0]))
    shown = [{"reason": r, "samples": n} for r, n in dropped if n]
    _csv(folder / "rejected.csv", ["reason", "samples"], shown)
    return folder


def class_rows(metrics: Mapping[str, Any], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Accuracy of each class under each of the two arms that the page compares; None if not measured."""
    shares = {arm: metrics["accuracy"].get(arm, {}).get("per_class", {}) for arm in COMPARED}
    return [{"class": name} | {arm: shares[arm].get(name) for arm in COMPARED} for name in classes]


def write_page(
    folder: Path,
    metrics: Mapping[str, Any],
    params: EvaluateParams,
    splits: Splits,
    outcomes: Sequence[Outcome],
    inputs: Mapping[str, Path],
) -> Path:
    """Write report.html. `inputs` are evaluate's sealed inputs by name; scores and checkpoint are shown."""
    facts, index = facts_of(inputs["checkpoint"]), read_index(inputs["synthetic"])
    probes = probe_curves(outcomes)
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters |= {
        "arm": arm_words,
        "thousands": thousands,
        "percent": words.percent,
        "points": words.points,
        "share": words.share_number,
        "within": within,
    }
    text = page.get_template("page.html.j2").render(
        metrics=metrics,
        marks=charts.marks(dict.fromkeys([*metrics["accuracy"], *probes])),
        recommendation=recommendation(metrics),
        meanings=words.MEANINGS,
        family=facts,
        classes=splits.classes,
        tested=int((splits.test.y >= 0).sum()),
        seeds=params.seeds,
        dots=charts.dots(metrics["accuracy"]),
        per_class=charts.classes(metrics["accuracy"]),
        confusion=confusion(splits, outcomes),
        rows=pictures.side_by_side(splits),
        made=pictures.made_from(splits, inputs["synthetic"]),
        fidelity=tables.fidelity(metrics),
        gallery=gallery.collect(splits, inputs["synthetic"], inputs["scores"]),
        rejected=pictures.rejected(splits, inputs["scores"]),
        shortage=tables.shortage(splits.measures),
        measures=tables.measures(splits.measures),
        set_notes=splits.measures.get("set_notes") or [],
        set_classes=tables.per_class(splits.measures),
        set_extractors=tables.extractors(splits.measures),
        loss=charts.curves({"loss": loss_curve(inputs["checkpoint"] / "loss.csv")}),
        probes=charts.curves(probes),
        health=charts.curves(health_curves(inputs["checkpoint"] / "health.csv")),
        health_marks=charts.marks(HEALTH.values()),
        grids=pictures.grids(inputs["checkpoint"]),
        lineage=lineage(inputs),
        settings={
            "evaluate": params.model_dump(mode="json"),
            "generate": index.get("generate", {}),
            "train": facts.get("train", {}),
            facts["family"]: facts.get("config", {}),
            "environment": index.get("environment", {}),
        },
    )
    return write_text(folder / "report.html", text)


def arm_words(arm: str) -> str:
    """An arm as the reader is told of it."""
    return words.ARMS[arm]


def thousands(value: int | None) -> str:
    """A number of images, a dash if it is not known."""
    return "–" if value is None else f"{value:,}"


def within(found: Mapping[str, Any]) -> str:
    """An accuracy's interval in per cent, nothing if it has none."""
    ends = charts.interval(found)
    return f"{100 * ends[0]:.2f} to {100 * ends[1]:.2f}" if ends else ""


def recommendation(metrics: Mapping[str, Any]) -> str | None:
    """How many synthetic images to train with, and what that was chosen on; None if nothing was."""
    found = metrics.get("recommendation") or {}
    if found.get("ratio") is None:
        return None
    ratio = f"{found['ratio']:g}" if isinstance(found["ratio"], int | float) else str(found["ratio"])
    chosen = f", chosen on the {found['chosen_on']} split" if found.get("chosen_on") else ""
    line = f"Recommended: {ratio} synthetic images for each real one{chosen}."
    return f"{line} {found['why'].replace('`', '')}" if found.get("why") else line


def confusion(splits: Splits, outcomes: Sequence[Outcome]) -> list[list[int]] | None:
    """How often the synthetic arm's probe takes row for column, over all seeds; None if too many classes."""
    found = [o.predicted for o in outcomes if o.trial.arm == "synthetic" and o.predicted is not None]
    if not found or len(splits.classes) > CONFUSION_LIMIT:
        return None
    counts: Counter[tuple[int, int]] = Counter()
    for predicted in found:
        counts.update(zip(splits.test.y.tolist(), predicted.tolist(), strict=True))
    labels = range(len(splits.classes))
    return [[counts[actual, guess] for guess in labels] for actual in labels]


def loss_curve(path: Path, most: int = 200) -> list[tuple[float, float]]:
    """(images, loss) of the generator's training, averaged down to at most so many points."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            points = [(float(row["images"]), float(row["loss"])) for row in csv.DictReader(file)]
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{path}: no readable loss curve ({error}). Run `dvc repro train`.") from None
    points = [p for p in points if np.isfinite(p).all()]
    parts = np.array_split(np.array(points), min(most, len(points))) if points else []
    return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in parts]


def health_curves(path: Path) -> dict[str, list[tuple[float, float]]]:
    """(images, per cent) of what the judge found in draws during the training; none if it examined none."""
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        name: [(float(row["images"]), 100 * float(row[column])) for row in rows if row.get(column)]
        for column, name in HEALTH.items()
    }


def probe_curves(outcomes: Sequence[Outcome]) -> dict[str, list[tuple[float, float]]]:
    """Per arm, (images, accuracy on the calibrate split) while the probe trains, the mean over seeds."""
    found: dict[str, dict[float, list[float]]] = {}
    for outcome in outcomes:
        for point in outcome.curve:
            if "accuracy" in point:
                arm = found.setdefault(outcome.trial.arm, {})
                arm.setdefault(point["images"], []).append(100 * point["accuracy"])
    return {arm: [(x, sum(ys) / len(ys)) for x, ys in points.items()] for arm, points in found.items()}


def lineage(inputs: Mapping[str, Path]) -> list[dict[str, str]]:
    """For each input, the recipe that made it and the digest of its sealed index."""
    return [
        {
            "name": name,
            "recipe": read_index(path).get("recipe") or "–",
            "digest": file_digest(path / "index.json"),
        }
        for name, path in inputs.items()
    ]


def _csv(path: Path, columns: list[str], rows: Sequence[Mapping[str, Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
