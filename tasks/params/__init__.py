"""The typed, frozen mirror of params.yaml. Unknown keys are refused, with the nearest known one named.

A section is a stage's params; `machine` says how work is carried out, and is no stage's.
"""

import re
from typing import Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from tasks.arms import checked
from tasks.layout import NO_REFERENCES
from tasks.params.values import Keyless, Limit, Mask, Reason, Section, as_names

Precision = Literal["auto", "fp32", "bf16"]
Pairs = Literal["stem", "a_to_b", "b_to_a", "left_to_right", "right_to_left"]
MOST_OVERSAMPLE = 1_000.0


class IngestParams(Section):
    """Where real images come from, and how many may be bad."""

    source: Keyless = Field(min_length=1)
    revision: str | None = Field(None, min_length=1)
    pairs: Pairs | None = None
    max_pixels: int = Field(50_000_000, gt=0)
    max_reject_fraction: float = Field(0.1, ge=0.0, le=1.0)
    allow_synthetic: bool = False
    shard_size: int = Field(2_000, gt=0)

    @field_validator("source")
    @classmethod
    def _watched(cls, value: str) -> str:
        """DVC knows no hf://, and of a folder on the web it sees only the index page."""
        where = urlsplit(value)
        if where.scheme == "hf" or (where.scheme in ("http", "https") and where.path.endswith("/")):
            raise ValueError(
                f"DVC can't tell when it changes. Write `url: {value}` into a file such as "
                "data/sources/hub.yaml, give that here, and in ingest.revision what is to be fetched"
            )
        return value


class SplitFractions(Section):
    """Shares of the images that have no given split; they add up to 1."""

    train: float = Field(0.7, gt=0.0, lt=1.0)
    calibrate: float = Field(0.1, gt=0.0, lt=1.0)
    test: float = Field(0.2, gt=0.0, lt=1.0)

    @model_validator(mode="after")
    def _whole(self) -> "SplitFractions":
        if abs(self.train + self.calibrate + self.test - 1) > 1e-6:
            raise ValueError("train, calibrate and test must add up to 1")
        return self


