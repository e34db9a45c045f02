"""PixelRNN: an image drawn pixel by pixel by a recurrent net (van den Oord et al. 2016, arXiv 1601.06759).

p(x) is the product over pixels, row by row, of p(pixel | all before it) (eq. 1), so that the likelihood
is exact. The core is the Row LSTM of section 3.1: a hidden state for each column, carried down the rows
by a convolution along the row. Instead of masking kernels, they are cut to what they may see. A pixel's
colours are one mixture of discretised logistics (Salimans et al. 2017, arXiv 1701.05517), which costs
far less than 256 classes for each.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.families import Alarm, Batch, Spec
from models.learning import Learner
from models.logistic import log_logistic
from models.noise import SampleNoise
from models.pixels import eight_bits

ABOVE, BESIDE = 3, 3  # rows above, and pixels to either side, that the first layer sees (a 7 x 7 kernel)


class Config(BaseModel):
    """What decides the weights that training arrives at.

    hidden: size of each column's state, and channels between layers.
    layers: Row LSTMs, one on the other.
    mixtures: logistics in each pixel's mixture. More tell likelihoods better, and take longer until their
        samples are as good.
    lr: Adam's learning rate at its height; it warms up first, and falls to 0 along a cosine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: int = Field(64, ge=8, le=1024)
    layers: int = Field(2, ge=1, le=16)
    mixtures: int = Field(1, ge=1, le=100)
    lr: float = Field(8e-3, gt=0)


