"""Class-conditional diffusion: EDM (Karras et al. 2022, arXiv 2206.00364), equations by its numbers.

A denoiser D(x; sigma) learns to give the mean of the clean images that could have become x when
normal noise of deviation sigma was added; sampling walks sigma from SIGMA_MAX down to 0. The network
works on 2 x 2 pixels folded into channels, which costs little in quality and saves most of the time.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.families import Alarm, Batch, Spec
from models.learning import Learner
from models.noise import SampleNoise
from models.pixels import eight_bits

SIGMA_MIN, SIGMA_MAX, RHO = 0.02, 80.0, 7.0
STEPS, GUIDANCE = 8, 1.25


class Config(BaseModel):
    """What decides the weights that training arrives at.

    width: channels at the finest level, a multiple of 16; coarser levels have twice as many.
    blocks: residual blocks at each level of the encoder; the decoder has as many.
    lr: Adam's learning rate at its height; it warms up first, and falls to 0 along a cosine.
    label_dropout: share of training images whose label is hidden, which guidance needs.
    sigma_data: standard deviation of the images' pixels, in [-1, 1] (EDM table 1).
    p_mean, p_std: mean and deviation of ln(sigma) in training (EDM table 1, whose p_mean of -1.2 spends
        more on fine detail: where training is short, shapes and labels are what it has to learn first).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(64, ge=16, le=512, multiple_of=16)
    blocks: int = Field(1, ge=1, le=8)
    lr: float = Field(4e-3, gt=0)
    label_dropout: float = Field(0.1, ge=0, lt=1)
    sigma_data: float = Field(0.5, gt=0)
    p_mean: float = 0.2
    p_std: float = Field(1.2, gt=0)


