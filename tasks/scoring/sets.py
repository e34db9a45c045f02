"""The metrics of a scored set: how many were kept and why not, and how it compares with real images."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.comparing import Crowd, compare, crowd
from tasks.device import Device
from tasks.extracting import compare_samples
from tasks.judging import Reference
from tasks.params import MOST_OVERSAMPLE
from tasks.scoring.limits import MEANINGS
from tasks.scoring.measured import TO_SOURCE, column
from tasks.shards import Shards


def summary(
    samples: Shards, real: Reference, paths: list[Path], against: tuple[list[str], np.ndarray],
    again: tuple[np.ndarray, np.ndarray], rates: dict[str, np.ndarray], device: Device,
) -> dict[str, Any]:  # fmt: skip
    """What metrics.json says.

    `against`: the switched-on reasons (R), and which speak against each sample (N, R). `again`: which
    samples repeat another one, and which a train image, (N,) each, by the limits `rates`.
    """
    reasons, against_NR = against
    labels_N, classes = samples.labels(), samples.classes
    kept_N: np.ndarray = ~np.any(against_NR, axis=1)
    first_N = np.where(kept_N, -1, against_NR.argmax(1))
    whole = Crowd(
        torch.from_numpy(column(paths, "features")),
        torch.from_numpy(labels_N),
        None if (p := column(paths, "probabilities")) is None else torch.from_numpy(p),
        *map(torch.from_numpy, again),
    )
    held_out = crowd(real, "calibrate")
    before = compare(whole, held_out, classes)
    after = compare(whole.take(torch.from_numpy(kept_N)), held_out, classes)
    scale = real_scale(real, rates)
    to_source = {kind: column(paths, name) for name, kind in TO_SOURCE.items()}
    likeness = {n: round(float(v.mean()), 6) for n, v in to_source.items() if v is not None}
    return ({"to_source": likeness} if likeness else {}) | {
        "samples": len(kept_N),
        "kept": int(kept_N.sum()),
        "kept_ratio": round(float(kept_N.mean()), 6),
        "rejected": {
            name: int((first_N == reasons.index(name)).sum()) if name in reasons else 0 for name in MEANINGS
        },
        "shortage": shortage(samples, kept_N),
        "before": before["measures"],
        "after": after["measures"],
        "scale": scale["measures"],
        "interval": {"before": before["interval"], "after": after["interval"], "scale": scale["interval"]},
        "extractors": compare_samples(samples, kept_N, real.folder, device),
        "set_notes": list(dict.fromkeys([*before["notes"], *after["notes"]])),
        "per_class": {
            name: {
                "samples": int((labels_N == k).sum()),
                "kept": int(kept_N[labels_N == k].sum()),
                "before": before["per_class"][name]["measures"],
                "after": after["per_class"][name]["measures"],
                "scale": scale["per_class"][name]["measures"],
                "interval": {
                    "before": before["per_class"][name]["interval"],
                    "after": after["per_class"][name]["interval"],
                },
            }
            for k, name in enumerate(classes)
        },
    }


def real_scale(real: Reference, rates: dict[str, np.ndarray]) -> dict[str, Any]:
    """The same measures of the real train split; what repeats or copies is told of held-out images."""
    found = {**real.scale, "measures": dict(real.scale["measures"])}
    labels_M = np.maximum(real.labels("calibrate"), 0)
    told = {
        "copied_rate": ("copied", "copy_residual"),
        "duplicate_rate": ("duplicate", "sibling_residual"),
    }
    for name, (reason, measure) in told.items():
        share = None
        if reason in rates and len(labels_M):
            share = round(float((real.column("calibrate", measure) < rates[reason][labels_M]).mean()), 6)
        found["measures"][name] = share
    return found


def shortage(samples: Shards, kept_N: np.ndarray) -> dict[str, dict[str, float | None]]:
    """Of each class how many were kept fewer than generate.num_samples asked for, and the mend.

    The mend is the `generate.oversample` that would fill it if the same share were kept; 0 where none was
    kept, and None where nothing lacks.
    """
    labels_N, wanted = samples.labels(), samples.index.get("wanted") or {}
    found: dict[str, dict[str, float | None]] = {}
    for name, count in wanted.items():
        of_class = (
            labels_N == samples.classes.index(name) if samples.classes else np.ones(len(labels_N), bool)
        )
        drawn, kept = int(of_class.sum()), int(kept_N[of_class].sum())
        factor = None
        if kept < count:
            factor = min(round(float(np.ceil(100 * drawn / kept) / 100), 2), MOST_OVERSAMPLE) if kept else 0.0
        found[name] = {"lacks": max(count - kept, 0), "oversample": factor}
    return found
