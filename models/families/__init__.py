"""The registry of generator families, and the contract that each of them keeps.

A family is one module of this package, found by its file name. It holds everything that
its paper describes and nothing about files, time, checkpoints or logs: the training loop
owns those and knows no family by name. A new family is one new file here and one block
under `families:` in params.yaml.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, Protocol, get_type_hints

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass(frozen=True)
class Spec:
    """What a family is built for: the images' shape, and the number of classes (0: unlabelled).

    condition: channels of the condition that comes with each image (0: none does).
    mapped: whether that is a map, one channel an id, and not an image.
    references: how many images it is given beside those that it is trained on (0: none).
    """

    channels: int
    height: int
    width: int
    classes: int
    condition: int = 0
    mapped: bool = False
    references: int = 0

    @classmethod
    def of(cls, shape: tuple[int, int, int], classes: int, condition: Mapping[str, Any] | None) -> "Spec":
        """The spec of images of this shape, whose condition is described as shards describe theirs."""
        seen = (condition["channels"], bool(condition["ids"])) if condition else ()
        return cls(*shape, classes, *seen)

    def demand(self, family: str, multiple: int = 1) -> None:
        """Raise ValueError unless the sides are multiples from 8 to 256, and the images grey or in colour."""
        if any(side % multiple or not 8 <= side <= 256 for side in (self.height, self.width)):
            which = f"multiples of {multiple} from 8 to 256" if multiple > 1 else "8 to 256"
            found = f"{self.height} x {self.width}"
            raise ValueError(f"{family} makes images whose sides are {which}, not {found}")
        if self.channels not in (1, 3):
            raise ValueError(f"{family} makes images of 1 or 3 channels, not {self.channels}")


@dataclass(frozen=True)
class Batch:
    """Real images on the device, to train on or to be asked with.

    `x_BCHW` float32 in [-1, 1]; `y_B` int64 or None; `c_BCHW` their conditions, or None: float32 in
    [-1, 1] where a condition is an image, and one channel an id, 1 where a pixel has it, where it is a map.
    """

    x_BCHW: Tensor
    y_B: Tensor | None
    c_BCHW: Tensor | None = None

    @property
    def labels_B(self) -> Tensor:
        """`y_B`, or 0 for every image where there are no labels."""
        if self.y_B is None:
            return torch.zeros(len(self.x_BCHW), dtype=torch.long, device=self.x_BCHW.device)
        return self.y_B


class Alarm(NamedTuple):
    """The healthy bounds of one of a family's own step metrics, averaged over some steps.

    meaning: what it means to leave them. turn: what helps, `lower` or `raise` and a key of its Config.
    """

    low: float
    high: float
    meaning: str
    turn: str = "lower lr"


class Family(Protocol):
    """What the loop and the sampler ask of a family, which is an `nn.Module` with these parts.

    One that knows a likelihood also has `bits_per_dim(batch) -> float | None`, in bits per number. One
    whose draws show little variety for long has `settled`, the share of the training after which they do.

    One whose `condition` is "image" also has `PARENTS`, how many sources each sample has, all of one
    class, and `PAIRED`, whether the first of them is what the sample should come near to (held-out pairs
    then measure it). If it does not look at its sources as they are, `ask(sources, seeds_B) -> Tensor`
    gives what it looks at, uint8 (B, 1 or 3, H, W): the first source then comes with that as its
    condition, and it is kept as the samples'. One that can be given images of reference (`train.references`)
    has `refer(x_RCHW)`, float32 in [-1, 1], as many as its spec says: it keeps in its state what it needs.

    `TRAINS`, `PARENTS` and `SAMPLING` are the class's, but where its config or spec makes them otherwise:
    then an instance has its own. A module may have `wraps(config) -> list[str]`, the other
    families whose code it runs, and `decided(config) -> Config`, which puts in what the
    machine decides; that is what the checkpoint tells.

    One that selects among its own samples has `heed(judge)`: where there are classes, training hands it
    the judge that calibrate fitted, before `finish`, and it keeps the weights with its own.

    Each module in this package also defines `Config` (a frozen pydantic model, with an `lr` if it trains) and
    `build(config: Config, spec: Spec) -> Family`, which raises `ValueError` naming the
    limit if the family cannot make images of that spec.
    """

    condition: ClassVar[str]  # "label", or "image": samples then have parents
    TRAINS: ClassVar[bool]  # False: there is nothing to fit, only `finish` is called
    ALARMS: ClassVar[dict[str, Alarm]]  # by the name of one of step's own metrics
    BATCH: ClassVar[int]  # images a step that suit it, where train.batch says nothing
    SAMPLING: ClassVar[frozenset[str]]  # which of generate's knobs (steps, guidance, sampler) it has
    config: BaseModel
    network: nn.Module  # what samples; the loop keeps its exponential moving average
    optimisers: dict[str, Optimizer]

    def attach(self, fabric: Any) -> None:
        """Hand networks and optimisers to Fabric's `setup`; use its `backward` from now on."""

    def step(self, batch: Batch, progress: float) -> dict[str, float]:
        """Update once on a batch at `progress` in [0, 1] of the budget; return metrics, `loss` first."""

    def scale_lr(self, factor: float) -> None:
        """Multiply every learning rate from now on, as a rollback does."""

    def finish(self, batches: Any) -> None:
        """See the training data once more after the last step, with the averaged weights."""

    def sample(
        self,
        y_B: Tensor | None,
        seeds_B: list[int],
        sources: Sequence[Batch] = (),
        **knobs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Draw one image per seed: uint8 BCHW, and the family's own score (B,) or None.

        `sources`: of a family asked with images, a batch for each of its PARENTS.
        """


def names(condition: str | None = None) -> list[str]:
    """Every family that has a file here, in alphabetical order; or those asked with that `condition`."""
    found = sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem != "__init__")
    return [name for name in found if condition is None or class_of(name).condition == condition]


def class_of(name: str) -> type[Any]:
    """A family's class: what its `build` returns."""
    return get_type_hints(load(name).build)["return"]


def load(name: str) -> ModuleType:
    """Import a family by name. Raises KeyError that lists the families there are."""
    if name not in names():
        raise KeyError(f"no family {name!r}; there are: {', '.join(names())}")
    return import_module(f"models.families.{name}")
