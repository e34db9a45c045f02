"""Image restoration: an encoder-decoder that takes back what spoiled an image.

Mao et al. 2016 (RED-Net, arXiv 1603.09056): convolutions that encode, as many that decode, and skips
between the mirrored ones. The network predicts what to add to the spoiled image (Zhang et al. 2017,
arXiv 1608.03981, eq. 1), has no normalisation (Lim et al. 2017, arXiv 1707.02921), and works on 2 x 2
pixels folded into channels (Zhang et al. 2018, FFDNet, arXiv 1710.04026, section III.B).

Real images are spoiled by a degradation of known strength, and the network learns the way back. Asked
with a source, it spoils that by the sample's seed and restores it: another image of the same thing.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torchvision.io import decode_jpeg, encode_jpeg

from models import features
from models.blurring import gaussian
from models.families import Alarm, Batch, Spec
from models.learning import Learner
from models.noise import SampleNoise
from models.pixels import eight_bits

Degradation = Literal["noise", "blur", "jpeg", "super_resolution_2x", "super_resolution_4x"]
FACTORS = {"super_resolution_2x": 2, "super_resolution_4x": 4}


class Config(BaseModel):
    """What is taken back, and what decides the weights that training arrives at.

    degradation: `noise` (Gaussian), `blur` (Gaussian), `jpeg` (its artefacts), or a resolution that is two
        or four times too low: then the image is made smaller, and larger again by bicubic interpolation.
    sigma: deviation of the noise in grey levels.
    radius: deviation of the blur in pixels.
    quality: of JPEG, 1 to 100; lower spoils more.
    spoil_sources: spoil the sources that it is asked with; if not, they are restored as they are, for
        images that were taken as badly as the degradation says.
    loss: `l1` or `l2` distance of the pixels, in [-1, 1].
    perceptual: weight of the perceptual distance that is added to it (Johnson et al. 2016, arXiv
        1603.08155); it needs the packages of the extra `features`.
    width: channels at the finest level; coarser levels have twice as many.
    blocks: residual blocks at each level, encoding and decoding.
    lr: Adam's learning rate at its height; it warms up first, and falls to 0 along a cosine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    degradation: Degradation = "noise"
    sigma: float = Field(25.0, gt=0, le=255)
    radius: float = Field(1.5, gt=0, le=16)
    quality: int = Field(15, ge=1, le=100)
    spoil_sources: bool = True
    loss: Literal["l1", "l2"] = "l1"
    perceptual: float = Field(0.0, ge=0)
    width: int = Field(64, ge=8, le=512)
    blocks: int = Field(2, ge=1, le=8)
    lr: float = Field(1e-3, gt=0)


class Block(nn.Module):
    """Residual block of two convolutions, which starts as what its skip is (Lim et al. 2017, fig. 2c)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, c_in, H, W) to (B, c_out, H, W)."""
        return self.skip(x_BCHW) + self.conv2(F.relu(self.conv1(x_BCHW)))


