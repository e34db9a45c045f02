"""Generative adversarial network, class-conditional where there are labels: R3GAN by default.

Huang et al. 2025 (arXiv 2501.05441) pair each real image with a generated one and hold the
discriminator's gradient near both, which lets a plain residual network without normalisation train to
the end. The objectives of Goodfellow et al. 2014 (arXiv 1406.2661) are here beside theirs. As in our
diffusion, both networks work on 2 x 2 pixels folded into channels.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.families import Alarm, Batch, Spec
from models.learning import Learner
from models.noise import SampleNoise
from models.pixels import eight_bits

WARM_UP = 0.02
SLOPE = 0.2  # of the leaky ReLUs

Objective = Literal["relativistic", "non_saturating", "minimax"]


class Config(BaseModel):
    """What decides the weights that training arrives at.

    objective: what the two networks play for; see `discriminator_loss` and `generator_loss`.
    latent: numbers that an image is made from, beside its label.
    width: channels at the finest level; coarser levels have twice as many.
    blocks: residual blocks at each level of either network.
    lr: Adam's learning rate at its height; it warms up first, and falls to 0 along a cosine.
    gamma: weight of the gradient penalties R1 and R2.
    augment: show the discriminator shifted and partly covered images, the same way for real and
        generated ones (Zhao et al. 2020, arXiv 2006.10738), for it would learn a small set by heart.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    objective: Objective = "relativistic"
    latent: int = Field(64, ge=1, le=1024)
    width: int = Field(32, ge=8, le=512)
    blocks: int = Field(1, ge=1, le=8)
    lr: float = Field(1e-3, gt=0)
    gamma: float = Field(1.0, ge=0)
    augment: bool = False


class Block(nn.Module):
    """Residual block of two convolutions; in the generator the embedding scales what lies between them."""

    def __init__(self, c_in: int, c_out: int, c_emb: int = 0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.scale = nn.Linear(c_emb, c_out) if c_emb else None
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1, bias=False) if c_in != c_out else nn.Identity()

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor | None = None) -> Tensor:
        """Map (B, c_in, H, W) to (B, c_out, H, W)."""
        h_BCHW = self.conv1(F.leaky_relu(x_BCHW, SLOPE))
        if self.scale is not None:
            h_BCHW = h_BCHW * (1 + self.scale(emb_BE)[..., None, None])
        return self.skip(x_BCHW) + self.conv2(F.leaky_relu(h_BCHW, SLOPE))


class Generator(nn.Module):
    """Latent and label to image: a coarse map, then levels of blocks, each twice as fine."""

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__()
        self.base, widths = levels(config, spec)
        c_emb = 2 * config.width
        self.embed_label = nn.Embedding(max(spec.classes, 1), config.latent)
        self.embed = nn.Linear(2 * config.latent, c_emb)
        self.start = nn.Linear(c_emb, widths[-1] * math.prod(self.base))
        self.levels = nn.ModuleList()
        for c_in, c_out in pairwise([widths[-1], *widths[::-1]]):
            chain = [c_in, *[c_out] * config.blocks]
            self.levels.append(nn.ModuleList(Block(a, b, c_emb) for a, b in pairwise(chain)))
        self.conv_out = nn.Conv2d(widths[0], 4 * spec.channels, 3, padding=1)
        self.apply(_initialise)

    def forward(self, z_BZ: Tensor, y_B: Tensor) -> Tensor:
        """Map latents (B, latent) and labels (B,) to images, mostly in [-1, 1]."""
        y_BZ = F.normalize(self.embed_label(y_B), dim=1) * z_BZ.shape[1] ** 0.5
        emb_BE = F.leaky_relu(self.embed(torch.cat([z_BZ, y_BZ], dim=1)), SLOPE)
        h_BCHW = self.start(emb_BE).unflatten(1, (-1, *self.base))
        for number, blocks in enumerate(self.levels):
            h_BCHW = F.interpolate(h_BCHW, scale_factor=2.0, mode="nearest") if number else h_BCHW
            for block in cast(nn.ModuleList, blocks):
                h_BCHW = block(h_BCHW, emb_BE)
        return F.pixel_shuffle(self.conv_out(F.leaky_relu(h_BCHW, SLOPE)), 2).float()


