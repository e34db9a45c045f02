"""The report's tables of set measures: before the filter, after it, and real against real as the scale."""

import math
from collections.abc import Mapping
from typing import Any

from tasks.reporting.charts import interval

SIDES = ("before", "after", "scale")
HIGHER = ("precision", "recall", "density", "coverage", "inception_score", "class_balance")
LOWER = ("frechet_distance", "kernel_distance", "duplicate_rate", "copied_rate")
SHORTAGES = 8
PAIRS = {"psnr": "PSNR in decibels", "ssim": "SSIM", "perceptual_distance": "perceptual distance"}


def measures(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each set measure: its name, which way is better, and each side as words.

    `found` has `before`, `after` and `scale`, any of which may be missing, and may have `interval`.
    """
    sides = {side: found.get(side) or {} for side in SIDES}
    spans = found.get("interval") or {}
    names = list(dict.fromkeys(name for side in SIDES for name in sides[side]))
    return [
        {"name": name.replace("_", " "), "better": better(name)}
        | {side: told(values.get(name)) for side, values in sides.items()}
        | {f"{side}_span": span((spans.get(side) or {}).get(name)) for side in SIDES}
        for name in names
        if not isinstance(next((v[name] for v in sides.values() if name in v), None), Mapping)
    ]


def better(name: str) -> str:
    """Which way a measure is better; nothing where that is not known."""
    if name in LOWER:
        return "lower"
    return "higher" if name in HIGHER else ""


def told(value: Any, digits: int = 4) -> str:
    """A measure in so many digits, a dash if it was not or could not be measured."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    # 0.00002 can be compared down a column, 2e-05 can't.
    text = f"{value:.6f}".rstrip("0") if 1e-6 <= abs(value) < 1e-4 else f"{value:.{digits}g}"
    return text.replace("-", "−")


def span(found: Any) -> str:
    """An interval as `low to high` in three digits, nothing if there is none."""
    ends = interval(found)
    return f"{told(ends[0], 3)} to {told(ends[1], 3)}" if ends else ""


def fidelity(found: Mapping[str, Any]) -> list[str]:
    """What was measured of pairs, in words: on held-out pairs, and of samples and their sources."""
    lines = []
    for key, start in (("held_out", "Held-out images and the family's answer to them"),
                       ("to_source", "All samples and their nearest source")):  # fmt: skip
        parts = [f"{PAIRS[name]} {told(value)}" for name, value in (found.get(key) or {}).items()]
        if parts:
            lines.append(f"{start}, on average: {', '.join(parts)}.")
    return lines


def per_class(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """The set measures of each class as rows beside how many samples were drawn and kept; None if none."""
    classes = found.get("per_class") or {}
    tables = {name: {row["name"]: row for row in measures(each)} for name, each in classes.items()}
    columns = list(dict.fromkeys(name for rows in tables.values() for name in rows))
    rows = [
        {
            "name": name,
            "samples": each.get("samples"),
            "kept": each.get("kept"),
            "cells": [tables[name].get(column) for column in columns],
        }
        for name, each in classes.items()
    ]
    return {"columns": columns, "rows": rows} if rows else None


def extractors(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The set measures in other networks' features: a name, a note, and rows, none if not measured."""
    return [
        {"name": name.replace("_", " "), "note": each.get("note") or "", "rows": measures(each)}
        for name, each in (found.get("extractors") or {}).items()
    ]


def shortage(found: Mapping[str, Any]) -> str | None:
    """Which classes the filter left short, by how much, and what would make up for it; None if none."""
    short = [(name, each) for name, each in (found.get("shortage") or {}).items() if each.get("lacks")]
    if not short:
        return None
    named = [f"class {name} by {each['lacks']:,}{_factor(each)}" for name, each in short[:SHORTAGES]]
    more = f", and {len(short) - SHORTAGES} more classes" if len(short) > SHORTAGES else ""
    return f"Left short by the filter: {', '.join(named)}{more}."


def _factor(each: Mapping[str, Any]) -> str:
    factor = each.get("oversample")
    if not isinstance(factor, int | float):
        return ""
    return f" (generate.oversample: {factor:g} would do)" if factor else " (none was kept)"
