"""Set measures in the features of networks that others trained: of real images once, of samples each time.

They are slow, so a side is at most `calibrate.extractor_images` images, the first ones. A network whose
weights can't be fetched is left out, with a note: the judge's features are always there.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from models import extractors
from tasks.comparing import values
from tasks.device import Device
from tasks.errors import UserError
from tasks.params import CalibrateParams
from tasks.shards import Shards, write_text

log = logging.getLogger("mintage.calibrate")
FEATURES = "features-{}.safetensors"
NOTES = "extractors.json"


def measure_extractors(
    train: Path, calibrate: Path, params: CalibrateParams, device: Device, folder: Path
) -> dict[str, str]:
    """Keep both splits' features of each network that params name; return why one was left out.

    Raises UserError if a package is missing that one needs.
    """
    notes: dict[str, str] = {}
    for name in params.extractors:
        network, note = load(name, device)
        if network is None:
            notes[name] = note
            continue
        found = {}
        for split, path in (("train", train), ("calibrate", calibrate)):
            images = first(Shards.open(path), params.extractor_images)
            found[split] = extractors.extract(network, images, torch.device(device.kind))
        save_file(found, folder / FEATURES.format(name))
    if params.extractors:
        told = {name: notes.get(name) for name in params.extractors}
        write_text(folder / NOTES, json.dumps(told, indent=1) + "\n")
    return notes


def load(name: str, device: Device) -> tuple[Any, str]:
    """The network, or None and why it is left out. Raises UserError if a package is missing that it needs."""
    try:
        return extractors.load(name, torch.device(device.kind)), ""
    except ValueError as error:
        raise UserError(f"params.yaml: calibrate.extractors: {error}.") from None
    except OSError as error:
        note = f"left out: its weights can't be fetched ({type(error).__name__})"
        log.warning(
            "%s %s; the judge's features are there all the same. With a network: dvc repro -f calibrate",
            name, note,
        )  # fmt: skip
        return None, note


def first(shards: Shards, most: int, kept_N: np.ndarray | None = None) -> Iterator[torch.Tensor]:
    """The first `most` images, or the first of those that are kept, shard by shard."""
    start, left = 0, most
    for x_NCHW in shards.decoded():
        rows = (
            np.arange(len(x_NCHW)) if kept_N is None else np.flatnonzero(kept_N[start : start + len(x_NCHW)])
        )
        start, rows = start + len(x_NCHW), rows[:left]
        left -= len(rows)
        if len(rows):
            yield torch.from_numpy(x_NCHW[rows])
        if not left:
            return


def compare_samples(samples: Shards, kept_N: np.ndarray, reference: Path, device: Device) -> dict[str, Any]:
    """Each network's measures of all samples and of the kept ones, against real ones; or why it has none."""
    found: dict[str, Any] = {}
    for name, note in noted(reference).items():
        network, why = (None, note) if note else load(name, device)
        if network is None:
            nothing = values(torch.zeros(0, 1), torch.zeros(0, 1))
            found[name] = {"before": nothing, "after": nothing, "scale": nothing, "note": why}
            continue
        real, on = load_file(reference / FEATURES.format(name)), torch.device(device.kind)
        most = len(real["train"])
        before = extractors.extract(network, first(samples, most), on)
        after = extractors.extract(network, first(samples, most, kept_N), on) if kept_N.any() else before[:0]
        told = {"before": before, "after": after, "scale": real["train"]}
        found[name] = {key: values(crowd, real["calibrate"]) for key, crowd in told.items()} | {"note": None}
    return found


def noted(reference: Path) -> dict[str, str | None]:
    """The networks that calibrate was asked for, and why one was left out."""
    path = reference / NOTES
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
