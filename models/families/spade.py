"""Semantic map to image, with a style that is drawn: one map has many images.

Park et al. 2019 (SPADE, GauGAN, arXiv 1903.07291; equations and figures by its numbers): the map reaches
the generator by the scales and shifts of its normalisations, at every level, so that none of them can
wash it out. An encoder tells the style of the real image, and a KL divergence holds the styles near the
normal distribution that samples are drawn from (section 3, appendix A). Discriminators of patches at
several scales see map and image; hinge loss and feature matching as in Wang et al. 2018 (pix2pixHD,
arXiv 1711.11585).

As in our other families, the generator works on 2 x 2 pixels folded into channels. The numbers that
eq. 1 normalises by are those of a group of channels of one sample, not of the batch: a sample must not
depend on its neighbours. A coarser map holds the share of each id, so that a thin crack is not lost.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models import features
from models.families import Alarm, Batch, Spec
from models.learning import Learner
from models.noise import SampleNoise
from models.patches import GROUPS, SLOPE, PatchDiscriminator, convolution, feature_matching
from models.pixels import eight_bits


class Config(BaseModel):
    """What decides the weights that training arrives at.

    feature_matching: weight of the distance in the discriminators' features (Wang et al. 2018, eq. 2).
    perceptual: weight of the perceptual distance to the real image (section 3); it needs the packages of
        the extra `features`.
    kl: weight of the divergence of an image's style from the normal distribution, in nats. More of it:
        drawn styles look more like those of real images, but tell less.
    style: numbers that a style consists of.
    width: channels at the finest level of each network; coarser levels have more.
    layers: halvings of each discriminator: 1, 2 and 3 see patches of 12, 26 and 54 pixels a side.
    scales: discriminators; each sees the image at half the size that the one before sees.
    lr: Adam's learning rate at its height; it warms up first, and falls to 0 along a cosine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    feature_matching: float = Field(10.0, ge=0)
    perceptual: float = Field(0.0, ge=0)
    kl: float = Field(0.05, gt=0)
    style: int = Field(16, ge=1, le=512)
    width: int = Field(32, ge=16, le=512, multiple_of=8)
    layers: int = Field(2, ge=1, le=3)
    scales: int = Field(2, ge=1, le=3)
    lr: float = Field(4e-4, gt=0)


