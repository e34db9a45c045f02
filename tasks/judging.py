"""The judge: fit on the real train split, measured on the calibrate split, kept with its features.

With fewer than two classes there is nothing to classify, so the judge learns to tell how an image
was rotated (Gidaris et al. 2018): its features still say what is like what.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load_file, save_file

from models.classifiers import FEATURES, Judge, rotate, shift
from models.measures import entropy, margin, nearest, set_measures
from tasks.device import Device
from tasks.errors import UserError
from tasks.params import CalibrateParams
from tasks.progress import Progress
from tasks.shards import Shards, read_shard, write_shard, write_text

ROTATIONS = 4
GRID = np.linspace(0, 1, 1001)
MEASURES = ["probability", "margin", "entropy", "train_distance"]
INFERENCE_BATCH = 500


@dataclass(frozen=True)
class Measured:
    """What the judge says of N images: features (N, D); of labelled ones probabilities (N, K) too."""

    features_ND: np.ndarray
    probabilities_NK: np.ndarray | None

    def columns(self, labels_N: np.ndarray, train_ND: np.ndarray) -> dict[str, np.ndarray]:
        """Every measure of a sample by itself, (N,) each, and the row of its nearest train image."""
        distance_N1, row_N1 = nearest(torch.from_numpy(self.features_ND), torch.from_numpy(train_ND))
        found = {"train_distance": distance_N1[:, 0], "nearest_train": row_N1[:, 0]}
        if self.probabilities_NK is not None:
            probabilities_NK, y_N = torch.from_numpy(self.probabilities_NK), torch.from_numpy(labels_N)
            found["probability"] = probabilities_NK.gather(1, y_N[:, None])[:, 0]
            found["margin"] = margin(probabilities_NK, y_N)
            found["entropy"] = entropy(probabilities_NK)
        return {name: values.numpy() for name, values in found.items()}


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
        """id, split, label and features of the real train and calibrate images."""
        return read_shard(self.folder / "features.parquet")

    def features(self, split: str) -> np.ndarray:
        """(N, D) float32 features of one split."""
        chosen = self.table.filter(pa.compute.equal(self.table["split"], split))["features"]
        return np.stack(chosen.to_numpy()) if len(chosen) else np.zeros((0, self.facts["dimensions"]), "f4")

    def ids(self, split: str) -> np.ndarray:
        """(N,) ids of one split, in the order of its features."""
        return self.table.filter(pa.compute.equal(self.table["split"], split))["id"].to_numpy()

    def labels(self, split: str) -> np.ndarray:
        """(N,) int64 labels of one split, -1 where there is none, in the order of its features."""
        chosen = self.table.filter(pa.compute.equal(self.table["split"], split))["label"]
        return chosen.fill_null(-1).to_numpy().astype(np.int64)

    def judge(self, device: Device) -> Judge:
        """The judge with its weights, on the device."""
        judge = Judge(self.facts["channels"], self.facts["size"], self.facts["outputs"])
        judge.load_state_dict(load_file(self.folder / "judge.safetensors"))
        return device.place(judge).eval()

    @cached_property
    def quantiles(self) -> pa.Table:
        """A row a class and measure, as `quantiles` made it."""
        return read_shard(self.folder / "quantiles.parquet")

    @cached_property
    def scale(self) -> dict[str, float | None]:
        """Every set measure of the real train split against the calibrate split."""
        return json.loads((self.folder / "metrics.json").read_text(encoding="utf-8"))["judge"]["scale"]

    def quantile(self, measure: str, quantile: float) -> np.ndarray:
        """(K,) the value below which a `quantile` of each class's held-out real images lie."""
        values = self.quantiles.filter(pa.compute.equal(self.quantiles["measure"], measure))
        names = values["class"].to_pylist()
        curves = np.stack(values["values"].to_numpy())
        return np.array(
            [np.interp(quantile, GRID, curves[names.index(name)]) for name in self.facts["classes"] or [None]]
        )


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


def measure_real(train: Path, calibrate: Path, device: Device, folder: Path) -> dict[str, Any]:
    """Keep features of both splits, and per-class quantiles of every measure on the held-out one.

    Writes features.parquet, quantiles.parquet and metrics.json to `folder`; returns the metrics.
    """
    reference = Reference(folder)
    judge = reference.judge(device)
    tables, said = [], {}
    for split, path in (("train", train), ("calibrate", calibrate)):
        shards = Shards.open(path)
        said[split] = measure(judge, shards.pixels(), device, reference.facts)
        rows = shards.table(["id", "label"])
        features = pa.array(list(said[split].features_ND), pa.list_(pa.float32()))
        tables.append(
            rows.append_column("split", pa.array([split] * len(rows))).append_column("features", features)
        )
    write_shard(folder / "features.parquet", pa.concat_tables(tables))
    labels_N = Shards.open(calibrate).labels()
    columns = said["calibrate"].columns(labels_N, said["train"].features_ND)
    write_shard(folder / "quantiles.parquet", quantiles(columns, labels_N, reference.facts["classes"]))
    metrics: dict[str, Any] = {
        "images": {split: len(m.features_ND) for split, m in said.items()},
        "scale": compare(said["train"].features_ND, said["calibrate"].features_ND),
    }
    probabilities_NK = said["calibrate"].probabilities_NK
    if probabilities_NK is not None:
        metrics["accuracy"] = round(float((probabilities_NK.argmax(1) == labels_N).mean()), 6)
    write_text(folder / "metrics.json", json.dumps({"judge": metrics}, indent=1) + "\n")
    return metrics


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


def compare(fake_ND: np.ndarray, real_MD: np.ndarray) -> dict[str, float | None]:
    """Every set measure of one set of features against another; null where there are too few images."""
    found = set_measures(torch.from_numpy(fake_ND), torch.from_numpy(real_MD))
    return {name: None if value is None else round(value, 6) for name, value in found.items()}


def quantiles(columns: dict[str, np.ndarray], labels_N: np.ndarray, classes: list[str]) -> pa.Table:
    """A row a class and measure: the measure's quantiles at GRID. Class null stands for all images."""
    rows: list[tuple[str | None, str, np.ndarray]] = []
    for name in MEASURES:
        if name not in columns:
            continue
        rows.append((None, name, np.quantile(columns[name], GRID)))
        for label, each in enumerate(classes):
            chosen = columns[name][labels_N == label]
            rows.append((each, name, np.quantile(chosen if len(chosen) else columns[name], GRID)))
    return pa.table(
        {
            "class": pa.array([r[0] for r in rows], pa.string()),
            "measure": [r[1] for r in rows],
            "values": pa.array([r[2].astype(np.float32) for r in rows], pa.list_(pa.float32())),
        }
    )
