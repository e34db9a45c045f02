"""The real train images that others are held against: in the judge's features, and in pixels.

What is measured of an image by itself is measured here, in one pass, for samples as for held-out real
images: so the quantiles of the one bound the other.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from models.appearance import appearance
from models.likeness import residual, rough, rough_residual, signature, thumbnails
from models.manifold import Manifold
from models.measures import entropy, margin
from models.neighbours import nearest, nearest_other
from tasks.comparing import compare, crowd
from tasks.device import Device
from tasks.errors import UserError
from tasks.judging import Measured, Reference, measure
from tasks.shards import Shards, write_shard, write_text

LOOKS = ("sharpness", "brightness", "contrast", "blank", "saturated")
MEASURES = (
    "probability", "margin", "entropy", "train_distance", "authenticity", "realism", "density",
    "copy_residual", *LOOKS,
)  # fmt: skip
NEIGHBOURS = 3
PROPOSED = 4  # train images that the pixels of one are compared with, by either way of proposing them
REALISM_K, DENSITY_K = 3, 5


@dataclass(frozen=True, eq=False)
class Originals:
    """ids (M,), the judge's features (M, D), thumbnails (M, C, h, w) and pixel digests of the train split."""

    ids: np.ndarray
    features_MD: Tensor
    thumbs_MCHW: Tensor
    digests: frozenset[bytes]

    @classmethod
    def open(cls, train: Path, ids: np.ndarray, features_MD: np.ndarray) -> "Originals":
        """Decode the train split whose features are known. Raises UserError if they are of other images."""
        shards = Shards.open(train)
        if not np.array_equal(shards.table(["id"])["id"].to_numpy(), ids):
            raise UserError(f"{train}: holds other images than the judge knows. Run `dvc repro calibrate`.")
        thumbs, digests = [], set[bytes]()
        for x_NCHW in shards.decoded():
            thumbs.append(thumbnails(torch.from_numpy(x_NCHW)))
            digests |= {pixel_digest(x_CHW) for x_CHW in x_NCHW}
        return cls(ids, torch.from_numpy(features_MD), torch.cat(thumbs), frozenset(digests))

    @cached_property
    def signatures(self) -> Tensor:
        """(M, F) of the thumbnails."""
        return signature(self.thumbs_MCHW)

    @cached_property
    def rough_MD(self) -> Tensor:
        """(M, 64) the thumbnails for a first look."""
        return rough(self.thumbs_MCHW)

    @cached_property
    def apart_M(self) -> Tensor:
        """(M,) distance from each image to the nearest other one."""
        return nearest_other(self.features_MD)[0][:, 0]

    @cached_property
    def manifolds(self) -> tuple[Manifold, Manifold]:
        """The balls that realism and density are told by."""
        return Manifold.of(self.features_MD, REALISM_K), Manifold.of(self.features_MD, DENSITY_K)

    def columns(self, said: Measured, x_NCHW: np.ndarray, labels_N: np.ndarray) -> dict[str, np.ndarray]:
        """Every measure of an image by itself, (N,) float32 each; one that can't be told is left out.

        Beside MEASURES: in_manifold (bool), and rows of the train split: neighbours (N, 3), nearest_copy.
        """
        features_ND = torch.from_numpy(said.features_ND)
        count = min(NEIGHBOURS, len(self.ids))
        distance_Nk, row_Nk = nearest(features_ND, self.features_MD, count)
        thumbs_NCHW = thumbnails(torch.from_numpy(x_NCHW))
        found = {"neighbours": row_Nk, "train_distance": distance_Nk[:, 0]}
        found |= self.likeness(thumbs_NCHW, row_Nk)
        if len(self.ids) > 1:
            found["authenticity"] = found["train_distance"] / self.apart_M[row_Nk[:, 0]].clamp(min=1e-9)
        if len(self.ids) > DENSITY_K:
            balls, dense = self.manifolds
            found["realism"] = balls.realism(features_ND)
            found["in_manifold"] = balls.holds(features_ND)[0] > 0
            found["density"] = dense.holds(features_ND)[0] / DENSITY_K
        if said.probabilities_NK is not None:
            probs_NK, y_N = torch.from_numpy(said.probabilities_NK), torch.from_numpy(labels_N)
            found["probability"] = probs_NK.gather(1, y_N[:, None])[:, 0]
            found["margin"], found["entropy"] = margin(probs_NK, y_N), entropy(probs_NK)
        found |= appearance(torch.from_numpy(x_NCHW))
        return {name: values.numpy() for name, values in found.items()}

    def likeness(self, thumbs_NCHW: Tensor, near_Nk: Tensor) -> dict[str, Tensor]:
        """How much of each thumbnail its likest train image leaves unexplained, and which that is."""
        count = min(PROPOSED, len(self.ids))
        by_signature_Nk = nearest(signature(thumbs_NCHW), self.signatures, count)[1]
        likest_N2 = shortlist(rough(thumbs_NCHW), self.rough_MD, near_Nk, by_signature_Nk)
        apart_N2 = torch.stack([residual(thumbs_NCHW, self.thumbs_MCHW[row_N]) for row_N in likest_N2.T], 1)
        least_N1 = apart_N2.argmin(1, keepdim=True)
        return {
            "copy_residual": apart_N2.gather(1, least_N1)[:, 0],
            "nearest_copy": likest_N2.gather(1, least_N1)[:, 0],
        }

    def exact(self, x_NCHW: np.ndarray) -> np.ndarray:
        """(N,) bool: which uint8 images (N, C, H, W) are a train image, bit for bit."""
        return np.array([pixel_digest(x_CHW) in self.digests for x_CHW in x_NCHW], bool)


