"""Image to image by a conditional GAN: a sketch, a map or a partner in, a photograph out.

Isola et al. 2017 (pix2pix, arXiv 1611.07004; equations by its numbers): a U-Net is trained to come near
to the true image, by L1, and to look like one to a discriminator that judges patches and sees the
condition as well. Feature matching is of Wang et al. 2018 (pix2pixHD, arXiv 1711.11585). Noise enters as
dropout, when it samples too (section 2.2.1), which varies little; so the network is also told the
image's mean colour, and asked with another one where new images are wanted. As in our other families,
the generator works on 2 x 2 pixels folded into channels; normalisation is by group, since a sample must
not depend on its neighbours in the batch.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.families import Alarm, Batch, Spec
from models.learning import Learner
from models.noise import SampleNoise
from models.patches import PatchDiscriminator, convolution, feature_matching
from models.pixels import eight_bits

DROPPED = 3  # levels of the decoder, from the coarsest, that noise enters
SPREAD = 1e-3  # least variance of a mean colour


class Config(BaseModel):
    """What decides the weights that training arrives at.

    adversarial: weight of the discriminator's word in the generator's loss; 0, and feature_matching 0 too:
        an L1-only network, without a discriminator's score.
    l1: weight of the distance to the true image (eq. 4, lambda).
    feature_matching: weight of the distance in the discriminator's features (Wang et al. 2018, eq. 2).
    hint: tell the generator the image's mean colour. It is then asked with one that is drawn from the
        train images of the class, so that a condition has many answers.
    dropout: share of the decoder's numbers that noise puts out.
    width: channels at the finest level of either network; coarser levels have more.
    layers: halvings of the discriminator: 1, 2 and 3 see patches of 12, 26 and 54 pixels a side.
    lr: Adam's learning rate at its height; it warms up first, and falls to 0 along a cosine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    adversarial: float = Field(1.0, ge=0)
    l1: float = Field(100.0, ge=0)
    feature_matching: float = Field(10.0, ge=0)
    hint: bool = True
    dropout: float = Field(0.5, ge=0, lt=1)
    width: int = Field(48, ge=16, le=512, multiple_of=8)
    layers: int = Field(2, ge=1, le=3)
    lr: float = Field(5e-4, gt=0)


