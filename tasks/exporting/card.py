"""The card: what the exported dataset is, how good it was measured to be, and how to load it."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml

from tasks.exporting import Source, image_columns
from tasks.gates import Verdict
from tasks.params import ExportParams
from tasks.shards import Shards, pixels, png, read_index, read_shard, write_text

PREVIEW_COLUMNS = 12
PREVIEW_CLASSES = 16
SIZES = ["n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B"]


def write_card(
    folder: Path,
    params: ExportParams,
    counts: dict[str, int],
    verdicts: list[Verdict],
    source: Source,
    report: Path,
    checkpoint: Path,
) -> Path:
    """Write `README.md` and `preview.png` into the export `folder`. Returns the preview's path.

    `counts` is what `write_samples` returned for the folder.
    """
    index = source.drawn.index
    metrics = json.loads((report / "metrics.json").read_text(encoding="utf-8"))
    facts = json.loads((checkpoint / "checkpoint.json").read_text(encoding="utf-8"))
    judged = json.loads((source.scores / "metrics.json").read_text(encoding="utf-8"))
    template = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template.filters |= {
        "percent": _percent, "interval": _interval, "number": _number, "advice": _advice, "cell": _cell
    }  # fmt: skip
    page = template.from_string(Path(__file__).with_name("card.md.j2").read_text(encoding="utf-8"))
    text = page.render(
        front=yaml.safe_dump(
            front_matter(params, counts, source.drawn), sort_keys=False, allow_unicode=True
        ),
        name=params.name,
        license=params.license,
        counts=counts,
        classes=source.drawn.classes,
        per_class=class_counts(folder, source.drawn.classes),
        shape=source.drawn.shape,
        columns=[f"`{name}`" for name in image_columns(source.drawn)],
        asked=asked(source.drawn),
        metrics=metrics,
        rejected={reason: n for reason, n in judged.get("rejected", {}).items() if n},
        gates=[v.words() for v in verdicts],
        family=facts,
        generate=index.get("generate", {}),
        environment=index.get("environment", {}),
        lineage={
            "checkpoint": index.get("checkpoint"),
            "recipe of the samples": index.get("recipe"),
            "recipe of the scores": read_index(source.scores).get("recipe"),
            "recipe of the report": read_index(report).get("recipe"),
        },
    )  # fmt: skip
    write_text(folder / "README.md", text)
    return write_preview(folder, source.drawn.classes)


def front_matter(params: ExportParams, counts: dict[str, int], drawn: Shards) -> dict[str, Any]:
    """The card's YAML: the two configs, so that `load_dataset` mixes no manifest with images."""
    columns: dict[str, Any] = dict(image_columns(drawn))
    classes = drawn.classes
    if classes:
        columns["label"] = {"class_label": {"names": {str(n): name for n, name in enumerate(classes)}}}
    tasks = ["image-classification" if classes else "unconditional-image-generation"]
    if drawn.condition and drawn.condition["ids"]:
        tasks.append("image-segmentation")
    size = SIZES[min(max(len(str(counts["kept"])) - 3, 0), len(SIZES) - 1)]
    return {
        "license": params.license,
        "pretty_name": params.name,
        "task_categories": tasks,
        "tags": ["synthetic", "mintage"],
        "size_categories": [size],
        "configs": [
            {"config_name": name, "data_files": [{"split": "train", "path": path}]}
            for name, path in (("default", "images/*.parquet"), ("manifest", "manifest.parquet"))
        ],
        "dataset_info": {
            "config_name": "default",
            "features": [
                {"name": n, "list" if n == "source_ids" else "dtype": t} for n, t in columns.items()
            ],
            "splits": [{"name": "train", "num_examples": counts["kept"]}],
        },
    }  # fmt: skip


def asked(drawn: Shards) -> str | None:
    """What samples were made from, and where the reader finds it; None if they have no sources."""
    if not (parents := drawn.index.get("parents")):
        return None
    many = "a real image" if parents == 1 else f"{parents} real images of one class"
    line = f"Each was made from {many} of the train split, named in `source_ids`, whose label it has"
    if not (condition := drawn.condition):
        return f"{line}."
    line = f"{line}; `condition` is what the generator was shown of it"
    if not (ids := condition["ids"]):
        return f"{line}, an image."
    return (
        f"{line}, a map: a PNG of one channel, each pixel of which is an id from 0 to {ids - 1}, as it is. "
        "`image` and `condition` are what a segmentation model trains on."
    )


def class_counts(folder: Path, classes: list[str]) -> dict[str, int]:
    """How many exported images each class has."""
    labels: Counter[int] = Counter()
    for path in sorted((folder / "images").iterdir()):
        labels.update(read_shard(path, ["label"])["label"].drop_null().to_pylist())
    return {name: labels[n] for n, name in enumerate(classes)}


def write_preview(folder: Path, classes: list[str]) -> Path:
    """Lay the first exported images in a row per class (at most 16 of them), as one PNG."""
    first = read_shard(min((folder / "images").iterdir()), ["image", "label"])
    labels = first["label"].fill_null(0).to_numpy()
    rows = []
    for label in range(min(max(len(classes), 1), PREVIEW_CLASSES)):
        picked = first["image"].take(np.flatnonzero(labels == label)[:PREVIEW_COLUMNS])
        if len(picked):
            x_NCHW = pixels(picked)
            blank = np.full((PREVIEW_COLUMNS - len(picked), *x_NCHW.shape[1:]), 255, np.uint8)
            rows.append(np.concatenate([*x_NCHW, *blank], axis=2))
    path = folder / "preview.png"
    path.write_bytes(png(np.concatenate(rows, axis=1)))
    return path


def _percent(share: float | None) -> str:
    return "not measured" if share is None else f"{100 * share:.2f} %"


def _interval(found: Mapping[str, Any]) -> str:
    low, high = found.get("low"), found.get("high")
    return "not measured" if low is None or high is None else f"{100 * low:.2f} to {100 * high:.2f} %"


def _advice(ratio: float | None) -> str:
    if ratio is None:
        return "none."
    return f"{ratio:g} synthetic images for each real one." if ratio else "the real images alone."


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def _cell(text: object) -> str:
    """Keep a class name with a pipe or a newline from breaking a Markdown table."""
    return str(text).replace("|", "\\|").replace("\n", " ")
