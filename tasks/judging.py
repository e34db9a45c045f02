"""The judge: fit on the real train split, measured on the calibrate split, kept with its features.

With fewer than two classes there is nothing to classify, so the judge learns to tell how an image
was rotated (Gidaris et al. 2018): its features still say what is like what.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load_file, save_file

from models.classifiers import FEATURES, Judge, rotate, shift
from tasks.device import Device
from tasks.errors import UserError
from tasks.params import CalibrateParams
from tasks.progress import Progress
from tasks.shards import Shards, read_shard, write_text

ROTATIONS = 4
INFERENCE_BATCH = 500


@dataclass(frozen=True)
class Measured:
    """What the judge says of N images: features (N, D); of labelled ones probabilities (N, K) too."""

    features_ND: np.ndarray
    probabilities_NK: np.ndarray | None

    @classmethod
    def join(cls, parts: Sequence["Measured"]) -> "Measured":
        """What was said of several batches, as one."""
        probabilities = [part.probabilities_NK for part in parts if part.probabilities_NK is not None]
        features_ND = np.concatenate([part.features_ND for part in parts])
        return cls(features_ND, np.concatenate(probabilities) if probabilities else None)


@dataclass(frozen=True)
class Reference:
    """The sealed out of calibrate: the judge, and what it says of real images."""

    folder: Path

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the judge was fit for. Raises UserError if it is missing or broken."""
        try:
            return json.loads((self.folder / "judge.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.folder}: no readable judge ({error}). Run `dvc repro calibrate`."
            ) from None

    @cached_property
    def table(self) -> pa.Table:
        """id, split, label, features and measures of the real train and calibrate images."""
        return read_shard(self.folder / "features.parquet")

    def features(self, split: str) -> np.ndarray:
        """(N, D) float32 features of one split."""
        chosen = self._of(split, "features")
        return np.stack(chosen.to_numpy()) if len(chosen) else np.zeros((0, self.facts["dimensions"]), "f4")

    def ids(self, split: str) -> np.ndarray:
        """(N,) ids of one split, in the order of its features."""
        return self._of(split, "id").to_numpy()

    def labels(self, split: str) -> np.ndarray:
        """(N,) int64 labels of one split, -1 where there is none, in the order of its features."""
        return self._of(split, "label").fill_null(-1).to_numpy().astype(np.int64)

    def judge(self, device: Device) -> Judge:
        """The judge with its weights, on the device."""
        judge = Judge(self.facts["channels"], self.facts["size"], self.facts["outputs"])
        judge.load_state_dict(load_file(self.folder / "judge.safetensors"))
        return device.place(judge).eval()

    @cached_property
    def scale(self) -> dict[str, Any]:
        """All set measures of train against calibrate, as `tasks.comparing` tells them."""
        return json.loads((self.folder / "scale.json").read_text(encoding="utf-8"))

    def column(self, split: str, name: str) -> np.ndarray:
        """(N,) float32: a measure of one split's images, in their order; NaN where it is not known."""
        return self._of(split, name).to_numpy().astype(np.float32)

    def probabilities(self, split: str) -> np.ndarray | None:
        """(N, K) float32: what the judge finds of one split's images; None where it knows no classes."""
        chosen = self._of(split, "probabilities")
        return np.stack(chosen.to_numpy()) if len(chosen) and not chosen.null_count else None

    def _of(self, split: str, name: str) -> pa.ChunkedArray:
        return self.table[name].filter(pa.compute.equal(self.table["split"], split))


def fit_judge(train: Path, params: CalibrateParams, device: Device, folder: Path) -> Path:
    """Fit the judge on the train split and write its weights and facts to `folder`."""
    shards = Shards.open(train)
    x_NCHW, y_N = torch.from_numpy(shards.pixels()), torch.from_numpy(shards.labels())
    labelled = len(shards.classes) > 1
    torch.manual_seed(params.seed)
    outputs = len(shards.classes) if labelled else ROTATIONS
    judge = device.place(Judge(*shards.shape[:2], outputs)).train()
    steps = max(params.images // params.batch, 1)
    optimiser = torch.optim.AdamW(judge.parameters(), params.learning_rate, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, params.learning_rate, total_steps=steps + 1)
    generator = torch.Generator().manual_seed(params.seed)
    reach = max(1, shards.shape[-1] // 14)
    drawn = params.batch if labelled else max(params.batch // ROTATIONS, 1)
    with Progress("calibrate", steps * params.batch) as progress:
        for _ in range(steps):
            rows_B = torch.randint(len(x_NCHW), (drawn,), generator=generator)
            x_BCHW = shift(device.scaled(x_NCHW[rows_B]), reach)
            target_B = y_N[rows_B].to(device.kind)
            if not labelled:
                x_BCHW, target_B = rotate(x_BCHW)
            with device.autocast():
                logits_BK, _ = judge(x_BCHW)
            loss = torch.nn.functional.cross_entropy(logits_BK.float(), target_B, label_smoothing=0.05)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            progress.add(params.batch, f"loss {loss.item():.3f}")
    save_file({k: v.cpu().contiguous() for k, v in judge.state_dict().items()}, folder / "judge.safetensors")
    facts = {
        "classes": shards.classes,
        "channels": shards.shape[0],
        "size": shards.shape[1],
        "outputs": outputs,
        "task": "classes" if labelled else "rotations",
        "dimensions": FEATURES,
        "calibrate": params.model_dump(mode="json"),
        "environment": device.facts,
    }
    write_text(folder / "judge.json", json.dumps(facts, indent=1) + "\n")
    return folder


def measure(judge: Judge, x_NCHW: np.ndarray, device: Device, facts: dict[str, Any]) -> Measured:
    """Ask the judge about images (N, C, H, W) uint8, in padded batches of one size."""
    features, probabilities = [], []
    with torch.inference_mode():
        for start in range(0, len(x_NCHW), INFERENCE_BATCH):
            part = torch.from_numpy(x_NCHW[start : start + INFERENCE_BATCH])
            padded = torch.cat([part, part[-1:].expand(INFERENCE_BATCH - len(part), -1, -1, -1)])
            with device.autocast():
                logits_BK, features_BD = judge(device.scaled(padded))
            features.append(features_BD[: len(part)].float().cpu().numpy())
            probabilities.append(logits_BK[: len(part)].float().softmax(1).cpu().numpy())
    labelled = facts["task"] == "classes"
    return Measured(np.concatenate(features), np.concatenate(probabilities) if labelled else None)