class Generator(nn.Module):
    """U-Net: condition and hint to image, with a skip at each level (section 3.2.1)."""

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__()
        sides, widths = (spec.height // 2, spec.width // 2), [config.width]
        while all(side % 2 == 0 and side > 4 for side in sides):
            sides = (sides[0] // 2, sides[1] // 2)
            widths.append(min(2 * widths[-1], 4 * config.width))
        self.dropout = config.dropout
        c_in = spec.condition + (spec.channels if config.hint else 0)
        self.conv_in = convolution(4 * c_in, config.width, normed=False)
        self.encoder = nn.ModuleList(convolution(a, b, stride=2) for a, b in pairwise(widths))
        self.bottom = convolution(widths[-1], widths[-1])
        self.decoder = nn.ModuleList(convolution(a + b, b) for a, b in pairwise(widths[::-1]))
        self.conv_out = nn.Conv2d(config.width, 4 * spec.channels, 3, padding=1)
        levels = zip(widths[::-1], range(len(widths)), strict=True)
        self.dropped = [(c, sides[0] << n, sides[1] << n) for c, n in levels][:DROPPED]

    def forward(self, asked_BCHW: Tensor, *noise: Tensor) -> Tensor:
        """Map condition and hint to images in [-1, 1]; `noise`: uniform (B, *shape) for each in `dropped`."""
        h_BCHW, skips = self.conv_in(F.pixel_unshuffle(asked_BCHW, 2)), []
        for block in self.encoder:
            skips.append(h_BCHW)
            h_BCHW = block(h_BCHW)
        h_BCHW = self.drop(self.bottom(h_BCHW), noise[:1])
        for number, block in enumerate(self.decoder):
            h_BCHW = torch.cat([F.interpolate(h_BCHW, scale_factor=2.0), skips.pop()], dim=1)
            h_BCHW = self.drop(block(h_BCHW), noise[number + 1 : number + 2])
        return F.pixel_shuffle(self.conv_out(h_BCHW), 2).float().tanh()

    def drop(self, h_BCHW: Tensor, noise: Sequence[Tensor]) -> Tensor:
        """Put out the numbers whose noise is below the share of dropout, and raise the others."""
        for noise_BCHW in noise:
            h_BCHW = h_BCHW * (noise_BCHW >= self.dropout) / (1 - self.dropout)
        return h_BCHW


class Pix2Pix(Learner):
    """The family: what it learns with, how it learns, and how it samples."""

    condition: ClassVar[str] = "image"
    PARENTS: ClassVar[int] = 1
    PAIRED: ClassVar[bool] = True
    TRAINS: ClassVar[bool] = True
    ALARMS: ClassVar[dict[str, Alarm]] = {
        "gap": Alarm(-15.0, 15.0, "the discriminator has won, or has lost", "raise l1"),
        "discriminator_loss": Alarm(0.0, 3.0, "the discriminator errs by more than chance would"),
        "grad_norm": Alarm(0.0, 1e4, "the gradients explode"),
    }
    BATCH: ClassVar[int] = 16
    SAMPLING: ClassVar[frozenset[str]] = frozenset()
    config: Config
    network: Generator
    discriminator: PatchDiscriminator

    def __init__(self, config: Config, spec: Spec) -> None:
        judge = PatchDiscriminator(spec.condition + spec.channels, config.width, config.layers)
        super().__init__(config, spec, (0.5, 0.999), network=Generator(config, spec), discriminator=judge)
        self.judges = bool(config.adversarial or config.feature_matching)
        K, C = max(spec.classes, 1), spec.channels
        self.hint_KC: Tensor
        self.register_buffer("hint_KC", torch.zeros(K, C))
        self.spread_KCC: Tensor  # lower triangular, of covariance = spread spread^T
        self.register_buffer("spread_KCC", 0.3 * torch.eye(C).repeat(K, 1, 1))

    def asked(self, c_BCHW: Tensor, hint_BC: Tensor) -> Tensor:
        """What the generator is given: the condition, and the mean colour at every pixel."""
        if not self.config.hint:
            return c_BCHW
        return torch.cat([c_BCHW, hint_BC[:, :, None, None].expand(-1, -1, *c_BCHW.shape[2:])], dim=1)

    def step(self, batch: Batch, progress: float) -> dict[str, float]:
        """Update the discriminator, then the generator, on one batch of pairs."""
        self.pace(progress)
        discriminate = self.through["discriminator"]
        x_BCHW, c_BCHW, config = batch.x_BCHW, _condition(batch), self.config
        noise = [torch.rand(len(x_BCHW), *shape, device=x_BCHW.device) for shape in self.network.dropped]
        fake_BCHW = self.through["network"](self.asked(c_BCHW, x_BCHW.mean((2, 3))), *noise)
        away = F.l1_loss(fake_BCHW, x_BCHW)  # eq. 3
        loss, norm_d, judged, gap = config.l1 * away, 0.0, torch.zeros(()), torch.zeros(())
        if self.judges:
            real, fake = (discriminate(c_BCHW, x)[0] for x in (x_BCHW, fake_BCHW.detach()))
            judged = (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2  # eq. 1, at half the speed
            norm_d = self.descend(judged, "discriminator")
            self.discriminator.requires_grad_(False)
            fake, seen = discriminate(c_BCHW, fake_BCHW)
            with torch.no_grad():
                real, wanted = discriminate(c_BCHW, x_BCHW)
            self.discriminator.requires_grad_(True)
            # -log D instead of log(1 - D), section 3.3.
            loss = loss + config.adversarial * F.softplus(-fake).mean()
            loss = loss + config.feature_matching * feature_matching(seen, wanted)
            gap = (real - fake).mean()
        found = {"loss": loss, "l1": away, "discriminator_loss": judged, "gap": gap}
        told = {name: float(value.detach()) for name, value in found.items()}
        return told | {"grad_norm": max(norm_d, self.descend(loss))}

    @torch.no_grad()
    def finish(self, batches: Any) -> None:
        """Fit a Gaussian to the mean colours of each class's training images."""
        if not self.config.hint:
            return
        said = [(b.x_BCHW.mean((2, 3)), b.labels_B) for b in batches]
        hint_NC, y_N = (torch.cat(parts) for parts in zip(*said, strict=True))
        for label in range(len(self.hint_KC)):
            of_class_NC = hint_NC[y_N == label].double()
            if len(of_class_NC):
                self.hint_KC[label] = of_class_NC.mean(0)
                apart_NC = of_class_NC - of_class_NC.mean(0)
                floor_CC = SPREAD * torch.eye(self.spec.channels, device=apart_NC.device)
                self.spread_KCC[label] = torch.linalg.cholesky(
                    apart_NC.T @ apart_NC / len(apart_NC) + floor_CC
                )

    @torch.no_grad()
    def sample(
        self, y_B: Tensor | None, seeds_B: list[int], sources: Sequence[Batch] = ()
    ) -> tuple[Tensor, Tensor | None]:
        """Answer the condition of each source, in a colour and by noise of the sample's own seed.

        Args:
            y_B: int64 labels, by whose training images the colour is drawn; None where there are none.
            seeds_B: what each image's mean colour and noise are drawn from.
            sources: one batch of images with their conditions.

        Returns:
            uint8 images (B, C, H, W), and the mean of the discriminator's logits (B,): higher is more like
            real; None of an L1-only network.
        """
        c_BCHW = _condition(sources[0])
        noise, y_B = SampleNoise(seeds_B, c_BCHW.device), Batch(c_BCHW, y_B).labels_B
        drawn_BC1 = self.spread_KCC[y_B] @ noise.normal((self.spec.channels, 1))
        hint_BC = (self.hint_KC[y_B] + drawn_BC1.float()[..., 0]).clamp(-1, 1)
        masks = [noise.uniform(shape) for shape in self.network.dropped]
        x_BCHW = self.network(self.asked(c_BCHW, hint_BC), *masks)
        x_BCHW = eight_bits(x_BCHW)
        score_B = self.discriminator(c_BCHW, x_BCHW / 127.5 - 1)[0].mean(1) if self.judges else None
        return x_BCHW.to(torch.uint8), score_B


def _condition(batch: Batch) -> Tensor:
    assert batch.c_BCHW is not None  # `build` refuses images that come without
    return batch.c_BCHW


def build(config: Config, spec: Spec) -> Pix2Pix:
    """Make the family.

    Raises ValueError unless images come with a condition, and their sides are multiples of 4 from 8 to 256.
    """
    spec.demand("pix2pix", 4)
    if not spec.condition:
        raise ValueError("pix2pix answers a condition: set preprocess.condition, to edges for one")
    return Pix2Pix(config, spec)