class Spade(nn.Module):
    """Normalisation whose scale and shift at each place come from the map there (eq. 1, fig. 2)."""

    def __init__(self, width: int, mapped: int) -> None:
        super().__init__()
        self.shared = nn.Conv2d(mapped, width // 2, 3, padding=1)
        self.scale_and_shift = nn.Conv2d(width // 2, 2 * width, 3, padding=1)

    def forward(self, h_BCHW: Tensor, map_BKHW: Tensor) -> Tensor:
        """Map (B, C, H, W) and the map of its size to (B, C, H, W)."""
        scale_BCHW, shift_BCHW = self.scale_and_shift(F.relu(self.shared(map_BKHW))).chunk(2, dim=1)
        return F.group_norm(h_BCHW, GROUPS) * (1 + scale_BCHW) + shift_BCHW


class Block(nn.Module):
    """SPADE, leaky ReLU and convolution, twice, beside a skip (fig. 4, which normalises the skip as well)."""

    def __init__(self, c_in: int, c_out: int, mapped: int) -> None:
        super().__init__()
        self.spade1, self.spade2 = Spade(c_in, mapped), Spade(c_out, mapped)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1, bias=False) if c_in != c_out else nn.Identity()

    def forward(self, h_BCHW: Tensor, map_BKHW: Tensor) -> Tensor:
        """Map (B, c_in, H, W) to (B, c_out, H, W)."""
        skip_BCHW = self.skip(h_BCHW)
        h_BCHW = self.conv1(F.leaky_relu(self.spade1(h_BCHW, map_BKHW), SLOPE))
        return skip_BCHW + self.conv2(F.leaky_relu(self.spade2(h_BCHW, map_BKHW), SLOPE))


class Network(nn.Module):
    """Style and map to image: the generator (fig. 4), and the encoder of styles (fig. 14)."""

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__()
        sides, widths = (spec.height // 2, spec.width // 2), [config.width]
        while all(side % 2 == 0 and side > 4 for side in sides):
            sides = (sides[0] // 2, sides[1] // 2)
            widths.append(min(2 * widths[-1], 4 * config.width))
        self.first, self.classes = (widths[-1], *sides), max(spec.classes, 1)
        numbers, mapped = widths[-1] * sides[0] * sides[1], 4 * spec.condition
        self.conv_in = nn.Linear(config.style + self.classes, numbers)
        levels = pairwise([widths[-1], *widths[::-1]])
        self.blocks = nn.ModuleList(Block(a, b, mapped) for a, b in levels)
        self.conv_out = nn.Conv2d(config.width, 4 * spec.channels, 3, padding=1)
        # Four folded pixels start alike, or a checkerboard would have to be unlearnt (Aitken et al. 2017).
        for weight in self.conv_out.parameters():
            weight.data = weight.data[::4].repeat_interleave(4, dim=0)
        self.encoder = nn.Sequential(
            convolution(4 * spec.channels, config.width, normed=False),
            *(convolution(a, b, stride=2) for a, b in pairwise(widths)),
            nn.Flatten(),
            nn.Linear(numbers, 2 * config.style),
        )

    def forward(
        self, c_BKHW: Tensor, y_B: Tensor, noise_BZ: Tensor, x_BCHW: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Paint maps in the style of images, or in that which the noise is.

        Args:
            c_BKHW: maps, one channel an id.
            y_B: int64 labels, 0 where there are none.
            noise_BZ: standard normal.
            x_BCHW: images in [-1, 1], whose style is taken; None: the noise is the style.

        Returns:
            Images in [-1, 1] (B, C, H, W), and the divergences (B,) of the styles from the normal
            distribution in nats, 0 of noise.
        """
        style_BZ, kl_B = noise_BZ, noise_BZ.new_zeros(len(noise_BZ))
        if x_BCHW is not None:
            mean_BZ, log_var_BZ = self.encoder(F.pixel_unshuffle(x_BCHW, 2)).float().chunk(2, dim=1)
            style_BZ = mean_BZ + (log_var_BZ / 2).exp() * noise_BZ
            kl_B = (mean_BZ**2 + log_var_BZ.exp() - 1 - log_var_BZ).sum(1) / 2  # appendix A
        map_BKHW = F.pixel_unshuffle(c_BKHW, 2)
        told = torch.cat([style_BZ, F.one_hot(y_B, self.classes).to(style_BZ.dtype)], dim=1)
        h_BCHW = self.conv_in(told).unflatten(1, self.first)
        for number, block in enumerate(self.blocks):
            if number:
                h_BCHW = F.interpolate(h_BCHW, scale_factor=2.0)
            halvings = len(self.blocks) - 1 - number
            h_BCHW = block(h_BCHW, F.avg_pool2d(map_BKHW, 2**halvings))
        h_BCHW = self.conv_out(F.leaky_relu(h_BCHW, SLOPE))
        return F.pixel_shuffle(h_BCHW, 2).float().tanh(), kl_B


class Discriminator(nn.Module):
    """Discriminators of patches, one a scale (appendix A; Wang et al. 2018, section 3.2)."""

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__()
        side = min(spec.height, spec.width)
        scales = sum(side >> n >= 1 << config.layers for n in range(config.scales))  # no patch is smaller
        c_in = spec.condition + spec.channels
        self.scales = nn.ModuleList(
            PatchDiscriminator(c_in, config.width, config.layers) for _ in range(scales)
        )

    def forward(self, c_BKHW: Tensor, x_BCHW: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Map maps and images to logits (B, patches) of each scale, higher for real ones, and features."""
        logits: list[Tensor] = []
        found: list[Tensor] = []
        for number, judge in enumerate(self.scales):
            if number:
                c_BKHW, x_BCHW = F.avg_pool2d(c_BKHW, 2), F.avg_pool2d(x_BCHW, 2)
            logits_BP, seen = judge(c_BKHW, x_BCHW)
            logits.append(logits_BP)
            found += seen
        return logits, found


def mean(logits: Sequence[Tensor]) -> Tensor:
    """The mean logit of each image (B,), every scale counting the same."""
    return torch.stack([logits_BP.mean(1) for logits_BP in logits]).mean(0)


class Gaugan(Learner):
    """The family: what it learns with, how it learns, and how it samples."""

    condition: ClassVar[str] = "image"
    PARENTS: ClassVar[int] = 1
    PAIRED: ClassVar[bool] = True
    TRAINS: ClassVar[bool] = True
    ALARMS: ClassVar[dict[str, Alarm]] = {
        "gap": Alarm(-15.0, 15.0, "the discriminator has won, or has lost", "raise feature_matching"),
        "discriminator_loss": Alarm(0.0, 2.0, "the discriminator errs by more than chance would"),
        "kl": Alarm(0.0, 500.0, "styles lie far from those that samples are drawn from", "raise kl"),
        "grad_norm": Alarm(0.0, 1e4, "the gradients explode"),
    }
    BATCH: ClassVar[int] = 16
    SAMPLING: ClassVar[frozenset[str]] = frozenset()
    config: Config
    network: Network
    discriminator: Discriminator

    def __init__(self, config: Config, spec: Spec) -> None:
        networks = {"network": Network(config, spec), "discriminator": Discriminator(config, spec)}
        super().__init__(config, spec, (0.0, 0.9), **networks)

    def step(self, batch: Batch, progress: float) -> dict[str, float]:
        """Update the discriminators, then generator and encoder, on one batch of images and their maps."""
        self.pace(progress)
        discriminate, config = self.through["discriminator"], self.config
        x_BCHW, c_BKHW = batch.x_BCHW, cast(Tensor, batch.c_BCHW)
        noise_BZ = torch.randn(len(x_BCHW), config.style, device=x_BCHW.device)
        fake_BCHW, kl_B = self.through["network"](c_BKHW, batch.labels_B, noise_BZ, x_BCHW)
        real, fake = (discriminate(c_BKHW, x)[0] for x in (x_BCHW, fake_BCHW.detach()))
        judged = (mean([F.relu(1 - r) for r in real]) + mean([F.relu(1 + f) for f in fake])).mean() / 2
        norm_d = self.descend(judged, "discriminator")
        self.discriminator.requires_grad_(False)
        fake, seen = discriminate(c_BKHW, fake_BCHW)
        with torch.no_grad():
            real, wanted = discriminate(c_BKHW, x_BCHW)
        self.discriminator.requires_grad_(True)
        matched, kl = feature_matching(seen, wanted), kl_B.mean()
        loss = -mean(fake).mean() + config.feature_matching * matched + config.kl * kl
        if config.perceptual:
            loss = loss + config.perceptual * features.perceptual_distance(fake_BCHW, x_BCHW).mean()
        gap = (mean(real) - mean(fake)).mean()
        found = {"loss": loss, "matched": matched, "kl": kl, "discriminator_loss": judged, "gap": gap}
        told = {name: float(value.detach()) for name, value in found.items()}
        return told | {"grad_norm": max(norm_d, self.descend(loss))}

    @torch.no_grad()
    def sample(
        self, y_B: Tensor | None, seeds_B: list[int], sources: Sequence[Batch] = ()
    ) -> tuple[Tensor, Tensor]:
        """Paint the map of each source in a style that is drawn from the sample's own seed.

        Args:
            y_B: int64 labels; None where there are none.
            seeds_B: what each image's style is drawn from.
            sources: one batch of images with their maps.

        Returns:
            uint8 images (B, C, H, W), and the mean of the discriminators' logits (B,): higher is more like
            real.
        """
        c_BKHW = cast(Tensor, sources[0].c_BCHW)
        style_BZ = SampleNoise(seeds_B, c_BKHW.device).normal((self.config.style,))
        painted_BCHW, _ = self.network(c_BKHW, Batch(c_BKHW, y_B).labels_B, style_BZ)
        x_BCHW = eight_bits(painted_BCHW)
        return x_BCHW.to(torch.uint8), mean(self.discriminator(c_BKHW, x_BCHW / 127.5 - 1)[0])


def build(config: Config, spec: Spec) -> Gaugan:
    """Make the family.

    Raises ValueError unless images come with a map of ids, their sides are multiples of 4 from 8 to 256,
    and the packages are here that a perceptual loss needs.
    """
    spec.demand("spade", 4)
    if not spec.mapped:
        raise ValueError(
            "spade paints a map of ids: set preprocess.condition to colours, or to paired and preprocess.mask"
        )
    if config.perceptual:
        features.require()
    return Gaugan(config, spec)