class RowLSTM(nn.Module):
    """One layer: gates from this row's pixels up to each column, and from the row above around it (eq. 3)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        # Of the pixel to the left, the pixel itself, and the states above left, above and above right.
        self.gates = nn.Linear(5 * hidden, 4 * hidden)
        self.hidden = hidden

    def forward(self, x_HBWD: Tensor) -> Tensor:
        """Map (H, B, W, D) to the same shape; row i of the result knows nothing of rows below i.

        What the gates get from the layer's input is computed for all rows at once, ahead of the recurrence.
        """
        H, B, W, D = x_HBWD.shape
        left_HBWD = F.pad(x_HBWD, (0, 0, 1, 0))[:, :, :-1]
        from_input, from_state = self.gates.weight.split([2 * D, 3 * D], dim=1)
        told_HNG = F.linear(torch.cat([left_HBWD, x_HBWD], dim=3), from_input, self.gates.bias)
        from_state, state, rows = from_state.T.to(told_HNG.dtype), self.start(x_HBWD[0]), []
        for told_NG in told_HNG.reshape(H, B * W, 4 * D).unbind(0):
            seen_NE = torch.cat(around(state.h), dim=2).reshape(B * W, 3 * D)
            gates_BWG = torch.addmm(told_NG, seen_NE, from_state).reshape(B, W, 4 * D)
            state = self.update(gates_BWG, state)
            rows.append(state.h)
        return x_HBWD + torch.stack(rows)

    def start(self, like_BWD: Tensor) -> "State":
        """The state above the first row."""
        c_BWD = torch.zeros_like(like_BWD, dtype=torch.promote_types(like_BWD.dtype, torch.float32))
        return State(torch.zeros_like(like_BWD), c_BWD)

    @staticmethod
    def update(gates: Tensor, state: "State") -> "State":
        """One step of the recurrence: gates (..., 4 D) and a state of (..., D) to the next state (eq. 3)."""
        D = state.h.shape[-1]
        o, f, i = gates[..., : 3 * D].sigmoid().chunk(3, dim=-1)
        c = f * state.c + i * gates[..., 3 * D :].tanh()
        return State(o * c.to(o.dtype).tanh(), c)


def around(h_BWD: Tensor) -> list[Tensor]:
    """For each column, what stands to the left of it, in it, and to the right: three of (B, W, D)."""
    wide_BWD = F.pad(h_BWD, (0, 0, 1, 1))
    return [wide_BWD[:, :-2], h_BWD, wide_BWD[:, 2:]]


class State(NamedTuple):
    """Hidden and cell state."""

    h: Tensor
    c: Tensor


class Network(nn.Module):
    """Image to the parameters of each pixel's mixture, every pixel from those before it alone."""

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__()
        C, D, M = spec.channels, config.hidden, config.mixtures
        self.above = nn.Conv2d(C, D, (ABOVE, 2 * BESIDE + 1))
        self.left = nn.Conv2d(C, D, (1, BESIDE), bias=False)
        self.layers = nn.ModuleList(RowLSTM(D) for _ in range(config.layers))
        self.embed_label = nn.Embedding(max(spec.classes, 1), config.layers * D)
        for layer in self.layers:  # start by remembering (Jozefowicz et al. 2015)
            nn.init.constant_(cast(RowLSTM, layer).gates.bias[D : 2 * D], 1.0)
        self.hidden = nn.Linear(D, D)
        self.out = nn.Linear(D, M * (1 + 2 * C + C * (C - 1) // 2))

    def forward(self, x_BCHW: Tensor, y_B: Tensor) -> Tensor:
        """Map images in [-1, 1] and labels to (B, H, W, parameters), float32."""
        above_BDHW = self.above(F.pad(x_BCHW, (BESIDE, BESIDE, ABOVE, 0)))[:, :, :-1]
        left_BDHW = self.left(F.pad(x_BCHW, (BESIDE, 0)))[..., :-1]
        h_HBWD = (above_BDHW + left_BDHW).permute(2, 0, 3, 1).contiguous()
        for layer, label_BD in zip(
            self.layers, self.embed_label(y_B).chunk(len(self.layers), 1), strict=True
        ):
            h_HBWD = layer(h_HBWD + label_BD[:, None].to(h_HBWD.dtype))
        return self.head(h_HBWD.transpose(0, 1)).float()

    def head(self, h: Tensor) -> Tensor:
        """The last layers, pixel by pixel: (..., D) to (..., parameters)."""
        return self.out(F.silu(self.hidden(F.silu(h))))


class Mixture(NamedTuple):
    """A mixture of logistics a pixel: logits (..., M), means, log-scales and colour terms (..., M, .)."""

    logits: Tensor
    means: Tensor
    log_scales: Tensor
    colours: Tensor


def mixture(parameters: Tensor, channels: int) -> Mixture:
    """Cut what the network says of each pixel, (..., parameters), into its mixture."""
    each = (1, channels, channels, channels * (channels - 1) // 2)
    split = parameters.unflatten(-1, (-1, sum(each))).split(each, dim=-1)
    return Mixture(split[0][..., 0], split[1], (split[2] - 1).clamp(-7.0, 7.0), split[3].tanh())


def shifted(means: Tensor, colours: Tensor, x: Tensor) -> Tensor:
    """Each logistic's means, moved by the colours before (Salimans et al. 2017, eq. 3): x is (..., 1, C)."""
    if means.shape[-1] == 1:
        return means
    red, green, blue = means.unbind(-1)
    a, b, c = colours.unbind(-1)
    return torch.stack([red, green + a * x[..., 0], blue + b * x[..., 0] + c * x[..., 1]], dim=-1)


def log_likelihood(parameters: Tensor, x: Tensor) -> Tensor:
    """ln p of each pixel (...), of its colours x (..., C) under the mixture that the network gives it."""
    found, x = mixture(parameters, x.shape[-1]), x[..., None, :]
    each = log_logistic(x, shifted(found.means, found.colours, x), found.log_scales).sum(-1)
    return torch.logsumexp(found.logits.log_softmax(-1) + each, dim=-1)


def draw(parameters: Tensor, u: Tensor) -> Tensor:
    """Draw each pixel's colours (..., C) on the 256 levels in [-1, 1], by uniform numbers u (..., 1 + C)."""
    found = mixture(parameters, u.shape[-1] - 1)
    chosen = (u[..., :1] >= found.logits.softmax(-1).cumsum(-1)[..., :-1]).sum(-1)
    one = (torch.arange(found.logits.shape[-1], device=u.device) == chosen[..., None])[..., None]
    means, scales, colours = (
        torch.where(one, p, 0).sum(-2) for p in (found.means, found.log_scales, found.colours)
    )
    noise = scales.exp() * u[..., 1:].clamp(1e-5, 1 - 1e-5).logit()
    x = torch.zeros_like(means)
    for channel in range(means.shape[-1]):
        at = shifted(means, colours, x)[..., channel] + noise[..., channel]
        level = ((at + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1
        x = torch.cat([x[..., :channel], level[..., None], x[..., channel + 1 :]], dim=-1)
    return x


class PixelRNN(Learner):
    """The family: what it learns with, how it learns, and how it samples."""

    condition: ClassVar[str] = "label"
    TRAINS: ClassVar[bool] = True
    ALARMS: ClassVar[dict[str, Alarm]] = {
        "loss": Alarm(0.0, 8.0, "it knows less than one who guesses all grey levels alike"),
        "grad_norm": Alarm(0.0, 1e5, "the gradients explode, so that clipping leaves only their noise"),
    }
    BATCH: ClassVar[int] = 16
    SAMPLING: ClassVar[frozenset[str]] = frozenset()
    config: Config
    network: Network

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__(config, spec, (0.9, 0.99), network=Network(config, spec))

    def bits(self, batch: Batch, network: Callable[..., Tensor]) -> Tensor:
        """Bits per dimension of each image (B,): its exact negative log-likelihood, base 2, per number."""
        nats_BHW = -log_likelihood(network(batch.x_BCHW, batch.labels_B), batch.x_BCHW.permute(0, 2, 3, 1))
        return nats_BHW.sum((1, 2)) / batch.x_BCHW[0].numel() / math.log(2)

    def step(self, batch: Batch, progress: float) -> dict[str, float]:
        """Update once on the mean bits per dimension, the gradient clipped as recurrent networks need."""
        self.pace(progress)
        loss = self.bits(batch, self.through["network"]).mean()
        return {"loss": float(loss.detach()), "grad_norm": self.descend(loss, clip=1.0)}

    @torch.no_grad()
    def bits_per_dim(self, batch: Batch) -> float:
        """The images' exact cost in bits per number."""
        return float(self.bits(batch, self.network).mean())

    @torch.no_grad()
    def sample(
        self, y_B: Tensor | None, seeds_B: list[int], sources: Sequence[Batch] = ()
    ) -> tuple[Tensor, Tensor]:
        """Draw one image per seed, pixel by pixel.

        Computed in float64 whatever the precision: a drawn pixel decides all that follow, so a digit
        that a kernel rounds away at another batch size would end in another image.

        Args:
            y_B: int64 labels; None where there are none.
            seeds_B: what each image's pixels are drawn by.
            sources: not used; the family is asked with labels.

        Returns:
            uint8 images (B, C, H, W), and the exact log-likelihood of each (B,), in bits per dimension:
            0 is certain, and lower is less likely.
        """
        device = self.lr_factor.device
        C, H, W = self.spec.channels, self.spec.height, self.spec.width
        u_BHWU = SampleNoise(seeds_B, device).uniform((H, W, 1 + C)).double()
        y_B = torch.zeros(len(seeds_B), dtype=torch.long, device=device) if y_B is None else y_B.to(device)
        with torch.autocast(device.type, enabled=False):
            x_BCHW, nats_B = trace(copy.deepcopy(self.network).double(), y_B, u_BHWU)
        bits_B = nats_B / (C * H * W * math.log(2))
        return eight_bits(x_BCHW).to(torch.uint8), bits_B.float()


def trace(network: Network, y_B: Tensor, u_BHWU: Tensor) -> tuple[Tensor, Tensor]:
    """Draw images (B, C, H, W) by the network, each pixel from its uniform numbers, and ln p of each (B,).

    Does once a row what only the rows above decide, so that a pixel costs a pixel's work.
    """
    B, H, W, U = u_BHWU.shape
    C, layers = U - 1, cast(list[RowLSTM], list(network.layers))
    labels = network.embed_label(y_B).chunk(len(layers), dim=1)
    canvas_BCHW = u_BHWU.new_zeros(B, C, ABOVE + H, 2 * BESIDE + W)
    nats_B = u_BHWU.new_zeros(B)
    zero_BWD = u_BHWU.new_zeros(B, W, network.hidden.in_features)
    states = [State(zero_BWD, zero_BWD) for _ in layers]
    for row in range(H):
        above_BDW = network.above(canvas_BCHW[:, :, row : row + ABOVE])[:, :, 0]
        told = [
            torch.cat(around(state.h), dim=2) @ layer.gates.weight[:, 2 * layer.hidden :].T + layer.gates.bias
            for layer, state in zip(layers, states, strict=True)
        ]
        lefts = [zero_BWD[:, 0]] * len(layers)
        drawn: list[list[State]] = [[] for _ in layers]
        for column in range(W):
            beside_BCW = canvas_BCHW[:, :, ABOVE + row, column : column + BESIDE]
            h_BD = above_BDW[:, :, column] + beside_BCW.flatten(1) @ network.left.weight[:, :, 0].flatten(1).T
            for n, layer in enumerate(layers):
                h_BD = h_BD + labels[n]
                seen_BE = torch.cat([lefts[n], h_BD], dim=1)
                gates_BG = seen_BE @ layer.gates.weight[:, : 2 * layer.hidden].T + told[n][:, column]
                state = State(states[n].h[:, column], states[n].c[:, column])
                drawn[n].append(layer.update(gates_BG, state))
                lefts[n], h_BD = h_BD, h_BD + drawn[n][-1].h
            parameters_BP = network.head(h_BD)
            x_BC = draw(parameters_BP, u_BHWU[:, row, column])
            nats_B += log_likelihood(parameters_BP, x_BC)
            canvas_BCHW[:, :, ABOVE + row, BESIDE + column] = x_BC
        states = [State(*(torch.stack(part, dim=1) for part in zip(*d, strict=True))) for d in drawn]
    return canvas_BCHW[:, :, ABOVE:, BESIDE:-BESIDE], nats_B


def build(config: Config, spec: Spec) -> PixelRNN:
    """Make the family. Raises ValueError unless the sides are from 8 to 256."""
    spec.demand("pixelrnn")
    return PixelRNN(config, spec)
