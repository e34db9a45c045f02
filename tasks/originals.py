"""The real train images that others are held against: in the judge's features, and in pixels.

What is measured of an image by itself is measured here, in one pass, for samples as for held-out real
images: so the quantiles of the one bound the other.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from models.appearance import appearance
from models.likeness import Sketch, residual, rough_residual, sketch
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
    """The train split: ids (M,), the judge's features (M, D), sketches, pixel digests and shards."""

    ids: np.ndarray
    features_MD: Tensor
    sketch: Sketch
    digests: frozenset[bytes]
    shards: Shards

    @classmethod
    def open(cls, train: Path, ids: np.ndarray, features_MD: np.ndarray) -> "Originals":
        """Decode the train split whose features are known. Raises UserError if they are of other images."""
        shards = Shards.open(train)
        if not np.array_equal(shards.table(["id"])["id"].to_numpy(), ids):
            raise UserError(f"{train}: holds other images than the judge knows. Run `dvc repro calibrate`.")
        sketches, digests = [], set[bytes]()
        for x_NCHW in shards.decoded():
            sketches.append(sketch(torch.from_numpy(x_NCHW)))
            digests.update(pixel_digests(x_NCHW))
        whole = Sketch(*(torch.cat(parts) for parts in zip(*sketches, strict=True)))
        return cls(ids, torch.from_numpy(features_MD), whole, frozenset(digests), shards)

    @cached_property
    def x_MCHW(self) -> Tensor:
        """The images themselves, uint8; small ones are their own thumbnails."""
        small = self.sketch.thumbs_NCHW
        return small if small.shape[1:] == self.shards.shape else torch.from_numpy(self.shards.pixels())

    @cached_property
    def apart_M(self) -> Tensor:
        """(M,) distance from each image to the nearest other one."""
        return nearest_other(self.features_MD)[0][:, 0]

    @cached_property
    def manifold(self) -> Manifold:
        """The balls that realism and density are told by."""
        return Manifold.of(self.features_MD, REALISM_K, DENSITY_K)

    def rows(self, source_ids: pa.ChunkedArray) -> np.ndarray | None:
        """(N, P) rows of the train images of these ids, as many for each; None where there are none.

        Raises UserError if one is no train image.
        """
        if source_ids.null_count == len(source_ids):
            return None
        place = {name: row for row, name in enumerate(self.ids.tolist())}
        try:
            return np.array([[place[name] for name in names] for names in source_ids.to_pylist()], np.int64)
        except KeyError as error:
            raise UserError(
                f"a sample was made from {error.args[0]!r}, which is not in train. Run `dvc repro generate`."
            ) from None

    def columns(
        self, said: Measured, x_NCHW: np.ndarray, labels_N: np.ndarray, drawn: Sketch,
        sources_NP: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:  # fmt: skip
        """Every measure of an image by itself, (N,) float32 each; one that can't be told is left out.

        `drawn` is the images' sketch. Beside MEASURES: in_manifold (bool), and rows of the train split:
        neighbours (N, 3), nearest_copy. `sources_NP`: rows of the train images that each was made from. It
        may resemble these, so what tells a copy (copy_residual, nearest_copy, authenticity) leaves them out.
        """
        features_ND = torch.from_numpy(said.features_ND)
        given_NP = np.zeros((len(x_NCHW), 0), np.int64) if sources_NP is None else sources_NP
        own_NP = torch.from_numpy(given_NP)
        count = min(NEIGHBOURS + own_NP.shape[1], len(self.ids))
        distance_Nk, row_Nk = nearest(features_ND, self.features_MD, count)
        found = {"neighbours": row_Nk[:, :NEIGHBOURS], "train_distance": distance_Nk[:, 0]}
        order_Nk = own_last(row_Nk, own_NP)
        distance_Nk, row_Nk = distance_Nk.gather(1, order_Nk), row_Nk.gather(1, order_Nk)
        found |= self.likeness(drawn, row_Nk[:, :NEIGHBOURS], own_NP)
        if len(self.ids) > max(1, own_NP.shape[1]):
            found["authenticity"] = distance_Nk[:, 0] / self.apart_M[row_Nk[:, 0]].clamp(min=1e-9)
        if len(self.ids) > DENSITY_K:
            held_2N, _, found["realism"] = self.manifold.tell(features_ND)
            found["in_manifold"] = held_2N[0] > 0
            found["density"] = held_2N[1] / DENSITY_K
        if said.probabilities_NK is not None:
            probs_NK, y_N = torch.from_numpy(said.probabilities_NK), torch.from_numpy(labels_N)
            found["probability"] = probs_NK.gather(1, y_N[:, None])[:, 0]
            found["margin"], found["entropy"] = margin(probs_NK, y_N), entropy(probs_NK)
        found |= appearance(torch.from_numpy(x_NCHW))
        return {name: values.numpy() for name, values in found.items()}

    def likeness(self, drawn: Sketch, near_Nk: Tensor, own_NP: Tensor) -> dict[str, Tensor]:
        """How much of each image its likest train image but `own` leaves unexplained, and which that is."""
        count = min(PROPOSED + own_NP.shape[1], len(self.ids))
        row_Nk = nearest(drawn.signatures_NF, self.sketch.signatures_NF, count)[1]
        by_signature_Nk = row_Nk.gather(1, own_last(row_Nk, own_NP))[:, :PROPOSED]
        likest_N2 = shortlist(drawn.looks_ND, self.sketch.looks_ND, near_Nk, by_signature_Nk)
        apart_N2 = residuals(drawn.thumbs_NCHW, self.sketch.thumbs_NCHW, likest_N2)
        apart_N2 = apart_N2.masked_fill(among(likest_N2, own_NP), torch.inf)  # where there is no other
        least_N1 = apart_N2.argmin(1, keepdim=True)
        return {
            "copy_residual": apart_N2.gather(1, least_N1)[:, 0],
            "nearest_copy": likest_N2.gather(1, least_N1)[:, 0],
        }


def among(row_Nk: Tensor, own_NP: Tensor) -> Tensor:
    """(N, k) bool: which rows are among an image's own sources."""
    return (row_Nk[:, :, None] == own_NP[:, None]).any(2)


def own_last(row_Nk: Tensor, own_NP: Tensor) -> Tensor:
    """(N, k) places of rows in an order that puts an image's own sources last, and changes no other's."""
    return among(row_Nk, own_NP).long().argsort(stable=True)


def residuals(thumbs_NCHW: Tensor, others_MCHW: Tensor, rows_Nk: Tensor) -> Tensor:
    """(N, k): how much of each thumbnail the others at its `rows` leave unexplained."""
    return torch.stack([residual(thumbs_NCHW, others_MCHW[row_N]) for row_N in rows_Nk.T], 1)


def shortlist(looks_ND: Tensor, looks_MD: Tensor, near_Nk: Tensor, by_signature_Nk: Tensor) -> Tensor:
    """(N, 2) rows to compare pixel by pixel: the first by signature, and the likest at first look.

    The one finds what was shifted, the other what was changed in other ways.
    """
    proposed_Nk = torch.cat([near_Nk, by_signature_Nk], dim=1)
    apart_Nk = rough_residual(looks_ND, looks_MD[proposed_Nk])
    return torch.cat([by_signature_Nk[:, :1], proposed_Nk.gather(1, apart_Nk.argmin(1, keepdim=True))], 1)


def pixel_digests(x_NCHW: np.ndarray) -> list[bytes]:
    """16 bytes for each image that stand for its pixels."""
    return [hashlib.blake2b(x_CHW.tobytes(), digest_size=16).digest() for x_CHW in x_NCHW]


def measure_real(train: Path, calibrate: Path, device: Device, folder: Path) -> dict[str, Any]:
    """Keep the features of both splits, and every measure of the held-out one, beside the judge in `folder`.

    Writes features.parquet, scale.json (all set measures of train against held-out images) and
    metrics.json; returns the last. What an image looks like is kept of the train split too: no fit has a
    part in that.
    """
    reference = Reference(folder)
    judge, facts = reference.judge(device), reference.facts
    parts, looks = [], []
    for x_NCHW in Shards.open(train).decoded():
        parts.append(measure(judge, x_NCHW, device, facts))
        looks.append(appearance(torch.from_numpy(x_NCHW)))
    seen = Measured.join(parts)
    columns = {name: torch.cat([look[name] for look in looks]).numpy() for name in LOOKS}
    rows = real_rows(train, "train", seen, columns)

    shards = Shards.open(calibrate)
    x_NCHW, labels_N = shards.pixels(), shards.labels()
    said, drawn = measure(judge, x_NCHW, device, facts), sketch(torch.from_numpy(x_NCHW))
    originals = Originals.open(train, rows["id"].to_numpy(), seen.features_ND)
    columns = originals.columns(said, x_NCHW, labels_N, drawn)
    columns["sibling_residual"] = held_out_siblings(drawn, said.features_ND)
    rows = pa.concat_tables([rows, real_rows(calibrate, "calibrate", said, columns)])
    write_shard(folder / "features.parquet", rows)

    scale = compare(crowd(reference, "train"), crowd(reference, "calibrate"), facts["classes"])
    write_text(folder / "scale.json", json.dumps(scale, indent=1, ensure_ascii=False) + "\n")
    metrics: dict[str, Any] = {
        "images": {"train": len(seen.features_ND), "calibrate": len(labels_N)},
        "scale": scale["measures"],
    }
    if said.probabilities_NK is not None:
        metrics["accuracy"] = round(float((said.probabilities_NK.argmax(1) == labels_N).mean()), 6)
    write_text(folder / "metrics.json", json.dumps({"judge": metrics}, indent=1) + "\n")
    return metrics


def real_rows(path: Path, split: str, said: Measured, columns: Mapping[str, np.ndarray]) -> pa.Table:
    """id, label, split, features, probabilities and measures of a split; null where one is not known."""
    rows = Shards.open(path).table(["id", "label"])
    lists = pa.list_(pa.float32())
    given: dict[str, pa.Array] = {
        "split": pa.array([split] * len(rows)),
        "features": pa.array(list(said.features_ND), lists),
        "probabilities": pa.nulls(len(rows), lists)
        if said.probabilities_NK is None
        else pa.array(list(said.probabilities_NK), lists),
    }
    for name in (*MEASURES, "sibling_residual"):
        known = columns.get(name)
        given[name] = pa.array([None] * len(rows) if known is None else known, pa.float32())
    for name, values in given.items():
        rows = rows.append_column(name, values)
    return rows


def held_out_siblings(drawn: Sketch, features_ND: np.ndarray) -> np.ndarray:
    """(N,) float32: how much of each image the likest other one of the same set does not explain."""
    total = len(features_ND)
    if total < 2:
        return np.full(total, np.inf, np.float32)
    count = min(PROPOSED, total - 1)
    by_feature_Nk = nearest_other(torch.from_numpy(features_ND), count)[1]
    by_signature_Nk = nearest_other(drawn.signatures_NF, count)[1]
    likest_N2 = shortlist(drawn.looks_ND, drawn.looks_ND, by_feature_Nk, by_signature_Nk)
    return residuals(drawn.thumbs_NCHW, drawn.thumbs_NCHW, likest_N2).amin(1).numpy()