class Network(nn.Module):
    """Spoiled image to restored image, both in [-1, 1], over levels that halve the side down to 4 pixels."""

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__()
        sides, widths = (spec.height // 2, spec.width // 2), [config.width]
        while all(side % 2 == 0 and side > 4 for side in sides) and len(widths) < 3:
            sides = (sides[0] // 2, sides[1] // 2)
            widths.append(2 * config.width)
        self.conv_in = nn.Conv2d(4 * spec.channels, config.width, 3, padding=1)
        self.encoder = nn.ModuleList(chain(a, b, config.blocks) for a, b in pairwise([config.width, *widths]))
        self.narrow = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(widths[::-1]))
        self.decoder = nn.ModuleList(chain(b, b, config.blocks) for b in widths[-2::-1])
        self.conv_out = nn.Conv2d(config.width, 4 * spec.channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(cast(Tensor, self.conv_out.bias))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Add to images (B, C, H, W) what the degradation took from them."""
        h_BCHW, skips = self.conv_in(F.pixel_unshuffle(x_BCHW, 2)), []
        for number, blocks in enumerate(self.encoder):
            h_BCHW = blocks(F.avg_pool2d(h_BCHW, 2) if number else h_BCHW)
            skips.append(h_BCHW)
        skips.pop()
        for narrow, blocks in zip(self.narrow, self.decoder, strict=True):
            h_BCHW = blocks(F.interpolate(narrow(h_BCHW), scale_factor=2.0) + skips.pop())
        return x_BCHW + F.pixel_shuffle(self.conv_out(h_BCHW), 2).float()


def chain(c_in: int, c_out: int, blocks: int) -> nn.Sequential:
    """Blocks one after the other, the first of which changes the width."""
    return nn.Sequential(*(Block(a, b) for a, b in pairwise([c_in, *[c_out] * blocks])))


def degrade(x_BCHW: Tensor, config: Config, noise_BCHW: Tensor | None = None) -> Tensor:
    """Spoil images in [-1, 1] as the config says, and round them to 8 bits, as they would be stored.

    `noise_BCHW`: standard normal, for the degradation `noise` alone.
    """
    if config.degradation == "noise":
        assert noise_BCHW is not None
        x_BCHW = x_BCHW + noise_BCHW * (config.sigma / 127.5)
    elif config.degradation == "blur":
        x_BCHW = blurred(x_BCHW, config.radius)
    elif config.degradation == "jpeg":
        return compressed(x_BCHW, config.quality)
    else:
        H, W = x_BCHW.shape[2:]
        factor = FACTORS[config.degradation]
        small = F.interpolate(x_BCHW, (H // factor, W // factor), mode="bicubic", antialias=True)
        x_BCHW = F.interpolate(eight_bits(small) / 127.5 - 1, (H, W), mode="bicubic")
    return eight_bits(x_BCHW) / 127.5 - 1


def blurred(x_BCHW: Tensor, radius: float) -> Tensor:
    """Images under a Gaussian blur of this deviation in pixels; the edge's pixels go on beyond it."""
    reach = math.ceil(3 * radius)
    return gaussian(F.pad(x_BCHW, (reach, reach, reach, reach), mode="replicate"), radius, reach)


def compressed(x_BCHW: Tensor, quality: int) -> Tensor:
    """Images in [-1, 1] as they come back from JPEG of this quality."""
    files = encode_jpeg([*eight_bits(x_BCHW).to(torch.uint8).cpu()], quality)
    found_BCHW = torch.stack([decode_jpeg(file) for file in files])
    return (found_BCHW.float() / 127.5 - 1).to(x_BCHW.device)


class Restore(Learner):
    """The family: what it learns with, how it learns, and how it samples."""

    condition: ClassVar[str] = "image"
    PARENTS: ClassVar[int] = 1
    PAIRED: ClassVar[bool] = True
    TRAINS: ClassVar[bool] = True
    ALARMS: ClassVar[dict[str, Alarm]] = {
        "loss": Alarm(0.0, 4.0, "the restoration does not learn"),
        "grad_norm": Alarm(0.0, 1e3, "the gradients explode, so that clipping leaves only their noise"),
    }
    BATCH: ClassVar[int] = 64
    SAMPLING: ClassVar[frozenset[str]] = frozenset()
    config: Config
    network: Network

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__(config, spec, (0.9, 0.99), network=Network(config, spec))

    def step(self, batch: Batch, progress: float) -> dict[str, float]:
        """Update once on images that are spoiled anew each time."""
        self.pace(progress)
        noise_BCHW = torch.randn_like(batch.x_BCHW) if self.config.degradation == "noise" else None
        spoiled_BCHW = degrade(batch.x_BCHW, self.config, noise_BCHW)
        restored_BCHW = self.through["network"](spoiled_BCHW)
        distance = F.l1_loss if self.config.loss == "l1" else F.mse_loss
        loss = distance(restored_BCHW, batch.x_BCHW)
        if self.config.perceptual:
            apart_B = features.perceptual_distance(restored_BCHW, batch.x_BCHW)
            loss = loss + self.config.perceptual * apart_B.mean()
        return {"loss": float(loss.detach()), "grad_norm": self.descend(loss, clip=1.0)}

    @torch.no_grad()
    def ask(self, sources: Sequence[Batch], seeds_B: list[int]) -> Tensor:
        """What is to be restored: the sources as they are, or spoiled by their seeds. uint8 (B, C, H, W)."""
        x_BCHW = sources[0].x_BCHW
        if self.config.spoil_sources:
            noise_BCHW = None
            if self.config.degradation == "noise":
                noise_BCHW = SampleNoise(seeds_B, x_BCHW.device).normal(tuple(x_BCHW.shape[1:]))
            x_BCHW = degrade(x_BCHW, self.config, noise_BCHW)
        return eight_bits(x_BCHW).to(torch.uint8)

    @torch.no_grad()
    def sample(
        self, y_B: Tensor | None, seeds_B: list[int], sources: Sequence[Batch] = ()
    ) -> tuple[Tensor, None]:
        """Restore one image per seed.

        Args:
            y_B: not used; a source shows what it shows.
            seeds_B: not used; the sources' noise was drawn from them by `ask`.
            sources: one batch of images, whose condition is what `ask` made of them.

        Returns:
            uint8 images (B, C, H, W), and no score.
        """
        return eight_bits(self.network(sources[0].c_BCHW)).to(torch.uint8), None


def build(config: Config, spec: Spec) -> Restore:
    """Make the family.

    Raises ValueError unless the sides are multiples of 4 from 8 to 256, and the packages are here that a
    perceptual loss needs.
    """
    spec.demand("restore", 4)
    if config.perceptual:
        features.require()
    return Restore(config, spec)