class Block(nn.Module):
    """Residual block: two convolutions, the second's input scaled and shifted by the embedding."""

    def __init__(self, c_in: int, c_out: int, c_emb: int, attends: bool) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(c_in // 16, c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.affine = nn.Linear(c_emb, 2 * c_out)
        self.norm2 = nn.GroupNorm(c_out // 16, c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.attention = Attention(c_out) if attends else nn.Identity()

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor) -> Tensor:
        """Map (B, c_in, H, W) to (B, c_out, H, W), steered by the embedding."""
        h_BCHW = self.conv1(F.silu(self.norm1(x_BCHW)))
        scale_BC11, shift_BC11 = self.affine(emb_BE)[..., None, None].chunk(2, dim=1)
        h_BCHW = torch.addcmul(shift_BC11, self.norm2(h_BCHW), 1 + scale_BC11)
        return self.attention(self.skip(x_BCHW) + self.conv2(F.silu(h_BCHW)))


class Attention(nn.Module):
    """Self-attention over all positions, 16 channels a head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(channels // 16, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Mix positions; the shape stays."""
        B, C, H, W = x_BCHW.shape
        qkv = self.qkv(self.norm(x_BCHW)).reshape(B, 3, C // 16, 16, H * W)
        q_BhTd, k_BhTd, v_BhTd = qkv.transpose(3, 4).unbind(1)
        h_BhTd = F.scaled_dot_product_attention(q_BhTd, k_BhTd, v_BhTd)
        return x_BCHW + self.out(h_BhTd.transpose(2, 3).reshape(B, C, H, W))


class UNet(nn.Module):
    """The raw network F of eq. 7: levels of blocks, joined by adding, with attention at the coarsest.

    Skips are added, where U-Nets usually concatenate: for the time that saves, more images are seen.
    """

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__()
        fine, coarse, c_fold, c_emb = config.width, 2 * config.width, 4 * spec.channels, 4 * config.width
        sides, widths = (spec.height // 2, spec.width // 2), [fine]
        while all(side % 2 == 0 and side > 4 for side in sides):
            sides = (sides[0] // 2, sides[1] // 2)
            widths.append(coarse)
        self.null_label = spec.classes
        self.frequency_F: Tensor
        self.register_buffer("frequency_F", math.pi * 2.0 ** torch.linspace(-2, 3, 16), persistent=False)
        self.embed_noise = nn.Linear(32, c_emb)
        self.embed_label = nn.Embedding(spec.classes + 1, c_emb)
        self.embed = nn.Linear(c_emb, c_emb)
        self.conv_in = nn.Conv2d(c_fold, fine, 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            above = widths[max(level - 1, 0)]
            attends = level == len(widths) - 1
            ends = [above, *[width] * config.blocks]
            self.down.append(nn.ModuleList(Block(a, b, c_emb, attends) for a, b in pairwise(ends)))
            self.up.insert(0, nn.ModuleList(Block(b, a, c_emb, attends) for a, b in pairwise(ends))[::-1])
        self.norm_out = nn.GroupNorm(fine // 16, fine)
        self.conv_out = nn.Conv2d(fine, c_fold, 3, padding=1)
        self.apply(_initialise)
        nn.init.zeros_(self.conv_out.weight)

    def forward(self, x_BCHW: Tensor, noise_B: Tensor, y_B: Tensor) -> Tensor:
        """F(x; c_noise, y): what c_out scales, of the shape of `x`."""
        angle_BF = noise_B[:, None] * self.frequency_F
        emb_BE = self.embed_noise(torch.cat([angle_BF.cos(), angle_BF.sin()], dim=1))
        emb_BE = F.silu(self.embed(F.silu(emb_BE + self.embed_label(y_B))))
        h_BCHW = self.conv_in(F.pixel_unshuffle(x_BCHW, 2))
        skips = []
        for level, blocks in enumerate(self.down):
            h_BCHW = F.avg_pool2d(h_BCHW, 2) if level else h_BCHW
            for block in cast(nn.ModuleList, blocks):
                h_BCHW = block(h_BCHW, emb_BE)
                skips.append(h_BCHW)
        h_BCHW = torch.zeros_like(h_BCHW)
        for level, blocks in enumerate(self.up):
            h_BCHW = F.interpolate(h_BCHW, scale_factor=2.0) if level else h_BCHW
            for block in cast(nn.ModuleList, blocks):
                h_BCHW = block(h_BCHW + skips.pop(), emb_BE)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h_BCHW))), 2)


def _initialise(module: nn.Module) -> None:
    """Start every layer at unit gain, and attention at nothing: torch's own start learns more slowly."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        nn.init.zeros_(cast(Tensor, module.bias))
    elif isinstance(module, Attention):
        nn.init.zeros_(module.out.weight)


def scalings(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """c_skip, c_out, c_in and c_noise of the preconditioning at noise deviation `sigma` (EDM table 1)."""
    total = (sigma**2 + sigma_data**2).sqrt()
    return sigma_data**2 / total**2, sigma * sigma_data / total, 1 / total, sigma.log() / 4


def sigmas(steps: int) -> list[float]:
    """The noise deviations of `steps` levels, and the closing 0 (EDM eq. 5). Raises ValueError for one."""
    if steps < 2:
        raise ValueError(f"sampling needs 2 steps or more, not {steps}")
    high, low = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    return [*((high + i / (steps - 1) * (low - high)) ** RHO for i in range(steps)), 0.0]


def walk(denoise: Callable[[Tensor, float], Tensor], x: Tensor, levels: list[float]) -> Tensor:
    """Take `x` from noise deviation levels[0] to levels[-1], with one evaluation of `denoise` a step.

    The probability-flow ODE (EDM eq. 1) is linear in x but for the denoiser, so in t = -ln(sigma) the
    linear part is solved exactly, and D is extrapolated along t from its last two values: second order
    (DPM-Solver++(2M): Lu et al. 2022, arXiv 2211.01095, algorithm 2, with alpha = 1). The first step,
    and one to 0, where t has no end, hold D constant.
    """
    D_before, h_before = None, 0.0
    for now, then in pairwise(levels):
        D = denoise(x, now)
        if then == 0:
            return D
        h = math.log(now / then)
        slope = 0.0 if D_before is None else h / (2 * h_before)
        ahead = D if D_before is None else D + slope * (D - D_before)
        x = then / now * x - math.expm1(-h) * ahead
        D_before, h_before = D, h
    return x


def heun(denoise: Callable[[Tensor, float], Tensor], x: Tensor, levels: list[float]) -> Tensor:
    """Take `x` from noise deviation levels[0] to levels[-1] by EDM's own sampler, without its added noise.

    Heun's second order: a step of Euler's, and another of the mean of the slopes at its two ends (EDM
    algorithm 1). Two evaluations of `denoise` a step, and one for a step to 0, where the slope has no end.
    """
    for now, then in pairwise(levels):
        slope = (x - denoise(x, now)) / now
        ahead = x + (then - now) * slope
        if then > 0:
            slope = (slope + (ahead - denoise(ahead, then)) / then) / 2
        x = x + (then - now) * slope
    return x


class Diffusion(Learner):
    """The family: what it learns with, how it learns, and how it samples."""

    condition: ClassVar[str] = "label"
    TRAINS: ClassVar[bool] = True
    ALARMS: ClassVar[dict[str, Alarm]] = {
        "loss": Alarm(0.0, 2.0, "the denoiser does not learn"),
        "grad_norm": Alarm(0.0, 20.0, "the gradients explode"),
    }
    BATCH: ClassVar[int] = 64
    SAMPLING: ClassVar[frozenset[str]] = frozenset({"steps", "guidance", "sampler"})
    config: Config
    network: UNet

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__(config, spec, (0.9, 0.99), network=UNet(config, spec))

    def denoise(
        self, x_BCHW: Tensor, sigma_B: Tensor, y_B: Tensor | None, network: Callable[..., Tensor]
    ) -> Tensor:
        """D(x; sigma), the mean of the clean images that `x` may come from (EDM eq. 7), in float32."""
        c_skip, c_out, c_in, c_noise = scalings(sigma_B[:, None, None, None], self.config.sigma_data)
        if y_B is None:
            y_B = torch.full((len(x_BCHW),), self.network.null_label, device=x_BCHW.device)
        F_BCHW = network(c_in * x_BCHW, c_noise.flatten(), y_B)
        return c_skip * x_BCHW + c_out * F_BCHW.float()

    def loss(self, x_BCHW: Tensor, y_B: Tensor | None, network: Callable[..., Tensor]) -> Tensor:
        """The weighted denoising error (EDM eq. 2 with table 1), averaged over images and pixels."""
        noise_B = torch.randn(len(x_BCHW), device=x_BCHW.device)
        sigma_B = (self.config.p_mean + self.config.p_std * noise_B).exp()
        if y_B is not None:
            hidden_B = torch.rand(len(y_B), device=y_B.device) < self.config.label_dropout
            y_B = torch.where(hidden_B, self.network.null_label, y_B)
        sigma_B111 = sigma_B[:, None, None, None]
        noisy_BCHW = x_BCHW + sigma_B111 * torch.randn_like(x_BCHW)
        weight_B111 = scalings(sigma_B111, self.config.sigma_data)[1] ** -2  # lambda = 1 / c_out^2
        error_BCHW = self.denoise(noisy_BCHW, sigma_B, y_B, network) - x_BCHW
        return (weight_B111 * error_BCHW**2).mean()

    def step(self, batch: Batch, progress: float) -> dict[str, float]:
        """Update once. Draws its noise from torch's global generator of the batch's device."""
        self.pace(progress)
        loss = self.loss(batch.x_BCHW, batch.y_B, self.through["network"])
        return {"loss": float(loss.detach()), "grad_norm": self.descend(loss)}

    @torch.no_grad()
    def sample(
        self,
        y_B: Tensor | None,
        seeds_B: list[int],
        sources: Sequence[Batch] = (),
        steps: float | None = None,
        guidance: float | None = None,
        sampler: str | None = None,
    ) -> tuple[Tensor, None]:
        """Draw one image per seed.

        Args:
            y_B: int64 labels; None where there are none.
            seeds_B: what each image's noise is drawn from.
            sources: not used; the family is asked with labels.
            steps: evaluations of the network per image, 2 or more; None: 8, and 9 for heun.
            guidance: how far to lead away from what the network makes without a label (Ho & Salimans
                2022, arXiv 2207.12598). 1 does not lead; any other doubles the evaluations. None: 1.25,
                or 1 where it was not learned.

            sampler: `multistep` or `heun`, for which steps are odd: two evaluations for each noise level
                but the last. None: multistep.

        Returns:
            uint8 images (B, C, H, W), and no score.

        Raises:
            ValueError: too few steps, an even number of them for heun, or guidance of a model that never
                learned with and without labels.
        """
        evaluations = int(steps or (STEPS + 1 if sampler == "heun" else STEPS))
        if sampler == "heun" and evaluations % 2 == 0:
            raise ValueError(f"sampler heun needs an odd number of steps, not {evaluations}")
        levels = sigmas((evaluations + 1) // 2 if sampler == "heun" else evaluations)
        learned = y_B is not None and self.config.label_dropout > 0
        if guidance is None:
            guidance = GUIDANCE if learned else 1.0
        if guidance != 1 and not learned:
            raise ValueError(f"guidance {guidance} needs labels, and a label_dropout above 0 in training")
        device = self.network.frequency_F.device
        y_B = None if y_B is None else y_B.to(device)

        def denoise(x_BCHW: Tensor, sigma: float) -> Tensor:
            sigma_B = torch.full((len(x_BCHW),), sigma, device=device)
            D_BCHW = self.denoise(x_BCHW, sigma_B, y_B, self.network)
            if guidance == 1:
                return D_BCHW
            return torch.lerp(self.denoise(x_BCHW, sigma_B, None, self.network), D_BCHW, guidance)

        shape = (self.spec.channels, self.spec.height, self.spec.width)
        x_BCHW = levels[0] * SampleNoise(seeds_B, device).normal(shape)
        x_BCHW = (heun if sampler == "heun" else walk)(denoise, x_BCHW, levels)
        return eight_bits(x_BCHW).to(torch.uint8), None


def build(config: Config, spec: Spec) -> Diffusion:
    """Make the family. Raises ValueError unless the sides are multiples of 4 from 8 to 256."""
    spec.demand("diffusion", 4)
    return Diffusion(config, spec)
