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

log = logging.getLogger("mintage.extractors")
FEATURES = "features-{}.safetensors"
NOTES = "extractors.json"


def measure_extractors(
    train: Path, calibrate: Path, params: CalibrateParams, device: Device, folder: Path
) -> dict[str, str | None]:
    """Keep both splits' features of each network that params name; return why one was left out, if it was.

    Raises UserError if a package is missing that one needs.
    """
    notes: dict[str, str | None] = {}
    for name in params.extractors:
        network, notes[name] = load(name, device)
        if network is None:
            continue
        found = {}
        for split, path in (("train", train), ("calibrate", calibrate)):
            shards = Shards.open(path)
            rows = np.arange(min(params.extractor_images, shards.rows))
            found[split] = extractors.extract(network, picked(shards, rows), torch.device(device.kind))
        save_file(found, folder / FEATURES.format(name))
    if notes:
        write_text(folder / NOTES, json.dumps(notes, indent=1) + "\n")
    return notes


def load(name: str, device: Device) -> tuple[Any, str | None]:
    """The network, or None and why it is left out. Raises UserError if a package is missing that it needs."""
    try:
        return extractors.load(name, torch.device(device.kind)), None
    except ValueError as error:
        raise UserError(f"params.yaml: calibrate.extractors: {error}.") from None
    except OSError as error:
        note = f"left out: its weights can't be fetched ({type(error).__name__})"
        log.warning(
            "%s %s; the judge's features are there all the same. With a network: dvc repro -f calibrate",
            name, note,
        )  # fmt: skip
        return None, note


def picked(shards: Shards, rows: np.ndarray) -> Iterator[torch.Tensor]:
    """The images at these rows, in ascending order, shard by shard; no shard beyond the last is read."""
    start = 0
    for x_NCHW in shards.decoded():
        stop = start + len(x_NCHW)
        if len(here := rows[(rows >= start) & (rows < stop)]):
            yield torch.from_numpy(x_NCHW[here - start])
        if not len(rows) or rows[-1] < stop:
            return
        start = stop


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
        before, after = np.arange(len(kept_N))[:most], np.flatnonzero(kept_N)[:most]
        rows = np.union1d(before, after)  # the most are in both, and each is slow
        features_ND = extractors.extract(network, picked(samples, rows), on)
        told = {
            "before": features_ND[np.searchsorted(rows, before)],
            "after": features_ND[np.searchsorted(rows, after)],
            "scale": real["train"],
        }
        found[name] = {key: values(crowd, real["calibrate"]) for key, crowd in told.items()} | {"note": None}
    return found


def noted(reference: Path) -> dict[str, str | None]:
    """The networks that calibrate was asked for, and why one was left out."""
    path = reference / NOTES
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
