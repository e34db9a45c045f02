"""Few-step generation: a flow whose solution is learned, class-conditional (SoFlow, arXiv 2512.15657).

A flow carries an image x along x_t = (1 - t) x + t e to noise e as t goes from 0 to 1, with velocity
v = e - x. The network N learns the flow's own solution, f(x_t, t, s) = x_t + (s - t) N(x_t, t, s), which
leads from time t to time s in one evaluation. Two lessons teach it, in one training:

- flow matching (Lipman et al. 2023, arXiv 2210.02747): for s = t it is the velocity, N(x_t, t, t) ~ v;
- solution consistency: a jump from t to s ends where it would if its first part, to l = t + (s - t) r, were
  gone along v, so f(x_t, t, s) ~ f(x_l, l, s) with x_l = x_t + (l - t) v. Divided by s - t this says
  N(x_t, t, s) ~ r v + (1 - r) N(x_l, l, s), the right side being held fixed.

For r = 1 both are the same; r falls as the training goes on. Only jumps to s = 0, to images, are asked for.
The network works on 2 x 2 pixels folded into channels, as in our diffusion.
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

STEPS = 2
JUMPS = 4  # most steps that are jumps; more follow the velocity
DATA = 0.5  # about the standard deviation of pixels in [-1, 1], by which inputs are brought to unit size
FLOOR, POWER = 1e-3, 0.75  # of the weight of a row's error


class Config(BaseModel):
    """What decides the weights that training arrives at.

    width: channels at the finest level, a multiple of 16; coarser levels have twice as many.
    blocks: residual blocks at each level of the encoder; the decoder has as many.
    lr: Adam's learning rate at its height; it warms up first, and falls to 0 along a cosine.
    flow: share of a batch that learns the velocity; the rest learns to jump.
    stride: r at the end of the training, to which it falls from 1 along an exponential.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(64, ge=16, le=512, multiple_of=16)
    blocks: int = Field(1, ge=1, le=8)
    lr: float = Field(4e-3, gt=0)
    flow: float = Field(0.5, gt=0, lt=1)
    stride: float = Field(0.05, gt=0, le=1)


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
    """The network N: levels of blocks, joined by adding, with attention at the coarsest.

    Skips are added, where U-Nets usually concatenate: for the time that saves, more images are seen.
    """

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__()
        fine, coarse, c_fold, c_emb = config.width, 2 * config.width, 4 * spec.channels, 4 * config.width
        sides, widths = (spec.height // 2, spec.width // 2), [fine]
        while all(side % 2 == 0 and side > 4 for side in sides):
            sides = (sides[0] // 2, sides[1] // 2)
            widths.append(coarse)
        self.frequency_F: Tensor
        self.register_buffer("frequency_F", math.pi * 2.0 ** torch.linspace(-2, 3, 16), persistent=False)
        self.embed_time = nn.Linear(64, c_emb)
        self.embed_label = nn.Embedding(max(spec.classes, 1), c_emb)
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

    def forward(self, x_BCHW: Tensor, t_B: Tensor, s_B: Tensor, y_B: Tensor) -> Tensor:
        """N(x, t, s, y): the mean velocity on the way from time `t` to time `s`, of the shape of `x`."""
        size_B = (DATA * (1 - t_B)).hypot(t_B)
        waves_BF = [
            wave(time_B[:, None] * self.frequency_F)
            for time_B in (t_B, t_B - s_B)
            for wave in (torch.cos, torch.sin)
        ]
        emb_BE = self.embed_time(torch.cat(waves_BF, dim=1))
        emb_BE = F.silu(self.embed(F.silu(emb_BE + self.embed_label(y_B))))
        h_BCHW = self.conv_in(F.pixel_unshuffle(x_BCHW / size_B[:, None, None, None], 2))
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


class Consistency(Learner):
    """The family: what it learns with, how it learns, and how it samples."""

    condition: ClassVar[str] = "label"
    TRAINS: ClassVar[bool] = True
    ALARMS: ClassVar[dict[str, Alarm]] = {
        "flow": Alarm(0.0, 2.0, "the network does not learn the velocity"),
        "grad_norm": Alarm(0.0, 50.0, "the gradients explode"),
    }
    BATCH: ClassVar[int] = 128
    SAMPLING: ClassVar[frozenset[str]] = frozenset({"steps"})
    config: Config
    network: UNet

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__(config, spec, (0.9, 0.99), network=UNet(config, spec))

    def loss(
        self, batch: Batch, progress: float, network: Callable[..., Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The weighted error, and the errors of velocities and of jumps alone, as means over pixels.

        A row's weight is (its error + FLOOR)^-POWER, so that rows that are far off do not rule the others.
        """
        x_BCHW, y_B = batch.x_BCHW, batch.labels_B
        r = self.config.stride ** min(progress, 1.0)
        e_BCHW = torch.randn_like(x_BCHW)
        t_B = torch.randn(len(x_BCHW), device=x_BCHW.device).sigmoid()
        jumps_B, j_J = self.jumps(len(x_BCHW), x_BCHW.device)
        # Jumps begin anywhere, and so at pure noise too, which flow matching has less to learn at.
        t_B = torch.where(jumps_B, torch.rand_like(t_B), t_B)
        s_B = torch.where(jumps_B, 0.0, t_B)
        v_BCHW = e_BCHW - x_BCHW
        x_t_BCHW = torch.lerp(x_BCHW, e_BCHW, t_B[:, None, None, None])
        # In float32, since the target differs from what is said of x_l by r times a velocity alone.
        aim_BCHW = v_BCHW.clone()
        with torch.no_grad():
            t_J, s_J, v_JCHW = t_B[j_J], s_B[j_J], v_BCHW[j_J]
            l_J = t_J + (s_J - t_J) * r
            x_l_JCHW = x_t_BCHW[j_J] + (l_J - t_J)[:, None, None, None] * v_JCHW
            further_JCHW = network(x_l_JCHW, l_J, s_J, y_B[j_J]).float()
            aim_BCHW[j_J] = torch.lerp(further_JCHW, v_JCHW, r)
        error_B = (network(x_t_BCHW, t_B, s_B, y_B).float() - aim_BCHW).square().mean((1, 2, 3))
        weight_B = (error_B.detach() + FLOOR) ** -POWER
        told_B = error_B.detach()
        parts = told_B[~jumps_B].sum() / max(len(told_B) - len(j_J), 1), told_B[j_J].mean()
        return (weight_B * error_B).mean(), *parts

    def jumps(self, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Which of a batch's rows learn to jump: (B,) bool, and their numbers (J,).

        They lie spread over the batch, so that processes that share it out have as many each.
        """
        share = 1 - self.config.flow
        chosen = [n for n in range(rows) if int((n + 1) * share) > int(n * share)] or [0]
        number_J = torch.tensor(chosen, device=device)
        return torch.zeros(rows, dtype=torch.bool, device=device).index_fill_(0, number_J, True), number_J

    def step(self, batch: Batch, progress: float) -> dict[str, float]:
        """Update once. Draws its noise from torch's global generator of the batch's device."""
        self.pace(progress)
        loss, flow, jump = self.loss(batch, progress, self.through["network"])
        told = {"loss": float(loss.detach()), "flow": float(flow), "jump": float(jump)}
        return told | {"grad_norm": self.descend(loss, clip=1.0)}

    @torch.no_grad()
    def sample(
        self,
        y_B: Tensor | None,
        seeds_B: list[int],
        sources: Sequence[Batch] = (),
        steps: float | None = None,
    ) -> tuple[Tensor, None]:
        """Draw one image per seed.

        Args:
            y_B: int64 labels; None where there are none.
            seeds_B: what each image's noise is drawn from.
            sources: not used; the family is asked with labels.
            steps: evaluations of the network per image. Up to 4 each of them jumps to an image, which is
                made noisy again for the next; more follow the velocity. None: 2.

        Returns:
            uint8 images (B, C, H, W), and no score.
        """
        device, count = self.network.frequency_F.device, int(steps or STEPS)
        shape = (self.spec.channels, self.spec.height, self.spec.width)
        noise = SampleNoise(seeds_B, device)
        x_BCHW = noise.normal(shape)
        y_B = Batch(x_BCHW, None if y_B is None else y_B.to(device)).labels_B

        def say(x_BCHW: Tensor, t: float, s: float) -> Tensor:
            times = (torch.full((len(x_BCHW),), time, device=device) for time in (t, s))
            return self.network(x_BCHW, *times, y_B).float()

        times = [1 - n / count for n in range(count)]
        if count <= JUMPS:
            x_BCHW = leap(say, x_BCHW, times, lambda: noise.normal(shape))
        else:
            x_BCHW = walk(say, x_BCHW, times)
        return eight_bits(x_BCHW).to(torch.uint8), None


def leap(
    say: Callable[[Tensor, float, float], Tensor], x: Tensor, times: list[float], more: Callable[[], Tensor]
) -> Tensor:
    """Take noise `x` to an image in one jump, then make that noisy again, to each of `times`, and jump."""
    for t in times:
        x = x if t == 1 else (1 - t) * x + t * more()
        x = x - t * say(x, t, 0.0)
    return x


def walk(say: Callable[[Tensor, float, float], Tensor], x: Tensor, times: list[float]) -> Tensor:
    """Take noise `x` along the velocity to time 0, with one evaluation for each of `times`.

    Second order by the last two velocities (Adams and Bashforth), the first step by one.
    """
    before = None
    for t, then in pairwise([*times, 0.0]):
        v = say(x, t, t)
        x = x + (then - t) * (v if before is None else 1.5 * v - 0.5 * before)
        before = v
    return x


def build(config: Config, spec: Spec) -> Consistency:
    """Make the family. Raises ValueError unless the sides are multiples of 4 from 8 to 256."""
    spec.demand("consistency", 4)
    return Consistency(config, spec)
