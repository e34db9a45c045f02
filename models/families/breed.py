"""Breeding: images from two real parents, over generations in the latent space of another family.

Secretan et al. 2011 (Picbreeder, Evolutionary Computation 19(3)) and Bontrager et al. 2018 (arXiv
1801.08030): what an image is made from in a generative model are its genes, and a selector decides which
children have children. The wrapped family learns as it does alone. Genes of a real image are what the
family itself finds that rebuilds it: a VAE by its encoder, a GAN by descent to the latent, a diffusion
model by its own equation, run from the image to the noise. So parents are the images that are named.

Genes are not kept: the seed, the two sources and the checkpoint give them again (`Breed.genes`).
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from torch import Tensor, nn

from models.classifiers import Judge
from models.families import Alarm, Batch, Spec, load
from models.genes import STEPS, TONGUES, Tongue
from models.noise import SampleNoise
from models.pixels import eight_bits

COARSE = 4  # pieces a side in which genes that lie in a plane are inherited


class Config(BaseModel):
    """Whose children are bred, and how.

    family: the parent family: `vae`, `gan` or `diffusion`.
    options: its own settings, as in its block.
    lr: its learning rate; null: that of its options, or its own.
    generations: how often children are bred: at first of the two sources, then of the two best children.
    brood: children of a generation.
    crossover: share of children whose genes come each from one parent or the other; those of the others
        lie between their parents'.
    mutation: deviation of what is added to genes, of which 1 would leave nothing but noise.
    steps: how often the network is evaluated to find a source's genes, and for each of diffusion's children;
        null: 100 of gan, 16 of diffusion. A vae takes one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["vae", "gan", "diffusion"] = "vae"
    options: dict[str, Any] = {}
    lr: float | None = Field(None, gt=0)
    generations: int = Field(2, ge=1, le=20)
    brood: int = Field(4, ge=2, le=64)
    crossover: float = Field(0.5, ge=0, le=1)
    mutation: float = Field(0.2, ge=0, le=1)
    steps: int | None = Field(None, ge=2, le=1000)

    @field_validator("options")
    @classmethod
    def _are_the_family_s(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if family := info.data.get("family"):
            try:
                load(family).Config.model_validate(options)
            except ValidationError as error:
                first = error.errors()[0]
                key = ".".join(str(part) for part in first["loc"])
                known = ", ".join(sorted(load(family).Config.model_fields))
                raise ValueError(f"{key} of {family}: {first['msg']}; its keys: {known}") from None
        return options

    def parent(self) -> Any:
        """The parent family's Config."""
        rate = {} if self.lr is None else {"lr": self.lr}
        return load(self.family).Config.model_validate({**self.options, **rate})


def wraps(config: Config) -> list[str]:
    """The families whose code this one runs: the parent family."""
    return [config.family]


def between(one: Tensor, other: Tensor, weight_B: Tensor) -> Tensor:
    """Genes between two parents', 0 and 1 being theirs, as long as theirs are: chance genes all are alike.

    (White 2016, arXiv 1609.04468: a straight walk passes where no image is made from.)
    """
    weight = weight_B.view(-1, *[1] * (one.ndim - 1))
    mixed = torch.lerp(one, other, weight)
    long_B, ends_2B = length(mixed), (length(one), length(other))
    return mixed * (torch.lerp(*ends_2B, weight) / long_B.clamp(min=1e-6))


def length(z: Tensor) -> Tensor:
    """Of each sample's genes (B, ...), in as many dimensions: (B, 1, ...)."""
    return torch.linalg.vector_norm(z, dim=tuple(range(1, z.ndim)), keepdim=True)


def child(one: Tensor, other: Tensor, noise: SampleNoise, config: Config) -> Tensor:
    """The genes of a child of each pair of parents (B, ...), by each sample's own noise."""
    chance_B2 = noise.uniform((2,))
    pieces = (1, COARSE, COARSE) if one.ndim == 4 else tuple(one.shape[1:])
    coin = noise.uniform(pieces) < 0.5
    if one.ndim == 4:  # noise of pixels: neighbours make one thing
        coin = F.interpolate(coin.float(), one.shape[2:], mode="nearest") > 0
    crossed = (chance_B2[:, 0] < config.crossover).view(-1, *[1] * (one.ndim - 1))
    z = torch.where(crossed, torch.where(coin, one, other), between(one, other, chance_B2[:, 1]))
    return (1 - config.mutation**2) ** 0.5 * z + config.mutation * noise.normal(tuple(one.shape[1:]))


class Breed(nn.Module):
    """The family: the parent family's learning, and breeding in its latent space."""

    condition: ClassVar[str] = "image"
    PARENTS: ClassVar[int] = 2
    PAIRED: ClassVar[bool] = False
    TRAINS: ClassVar[bool] = True
    SAMPLING: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__()
        self.parent: Any = load(config.family).build(config.parent(), spec)
        self.config = config.model_copy(update={"lr": self.parent.config.lr})
        self.spec, self.BATCH = spec, self.parent.BATCH
        # What helps by a key of the parent's is said as what helps by our own.
        self.ALARMS: dict[str, Alarm] = {
            name: alarm._replace(turn="lower lr") for name, alarm in self.parent.ALARMS.items()
        }
        self.tongue: Tongue = TONGUES[config.family](self.parent, config.steps or STEPS[config.family])
        self.judge: Judge | None = None
        if spec.classes > 1:
            self.judge = Judge(spec.channels, min(spec.height, spec.width), spec.classes)
            self.judge.requires_grad_(False).eval()
        self.heeded: Tensor  # whether there is a judge that was fitted
        self.register_buffer("heeded", torch.tensor(False))

    @property
    def network(self) -> nn.Module:
        """The parent family's."""
        return self.parent.network

    @property
    def optimisers(self) -> Any:
        """The parent family's."""
        return self.parent.optimisers

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The parent family's, under its own names, and the judge's."""
        own = {k: v for k, v in super().state_dict(*args, **kwargs).items() if not k.startswith("parent.")}
        return {**self.parent.state_dict(), **own}

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        """Take back what `state_dict` gave. Raises RuntimeError if it is of another network."""
        own = {k for k in state_dict if k == "heeded" or k.startswith("judge.")}
        named = {k if k in own else f"parent.{k}": v for k, v in state_dict.items()}
        return super().load_state_dict(named, *args, **kwargs)

    def attach(self, fabric: Any) -> None:
        """Train the parent family through Fabric from now on."""
        self.parent.attach(fabric)

    def step(self, batch: Batch, progress: float) -> dict[str, float]:
        """Update the parent family once."""
        return self.parent.step(batch, progress)

    def scale_lr(self, factor: float) -> None:
        """Multiply every learning rate from now on."""
        self.parent.scale_lr(factor)

    def finish(self, batches: Any) -> None:
        """What the parent family does once it has learned."""
        self.parent.finish(batches)

    def heed(self, judge: Judge) -> None:
        """Select by this judge from now on."""
        assert self.judge is not None
        self.judge.load_state_dict(judge.state_dict())
        self.heeded.fill_(True)

    def select(self, x_BCHW: Tensor, y_B: Tensor) -> Tensor:
        """What children (B, C, H, W) in [-1, 1] are chosen by (B,), higher is better.

        The judge's log-probability of their label; without one the parent family's own score.
        """
        if self.judge is None or not self.heeded:
            return self.tongue.opinion(x_BCHW, y_B).float()
        logits_BK, _ = self.judge.eval()(x_BCHW)
        return logits_BK.float().log_softmax(1).gather(1, y_B[:, None])[:, 0]

    @torch.no_grad()
    def genes(self, y_B: Tensor | None, seeds_B: list[int], sources: Sequence[Batch]) -> Tensor:
        """The genes (B, ...) of the samples of these seeds and sources: those of their last, best child."""
        return self._bred(y_B, seeds_B, sources)[0]

    @torch.no_grad()
    def sample(
        self, y_B: Tensor | None, seeds_B: list[int], sources: Sequence[Batch] = ()
    ) -> tuple[Tensor, Tensor]:
        """Breed one image per seed.

        Args:
            y_B: int64 labels of the sources; None where there are none.
            seeds_B: what inheritance and mutation are drawn from.
            sources: two batches of images, the parents.

        Returns:
            uint8 images (B, C, H, W), and what they were selected by (B,): the judge's log-probability of
            their label, or else the parent family's own score.
        """
        _, x_BCHW, score_B = self._bred(y_B, seeds_B, sources)
        return eight_bits(x_BCHW).to(torch.uint8), score_B

    def _bred(
        self, y_B: Tensor | None, seeds_B: list[int], sources: Sequence[Batch]
    ) -> tuple[Tensor, Tensor, Tensor]:
        x_BCHW = sources[0].x_BCHW
        noise = SampleNoise(seeds_B, x_BCHW.device)
        y_B = Batch(x_BCHW, y_B).labels_B
        parents = [self.tongue.read(Batch(each.x_BCHW, y_B)).float() for each in sources]
        for _ in range(self.config.generations):
            brood = [child(parents[0], parents[1], noise, self.config) for _ in range(self.config.brood)]
            shown = [stored(self.tongue.express(z, y_B)) for z in brood]
            score_NB = torch.stack([self.select(x, y_B) for x in shown])
            best_NB = score_NB.argsort(dim=0, descending=True, stable=True)
            own_B = torch.arange(len(x_BCHW), device=x_BCHW.device)
            brood_NB = torch.stack(brood)
            parents = [brood_NB[best_NB[place], own_B] for place in (0, 1)]
        best = best_NB[0], own_B
        return parents[0], torch.stack(shown)[best], score_NB[best]


def stored(x_BCHW: Tensor) -> Tensor:
    """Images rounded to 8 bits, as they are stored, in [-1, 1]."""
    return eight_bits(x_BCHW) / 127.5 - 1


def build(config: Config, spec: Spec) -> Breed:
    """Make the family. Raises ValueError as the parent family does, whose limits are its own."""
    spec.demand("breed", 4)
    return Breed(config, spec)