class Discriminator(nn.Module):
    """Image and label to one number, higher for real ones; the label enters by projection.

    Projection: Miyato & Koyama 2018, arXiv 1802.05637, eq. 3.
    """

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__()
        base, widths = levels(config, spec)
        self.conv_in = nn.Conv2d(4 * spec.channels, widths[0], 3, padding=1)
        self.levels = nn.ModuleList()
        for c_in, c_out in pairwise([widths[0], *widths]):
            chain = [c_in, *[c_out] * config.blocks]
            self.levels.append(nn.ModuleList(Block(a, b) for a, b in pairwise(chain)))
        self.pool = nn.Conv2d(widths[-1], widths[-1], base, groups=widths[-1])
        self.head = nn.Linear(widths[-1], 1)
        self.embed_label = nn.Embedding(max(spec.classes, 1), widths[-1])
        self.apply(_initialise)

    def forward(self, x_BCHW: Tensor, y_B: Tensor, graded: bool = False) -> tuple[Tensor, Tensor]:
        """Map images in [-1, 1] and labels to logits (B,); if `graded`, also to ||grad_x D(x)||^2 / 2 (B,).

        The gradient is taken in here, since Fabric wants to see every backward pass through its wrapper.
        """
        x_BCHW = x_BCHW.detach().requires_grad_() if graded else x_BCHW
        h_BCHW = self.conv_in(F.pixel_unshuffle(x_BCHW, 2))
        for number, blocks in enumerate(self.levels):
            h_BCHW = F.avg_pool2d(h_BCHW, 2) if number else h_BCHW
            for block in cast(nn.ModuleList, blocks):
                h_BCHW = block(h_BCHW)
        h_BC = F.leaky_relu(self.pool(F.leaky_relu(h_BCHW, SLOPE)).flatten(1), SLOPE)
        by_label_B = (self.embed_label(y_B) * h_BC).sum(1) / h_BC.shape[1] ** 0.5
        logits_B = (self.head(h_BC).squeeze(1) + by_label_B).float()
        if not graded:
            return logits_B, torch.zeros_like(logits_B)
        (grad_BCHW,) = torch.autograd.grad(logits_B.sum(), x_BCHW, create_graph=True)
        return logits_B, grad_BCHW.float().square().sum((1, 2, 3)) / 2


