"""The typed, frozen mirror of params.yaml. Unknown keys are refused, with the nearest known one named.

A section is a stage's params; `machine` says how work is carried out, and is no stage's.
"""

import contextlib
import difflib
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from tasks.arms import checked
from tasks.errors import UserError
from tasks.layout import PARAMS, ROOT, UNFINISHED

Precision = Literal["auto", "fp32", "bf16"]
T = TypeVar("T", bound=BaseModel)


class Section(BaseModel):
    """A block of params.yaml: frozen, and strict about names and types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class IngestParams(Section):
    """Where real images come from, and how many may be bad."""

    source: str = Field(min_length=1)
    max_pixels: int = Field(50_000_000, gt=0)
    max_reject_fraction: float = Field(0.1, ge=0.0, le=1.0)
    allow_synthetic: bool = False
    shard_size: int = Field(2_000, gt=0)


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
    group_by: str | None = None
    near_duplicates: bool = True
    split: SplitFractions = SplitFractions()
    train_per_class: int | None = Field(None, gt=0)
    seed: int = Field(0, ge=0, lt=2**31)
    shard_size: int = Field(2_000, gt=0)


class CalibrateParams(Section):
    """The judge's training, counted in images."""

    images: int = Field(60_000, gt=0)
    batch: int = Field(128, gt=1)
    learning_rate: float = Field(4e-3, gt=0)
    precision: Precision = "auto"
    seed: int = Field(1, ge=0, lt=2**31)


class TrainParams(Section):
    """The family to fit and its budget, counted in images."""

    family: str = "diffusion"
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
    oversample: float = Field(1.0, ge=1.0, le=1_000.0)
    class_counts: Literal["balance"] | dict[str, int] | None = None
    seed: int = Field(0, ge=0, lt=2**31)
    batch: int = Field(250, gt=0)
    steps: int | None = Field(None, gt=0)
    guidance: float | None = Field(None, ge=0)
    sampler: Literal["multistep", "heun"] | None = None
    precision: Precision = "auto"
    shard_size: int = Field(1_000, gt=0)

    @field_validator("class_counts")
    @classmethod
    def _counts(cls, value: Any) -> Any:
        if isinstance(value, dict) and (not value or min(value.values()) < 0 or not sum(value.values())):
            raise ValueError("give each class a number of samples, at least one in all")
        return value


class Limit(Section):
    """Where a measure's limit lies: a share of held-out real images, or a value; for some classes another."""

    share: float | None = Field(None, ge=0.0, le=1.0)
    value: float | None = None
    classes: dict[str, float] = {}

    @model_validator(mode="after")
    def _one(self) -> "Limit":
        if self.share is not None and self.value is not None:
            raise ValueError("give share or value, not both")
        if self.share is None and self.value is None and not self.classes:
            raise ValueError("give share, value or classes")
        return self


def _as_limit(found: Any) -> Any:
    """A bare number is a share."""
    return {"share": found} if isinstance(found, int | float) else found


Reason = Annotated[Limit | None, BeforeValidator(_as_limit)]


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
    blurred: Reason = Limit(share=0.002)
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
    threads: int | None = Field(None, ge=1)
    workers: int | None = Field(None, ge=1)
    max_retries: int = Field(2, ge=0)


class Schedule(Section):
    """When `python -m flows.pipeline --serve` runs by itself."""

    cron: str = "0 2 * * *"
    timezone: str = "UTC"


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
    gates: dict[str, Bound] = {}
    machine: Machine = Machine()
    schedule: Schedule = Schedule()

    @property
    def family(self) -> dict[str, Any]:
        """The block of the family that `train.family` names."""
        return self.families[self.train.family]


def read(path: Path) -> Params:
    """Read and check params.yaml as a whole, so that a late stage's typo is found before any work.

    Raises UserError that names the key, what was found and the mend.
    """
    if not path.is_file():
        raise UserError(f"{path}: not found. Run this from the project's root, where params.yaml lies.")
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML.\n{_short(str(error))}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected sections such as `ingest:`, found {type(found).__name__}.")
    params = parse(Params, found, str(path))
    if params.train.family not in params.families:
        raise UserError(
            f"{path}: train.family: no family {params.train.family!r}. "
            f"Choose one of the blocks under families: {', '.join(sorted(params.families))}."
        )
    return params


def parse(model: type[T], found: dict[str, Any], where: str, prefix: str = "") -> T:
    """Build `model` from plain values. Raises UserError naming each bad key, three at most."""
    try:
        return model.model_validate(found)
    except ValidationError as error:
        errors = error.errors()
        lines = [f"{where}: {_explain(model, e, prefix)}" for e in errors[:3]]
        if len(errors) > 3:
            lines.append(f"... and {len(errors) - 3} more")
        raise UserError("\n".join(lines)) from None


def _explain(model: type[BaseModel], error: Any, prefix: str) -> str:
    location = [str(part) for part in error["loc"]]
    key = prefix + ".".join(location)
    if error["type"] == "extra_forbidden":
        known = _keys(model, location[:-1])
        near = difflib.get_close_matches(location[-1], known, 1)
        mend = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}."
        return f"{key}: unknown key; {mend}"
    if error["type"] == "missing":
        return f"{key}: missing; add it, as in the README's table of params."
    return f"{key}: found {error['input']!r}. {error['msg'].removeprefix('Value error, ')}."


def _keys(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys that a block of params.yaml knows, following `path` from `model`."""
    for part in path:
        field = model.model_fields.get(part)
        inner = _plain(field.annotation) if field else None
        model = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else Bound
    return sorted(model.model_fields)


def _plain(kind: Any) -> Any:
    """A type without its `| None`."""
    kinds = [k for k in get_args(kind) if k is not type(None)]
    return kinds[0] if len(kinds) == 1 else kind


def _short(text: str) -> str:
    return "\n".join(text.splitlines()[:4])


def check_families(params: Params, sound: Path = UNFINISHED / "families") -> None:
    """Hold every block under `families:` against its family's Config, and the size against train.family.

    A Config lies beside its networks, so asking it imports torch, which takes seconds. So the digest
    of what was found right is kept in `sound`, and not asked about again. Raises UserError naming the key.
    """
    images = (params.train.family, params.preprocess.channels, params.preprocess.size)
    asked = hashlib.sha256(json.dumps([params.families, images], sort_keys=True).encode())
    for file in sorted((ROOT / "models/families").glob("*.py")):
        asked.update(file.name.encode() + file.read_bytes())
    with contextlib.suppress(OSError):
        if sound.read_text() == asked.hexdigest():
            return
    from models.families import Spec, load, names

    for name, block in params.families.items():
        if name not in names():
            near = difflib.get_close_matches(name, names(), 1)
            mend = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names())}."
            raise UserError(f"{PARAMS}: families.{name}: no such family; {mend}")
        parse(load(name).Config, block, str(PARAMS), f"families.{name}.")
    name, channels, size = images
    family = load(name)
    try:
        family.build(family.Config(**params.family), Spec(channels, size, size, classes=0))
    except ValueError as error:
        raise UserError(
            f"{PARAMS}: families.{name} with preprocess.size {size}, channels {channels}: {error}."
        ) from None
    with contextlib.suppress(OSError):
        sound.parent.mkdir(parents=True, exist_ok=True)
        sound.write_text(asked.hexdigest())
