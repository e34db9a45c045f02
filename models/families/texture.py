"""Textures from an exemplar: nothing is trained, a source is its own exemplar.

By image quilting (Efros & Freeman 2001; `models/quilting.py`): blocks of the exemplar are laid anew. Or by
optimisation (Gatys et al. 2015, arXiv 1505.07376): from noise, until features of a network that was trained
on photographs occur together as they do in the exemplar.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models import features
from models.families import Alarm, Batch, Spec
from models.learning import Learner
from models.noise import SampleNoise
from models.pixels import eight_bits
from models.quilting import block_side, quilt

LEAST = 16  # pixels a side that an exemplar needs, for features that see an eighth of them
FINE = 4 / 127.5  # deviation of the noise in patches that is too little to count
PATCH = 5  # pixels a side that are compared as they are
APART = 1 << 62  # takes a seed to that of another stream
AROUND = 16  # pixels of the opposite edge that are seen beside a tileable texture's own


class Config(BaseModel):
    """What is taken from a source, and how a texture is made of it.

    method: `quilting`, or `optimise`, which copies nothing, takes far longer, and needs the packages of the
        extra `features`.
    exemplar: side of what a source gives, as a share of its own. Below 1 it is a square at a place that the
        seed decides, and the texture is so many times larger than its exemplar.
    block: pixels a side of a block: larger than the texture's elements. null: a quarter of the exemplar.
    overlap: of neighbouring blocks, as a share of their side (the paper's is a sixth, of larger blocks).
    candidates: blocks of an exemplar, chosen by the seed, among which each is looked for.
    tolerance: how much worse than the best a block may agree; among those the seed chooses.
    tileable: make opposite edges match, so that the texture can be laid beside itself.
    steps: of `optimise`; block, overlap, candidates and tolerance are of `quilting`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["quilting", "optimise"] = "quilting"
    exemplar: float = Field(1.0, gt=0, le=1)
    block: int | None = Field(None, ge=4, le=128)
    overlap: float = Field(0.25, gt=0, le=0.5)
    candidates: int = Field(256, ge=1, le=65_536)
    tolerance: float = Field(0.1, ge=0)
    tileable: bool = False
    steps: int = Field(150, ge=1, le=100_000)


class Statistics:
    """What of an exemplar (1, C, H, W) in [-1, 1] a texture is to have: what occurs together, wherever."""

    def __init__(self, x_BCHW: Tensor) -> None:
        self.mean_BC11 = x_BCHW.mean((2, 3), keepdim=True)
        patches_BPN = F.unfold(x_BCHW - self.mean_BC11, PATCH)
        covariance_BPP = patches_BPN @ patches_BPN.mT / patches_BPN.shape[2]
        unit_PP = torch.eye(covariance_BPP.shape[1], device=x_BCHW.device)
        self.spread_BPP = torch.linalg.cholesky(covariance_BPP + FINE**2 * unit_PP)
        self.grams = [features.gram(h) for h in self.seen(x_BCHW)]

    def seen(self, x_BCHW: Tensor) -> list[Tensor]:
        """What of images is compared, (B, ., H, W) each: patches of pixels, and features.

        The network sees pixels two by two, and would leave the noise in them. So patches are told in numbers
        that all vary alike in the exemplar, where the least noise counts.
        """
        patches_BPN = F.unfold(x_BCHW - self.mean_BC11, PATCH)
        alike_BPN = torch.linalg.solve_triangular(self.spread_BPP, patches_BPN, upper=False)
        return [alike_BPN[..., None], *features.maps(x_BCHW)]

    def missed(self, x_BCHW: Tensor, tileable: bool = False) -> Tensor:
        """The loss of images: the share of Gram matrices that they miss, the mean over layers (B,)."""
        if tileable:
            around = min(AROUND, *x_BCHW.shape[2:])
            x_BCHW = F.pad(x_BCHW, (around, around, around, around), mode="circular")
        found = zip(self.seen(x_BCHW), self.grams, strict=True)
        return torch.stack([features.relative(features.gram(h), wanted) for h, wanted in found]).mean(0)


def optimise(
    x_BCHW: Tensor, seeds_B: list[int], height: int, width: int, steps: int = 150, tileable: bool = False
) -> tuple[Tensor, Tensor]:
    """Make a texture of any size whose Gram matrices are those of each exemplar, from noise.

    The loss is that of Gatys et al. 2015 (in their paper of 2016, eq. 3 to 5), each layer's weight being
    such that it counts the share of the exemplar's that is missed; descent is by L-BFGS, as theirs. One
    texture is made after the other, so that none depends on those beside it.

    Args:
        x_BCHW: uint8 exemplars.
        seeds_B: what each texture's first noise is drawn from.
        height, width: of the textures in pixels, larger than the exemplars or not.

    Returns:
        uint8 textures (B, C, height, width), and minus the loss that is left (B,).

    Raises:
        ValueError: an exemplar is under 16 pixels a side, or the packages of `features` are absent.
    """
    require(x_BCHW.shape[2], x_BCHW.shape[3])
    device, made, scores = x_BCHW.device, [], []
    noise_BCHW = SampleNoise(seeds_B, device).normal((x_BCHW.shape[1], height, width)) / 4
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        for known_CHW, noise_CHW in zip(x_BCHW, noise_BCHW, strict=True):
            wanted = Statistics(known_CHW[None].float() / 127.5 - 1)
            x_1CHW = (wanted.mean_BC11 + noise_CHW).requires_grad_()
            descend(x_1CHW, partial(wanted.missed, tileable=tileable), steps)
            made.append(eight_bits(x_1CHW.detach()))
            scores.append(-wanted.missed(made[-1] / 127.5 - 1, tileable).detach())
    return torch.cat(made).to(torch.uint8), torch.cat(scores)


def descend(x: Tensor, loss: Callable[[Tensor], Tensor], steps: int) -> None:
    """Change `x`, in place, so that its loss (1,) falls: at most so many steps of L-BFGS."""
    descent = torch.optim.LBFGS(
        [x], max_iter=steps, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        value = loss(x).sum()
        (x.grad,) = torch.autograd.grad(value, x)
        return value

    descent.step(closure)


def require(height: int, width: int) -> None:
    """Raise ValueError unless such exemplars can be optimised for, here."""
    features.require()
    if min(height, width) < LEAST:
        raise ValueError(
            f"an exemplar of {height} x {width} pixels allows no texture by optimisation, which needs "
            f"{LEAST} a side: give a larger exemplar, or `method: quilting`"
        )


class Texture(Learner):
    """The family: it has nothing to learn, and lays a texture out of each source."""

    condition: ClassVar[str] = "image"
    PARENTS: ClassVar[int] = 1
    PAIRED: ClassVar[bool] = False
    TRAINS: ClassVar[bool] = False
    ALARMS: ClassVar[dict[str, Alarm]] = {}
    BATCH: ClassVar[int] = 64
    SAMPLING: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__(config, spec, (0.9, 0.99))
        self.network = nn.Identity()

    def step(self, batch: Batch, progress: float) -> dict[str, float]:
        """Nothing is trained."""
        return {"loss": 0.0}

    @torch.no_grad()
    def sample(
        self, y_B: Tensor | None, seeds_B: list[int], sources: Sequence[Batch] = ()
    ) -> tuple[Tensor, Tensor | None]:
        """Make a texture of each source, of the size of the source.

        Args:
            y_B: not used; a texture is of what its source is of.
            seeds_B: what each texture's exemplar and blocks are chosen by.
            sources: one batch of images.

        Returns:
            uint8 images (B, C, H, W), and the score (B,) of `quilt` or `optimise`: 0 is best.
        """
        x_BCHW = eight_bits(sources[0].x_BCHW).to(torch.uint8)
        exemplars_BCHW = exemplars(x_BCHW, seeds_B, self.config.exemplar)
        asked, config = (exemplars_BCHW, seeds_B, self.spec.height, self.spec.width), self.config
        if config.method == "optimise":
            return optimise(*asked, config.steps, config.tileable)
        return quilt(
            *asked, config.block, config.overlap, config.candidates, config.tolerance, config.tileable
        )


def exemplars(x_BCHW: Tensor, seeds_B: list[int], share: float) -> Tensor:
    """Of each image a part of this share of its sides, at a place that its seed decides."""
    H, W = (round(share * side) for side in x_BCHW.shape[2:])
    free_2 = torch.tensor([x_BCHW.shape[2] - H + 1, x_BCHW.shape[3] - W + 1])
    # Of a stream of its own, or the place would choose the blocks as well.
    corner_B2 = (
        (SampleNoise([seed ^ APART for seed in seeds_B]).uniform((2,)) * free_2).long().minimum(free_2 - 1)
    )
    placed = zip(x_BCHW, corner_B2.tolist(), strict=True)
    return torch.stack([x_CHW[:, top : top + H, left : left + W] for x_CHW, (top, left) in placed])


def build(config: Config, spec: Spec) -> Texture:
    """Make the family.

    Raises ValueError unless the sides are from 8 to 256, an exemplar is larger than its blocks, or large
    enough to be optimised for, and the packages are here that this needs.
    """
    spec.demand("texture")
    H, W = (round(config.exemplar * side) for side in (spec.height, spec.width))
    if config.method == "optimise":
        require(H, W)
    else:
        block_side(H, W, config.block)
    return Texture(config, spec)