def levels(config: Config, spec: Spec) -> tuple[tuple[int, int], list[int]]:
    """Height and width of the coarsest level, and the channels of every level, finest first."""
    sides, widths = (spec.height // 2, spec.width // 2), [config.width]
    while all(side % 2 == 0 and side > 4 for side in sides):
        sides = (sides[0] // 2, sides[1] // 2)
        widths.append(2 * config.width)
    return sides, widths


def _initialise(module: nn.Module) -> None:
    """Start every layer at unit gain, and every block as what its skip is."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, Block):
        nn.init.zeros_(module.conv2.weight)
        if module.scale is not None:
            nn.init.zeros_(module.scale.weight)


def discriminator_loss(objective: Objective, real_B: Tensor, fake_B: Tensor) -> Tensor:
    """What the discriminator minimises, of its logits D for real and generated images.

    relativistic: E f(D(fake) - D(real)) over pairs, f(t) = ln(1 + e^t) (Huang et al. 2025, eq. 2; from
    Jolicoeur-Martineau 2018, arXiv 1807.00734). minimax and non_saturating: -E ln s(D(real)) -
    E ln(1 - s(D(fake))) with the sigmoid s (Goodfellow et al. 2014, eq. 1).
    """
    if objective == "relativistic":
        return F.softplus(fake_B - real_B).mean()
    return F.softplus(-real_B).mean() + F.softplus(fake_B).mean()


def generator_loss(objective: Objective, real_B: Tensor, fake_B: Tensor) -> Tensor:
    """What the generator minimises.

    relativistic: the discriminator's with the pairs turned round. non_saturating: -E ln s(D(fake))
    (Goodfellow et al. 2014, section 3). minimax: E ln(1 - s(D(fake))) (eq. 1), which has hardly a
    gradient while the discriminator is sure.
    """
    if objective == "relativistic":
        return F.softplus(real_B - fake_B).mean()
    if objective == "non_saturating":
        return F.softplus(-fake_B).mean()
    return -F.softplus(fake_B).mean()


def augment(x_BCHW: Tensor) -> Tensor:
    """Shift each image by up to an eighth, cover a square of half its side, and vary a colour image's light.

    Differentiable in `x`; draws from torch's global generator of its device.
    """
    B, C, H, W = x_BCHW.shape
    device = x_BCHW.device
    if C > 1:
        x_BCHW = x_BCHW + torch.rand(B, 1, 1, 1, device=device) - 0.5
        grey_B1HW, mean_B111 = x_BCHW.mean(1, keepdim=True), x_BCHW.mean((1, 2, 3), keepdim=True)
        x_BCHW = grey_B1HW + (x_BCHW - grey_B1HW) * (2 * torch.rand(B, 1, 1, 1, device=device))
        x_BCHW = mean_B111 + (x_BCHW - mean_B111) * (0.5 + torch.rand(B, 1, 1, 1, device=device))
    reach = max(1, H // 8)
    corner_2B = torch.randint(-reach, reach + 1, (2, B), device=device)
    rows_BH = (corner_2B[0, :, None] + torch.arange(H, device=device)).clamp(0, H - 1)
    columns_BW = (corner_2B[1, :, None] + torch.arange(W, device=device)).clamp(0, W - 1)
    batch_B = torch.arange(B, device=device)
    moved = x_BCHW[batch_B[:, None, None], :, rows_BH[:, :, None], columns_BW[:, None, :]]
    centre_2B = torch.rand(2, B, device=device)
    near_BH = (torch.arange(H, device=device) / H - centre_2B[0, :, None]).abs() < 0.25
    near_BW = (torch.arange(W, device=device) / W - centre_2B[1, :, None]).abs() < 0.25
    covered_B1HW = (near_BH[:, :, None] & near_BW[:, None, :])[:, None]
    return moved.permute(0, 3, 1, 2).masked_fill(covered_B1HW, 0.0)


class GAN(Learner):
    """The family: what it learns with, how it learns, and how it samples."""

    condition: ClassVar[str] = "label"
    TRAINS: ClassVar[bool] = True
    ALARMS: ClassVar[dict[str, Alarm]] = {
        "gap": Alarm(-15.0, 15.0, "the discriminator has won, or has lost", "raise gamma"),
        "grad_norm": Alarm(0.0, 300.0, "the gradients explode"),
    }
    BATCH: ClassVar[int] = 32
    SAMPLING: ClassVar[frozenset[str]] = frozenset()
    config: Config
    network: Generator
    discriminator: Discriminator

    def __init__(self, config: Config, spec: Spec) -> None:
        networks = {"network": Generator(config, spec), "discriminator": Discriminator(config, spec)}
        super().__init__(config, spec, (0.0, 0.99), **networks)

    def step(self, batch: Batch, progress: float) -> dict[str, float]:
        """Update the discriminator, then the generator, on one batch of pairs."""
        self.pace(progress, WARM_UP)
        discriminate = self.through["discriminator"]
        x_BCHW, y_B, B = batch.x_BCHW, batch.labels_B, len(batch.x_BCHW)
        z_BZ = torch.randn(B, self.config.latent, device=x_BCHW.device)
        fake_BCHW = self.through["network"](z_BZ, y_B)

        shown_BCHW = self.view(torch.cat([x_BCHW, fake_BCHW.detach()]))
        logits_B, slope_B = discriminate(shown_BCHW, y_B.repeat(2), self.config.gamma > 0)
        loss = discriminator_loss(self.config.objective, *logits_B.split(B))
        penalty = 2 * slope_B.mean()  # R1 + R2 (Huang et al. 2025, eq. 3): half the rows are of each
        norm_d = self.descend(loss + self.config.gamma * penalty, "discriminator")

        x_BCHW, fake_BCHW = self.view(torch.cat([x_BCHW, fake_BCHW])).split(B)
        self.discriminator.requires_grad_(False)
        fake_B, _ = discriminate(fake_BCHW, y_B)
        with torch.no_grad():
            real_B, _ = discriminate(x_BCHW, y_B)
        generator = generator_loss(self.config.objective, real_B, fake_B)
        norm_g = self.descend(generator)
        self.discriminator.requires_grad_(True)
        return {
            "loss": float(generator.detach()),
            "discriminator_loss": float(loss.detach()),
            "gap": float((real_B - fake_B).mean().detach()),
            "penalty": float(penalty.detach()),
            "grad_norm": max(norm_d, norm_g),
        }

    def view(self, x_BCHW: Tensor) -> Tensor:
        """What the discriminator is shown of images."""
        return augment(x_BCHW) if self.config.augment else x_BCHW

    @torch.no_grad()
    def sample(
        self, y_B: Tensor | None, seeds_B: list[int], sources: Sequence[Batch] = ()
    ) -> tuple[Tensor, Tensor]:
        """Draw one image per seed.

        Args:
            y_B: int64 labels; None where there are none.
            seeds_B: what each image's latent is drawn from.
            sources: not used; the family is asked with labels.

        Returns:
            uint8 images (B, C, H, W), and the discriminator's logits (B,): higher is more like real.
        """
        device = self.lr_factor.device
        y_B = torch.zeros(len(seeds_B), dtype=torch.long) if y_B is None else y_B
        x_BCHW = self.network(SampleNoise(seeds_B, device).normal((self.config.latent,)), y_B.to(device))
        x_BCHW = eight_bits(x_BCHW)
        score_B, _ = self.discriminator(x_BCHW / 127.5 - 1, y_B.to(device))
        return x_BCHW.to(torch.uint8), score_B


def build(config: Config, spec: Spec) -> GAN:
    """Make the family. Raises ValueError unless the sides are multiples of 4 from 8 to 256."""
    spec.demand("gan", 4)
    return GAN(config, spec)