class PreprocessParams(Section):
    """The shape that every image is given, and how images are gathered and split."""

    size: int = Field(28, ge=8, le=256)
    channels: Literal[1, 3] = 1
    fit: Literal["cover", "contain"] = "cover"
    condition: Literal["edges", "grey", "colours", "paired"] | None = None
    colours: int = Field(4, ge=2, le=32)
    mask: Mask | None = None
    group_by: str | None = None
    near_duplicates: bool = True
    split: SplitFractions = SplitFractions()
    train_per_class: int | None = Field(None, gt=0)
    seed: int = Field(0, ge=0, lt=2**31)
    shard_size: int = Field(2_000, gt=0)

    @field_validator("group_by")
    @classmethod
    def _searchable(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(
                f"No regular expression ({error}); it is searched in each image's path within the source"
            ) from None
        return value

    @model_validator(mode="after")
    def _says_something(self) -> "PreprocessParams":
        if self.condition == "grey" and self.channels == 1:
            raise ValueError("condition grey of grey images is the images; set channels to 3, or try edges")
        if self.mask and self.condition != "paired":
            raise ValueError("mask says what paired masks hold; set condition to paired, or mask to null")
        return self


class CalibrateParams(Section):
    """The judge's training, counted in images."""

    images: int = Field(60_000, gt=0)
    batch: int = Field(128, gt=1)
    learning_rate: float = Field(4e-3, gt=0)
    extractors: list[Literal["efficientnet_lite0", "inception_v3", "dinov2"]] = Field([])
    extractor_images: int = Field(2_000, gt=5)
    precision: Precision = "auto"
    seed: int = Field(1, ge=0, lt=2**31)


class TrainParams(Section):
    """The family to fit and its budget, counted in images."""

    family: str = "diffusion"
    references: str = Field(NO_REFERENCES.as_posix(), min_length=1)
    images: int = Field(140_000, gt=0)
    minutes: float | None = Field(None, gt=0)
    batch: int | None = Field(None, gt=0)
    ema_images: int = Field(10_000, gt=0)
    precision: Precision = "auto"
    checkpoint_every: int = Field(40_000, gt=0)
    grid_every: int = Field(40_000, gt=0)
    max_rollbacks: int = Field(2, ge=0)
    seed: int = Field(0, ge=0, lt=2**31)


class GenerateParams(Section):
    """How many samples, of which classes, drawn how."""

    num_samples: int = Field(5_000, gt=0, lt=2**32)
    oversample: float = Field(1.0, ge=1.0, le=MOST_OVERSAMPLE)
    class_counts: Literal["balance"] | dict[str, int] | None = None
    seed: int = Field(0, ge=0, lt=2**31)
    batch: int = Field(250, gt=0)
    steps: int | None = Field(None, gt=0)
    guidance: float | None = Field(None, ge=0)
    sampler: Literal["multistep", "heun"] | None = None
    precision: Precision = "auto"
    shard_size: int = Field(1_000, gt=0)

    _named = field_validator("class_counts", mode="before")(as_names)

    @field_validator("class_counts")
    @classmethod
    def _counts(cls, value: Any) -> Any:
        if isinstance(value, dict) and (not value or min(value.values()) < 0 or not sum(value.values())):
            raise ValueError("give each class a number of samples, at least one in all")
        return value


class FilterParams(Section):
    """For each reason to drop a sample, the share of real images that it may cost; null: off."""

    copied: Reason = Limit(share=0.002)
    memorised: Reason = None
    duplicate: Reason = Limit(share=0.002)
    unlike_label: Reason = Limit(share=0.02)
    ambiguous: Reason = None
    uncertain: Reason = None
    outlier: Reason = Limit(share=0.002)
    unrealistic: Reason = None
    sparse: Reason = None
    blurred: Reason = Limit(share=0.002, slack=4.0)
    noisy: Reason = Limit(share=0.002)
    flat: Reason = Limit(share=0.002)
    dark: Reason = None
    bright: Reason = None
    blank: Reason = None
    saturated: Reason = None
    precision: Precision = "auto"


Augmentation = Literal["shift", "rotate", "scale", "erase", "flip", "colour"]


class EvaluateParams(Section):
    """The probe's training, the same for every arm, and which arms there are."""

    arms: list[str] = Field(min_length=1)
    augment: list[Augmentation] = Field(["shift", "rotate", "scale"], min_length=1)
    seeds: int = Field(3, ge=1)
    images: int = Field(60_000, gt=0)
    batch: int = Field(128, gt=1)
    learning_rate: float = Field(4e-3, gt=0)
    precision: Precision = "auto"
    seed: int = Field(2, ge=0, lt=2**31)

    _arms = field_validator("arms")(checked)


class ExportParams(Section):
    """What the dataset is called, and how large its files are."""

    name: str = Field("synthetic", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    license: str = "other"
    shard_size: int = Field(5_000, gt=0)


class Bound(Section):
    """The least and the most that a metric may be."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _some(self) -> "Bound":
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        return self


class Machine(Section):
    """How work is carried out. No stage depends on it: changing it runs nothing again."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = Field(1, ge=1)
    nodes: int = Field(1, ge=1)
    threads: int | None = Field(None, ge=1)
    engine: Literal["local", "dask"] = "local"
    workers: int | None = Field(None, ge=1)
    scheduler: Keyless | None = None
    max_retries: int = Field(2, ge=0)

    @model_validator(mode="after")
    def _reachable(self) -> "Machine":
        if (self.engine == "dask") != (self.scheduler is not None):
            raise ValueError("engine dask and the scheduler's address (tcp://host:8786) go together")
        return self


class Schedule(Section):
    """When `python -m flows.pipeline --serve` runs by itself, and how many versions the cache keeps."""

    cron: str = "0 2 * * *"
    timezone: str = "UTC"
    keep: int = Field(30, ge=1)

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError("give a name of the tz database, such as Europe/Berlin") from None
        return value


class Params(Section):
    """The whole of params.yaml."""

    ingest: IngestParams
    preprocess: PreprocessParams
    calibrate: CalibrateParams
    train: TrainParams
    generate: GenerateParams
    filter: FilterParams
    evaluate: EvaluateParams
    export: ExportParams
    families: dict[str, dict[str, Any]]
    gates: dict[str, Bound] = Field({})
    machine: Machine = Machine()
    schedule: Schedule = Schedule()

    @model_validator(mode="after")
    def _paired(self) -> "Params":
        if self.preprocess.condition == "paired" and self.ingest.pairs is None:
            raise ValueError("preprocess.condition: paired needs ingest.pairs, which says what makes a pair")
        return self

    @property
    def family(self) -> dict[str, Any]:
        """The block of the family that `train.family` names."""
        return self.families[self.train.family]