def shortlist(looks_ND: Tensor, looks_MD: Tensor, near_Nk: Tensor, by_signature_Nk: Tensor) -> Tensor:
    """(N, 2) rows to compare pixel by pixel: the first by signature, and the likest at first look.

    The one finds what was shifted, the other what was changed in other ways.
    """
    proposed_Nk = torch.cat([near_Nk, by_signature_Nk], dim=1)
    apart_Nk = rough_residual(looks_ND, looks_MD[proposed_Nk])
    return torch.cat([by_signature_Nk[:, :1], proposed_Nk.gather(1, apart_Nk.argmin(1, keepdim=True))], 1)


def pixel_digest(x_CHW: np.ndarray) -> bytes:
    """16 bytes that stand for an image's pixels."""
    return hashlib.blake2b(x_CHW.tobytes(), digest_size=16).digest()


def measure_real(train: Path, calibrate: Path, device: Device, folder: Path) -> dict[str, Any]:
    """Keep the features of both splits, and every measure of the held-out one, beside the judge in `folder`.

    Writes features.parquet and metrics.json; returns the metrics. What an image looks like is kept of the
    train split too: no fit has a part in that.
    """
    reference = Reference(folder)
    judge, tables, said = reference.judge(device), [], {}
    for split, path in (("train", train), ("calibrate", calibrate)):
        shards = Shards.open(path)
        parts = [measure(judge, x_NCHW, device, reference.facts) for x_NCHW in shards.decoded()]
        said[split] = Measured.join(parts)
        rows = shards.table(["id", "label"])
        features = pa.array(list(said[split].features_ND), pa.list_(pa.float32()))
        rows = rows.append_column("split", pa.array([split] * len(rows))).append_column("features", features)
        found_NK = said[split].probabilities_NK
        kind = pa.list_(pa.float32())
        found = pa.nulls(len(rows), kind) if found_NK is None else pa.array(list(found_NK), kind)
        rows = rows.append_column("probabilities", found)
        if split == "train":
            originals = Originals.open(train, rows["id"].to_numpy(), said["train"].features_ND)
            looks = [appearance(torch.from_numpy(x)) for x in shards.decoded()]
            columns = {name: torch.cat([look[name] for look in looks]).numpy() for name in LOOKS}
        else:
            columns = originals.columns(said[split], shards.pixels(), shards.labels())
            columns["sibling_residual"] = held_out_siblings(shards.pixels(), said[split].features_ND)
        for name in (*MEASURES, "sibling_residual"):
            values = (
                pa.array(columns[name], pa.float32())
                if name in columns
                else pa.nulls(len(rows), pa.float32())
            )
            rows = rows.append_column(name, values)
        tables.append(rows)
    write_shard(folder / "features.parquet", pa.concat_tables(tables))
    crowds = [crowd(Reference(folder), split) for split in ("train", "calibrate")]
    metrics: dict[str, Any] = {
        "images": {split: len(m.features_ND) for split, m in said.items()},
        "scale": compare(crowds[0], crowds[1], reference.facts["classes"])["measures"],
    }
    if (probabilities_NK := said["calibrate"].probabilities_NK) is not None:
        labels_N = Shards.open(calibrate).labels()
        metrics["accuracy"] = round(float((probabilities_NK.argmax(1) == labels_N).mean()), 6)
    write_text(folder / "metrics.json", json.dumps({"judge": metrics}, indent=1) + "\n")
    return metrics


def held_out_siblings(x_NCHW: np.ndarray, features_ND: np.ndarray) -> np.ndarray:
    """(N,) float32: how much of each image the likest other one of the same set does not explain."""
    if len(x_NCHW) < 2:
        return np.full(len(x_NCHW), np.inf, np.float32)
    thumbs_NCHW = thumbnails(torch.from_numpy(x_NCHW))
    count, looks_ND = min(PROPOSED, len(x_NCHW) - 1), rough(thumbs_NCHW)
    by_feature_Nk = nearest_other(torch.from_numpy(features_ND), count)[1]
    by_signature_Nk = nearest_other(signature(thumbs_NCHW), count)[1]
    likest_N2 = shortlist(looks_ND, looks_ND, by_feature_Nk, by_signature_Nk)
    found = [residual(thumbs_NCHW, thumbs_NCHW[row_N]) for row_N in likest_N2.T]
    return torch.stack(found).amin(0).numpy()
