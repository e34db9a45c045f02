"""Variational autoencoder, class-conditional where there are labels (Kingma & Welling 2014, arXiv 1312.6114).

An encoder q(z | x, y) and a decoder p(x | z, y) are trained on the evidence lower bound; equations by
that paper's numbers. What is drawn from the prior p(z) = N(0, 1) often falls where no image was ever
encoded; so samples come from a mixture of Gaussians that is fitted, class by class, to where the
encoder did put the training images (the aggregated posterior: Ghosh et al. 2020, arXiv 1903.12436).
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models import features
from models.families import Alarm, Batch, Spec
from models.learning import Learner
from models.logistic import log_logistic
from models.mixture import fit_mixture
from models.noise import SampleNoise
from models.pixels import eight_bits

LN_2PI = math.log(2 * math.pi)
FOLD = 4  # pixels a side that become channels: shapes are learnt as well, four times as fast as by 2


class Config(BaseModel):
    """What decides the weights that training arrives at, and how samples are drawn from them.

    latent: numbers that an image is made from, beside its label.
    width: channels at the finest level; coarser levels have twice as many.
    lr: Adam's learning rate at its height; it warms up first, and falls to 0 along a cosine.
    likelihood: `gaussian` (L2 reconstruction) with one learned deviation for all pixels (Rybkin et al. 2021,
        arXiv 2006.13202), or `logistic`, discretised, with a learned scale for each pixel (Salimans et al.
        2017, arXiv 1701.05517, eq. 1), which alone bounds bits per dimension.
    perceptual: weight of the perceptual distance that is added to the reconstruction, of the decoder's
        mean; it needs the packages of the extra `features`.
    beta: weight of the KL term (Higgins et al. 2017); 1 is the evidence lower bound itself, and less
        rebuilds more sharply, which the mixture can afford.
    kl_warm_up: share of the training over which beta rises from 0.
    free_bits: nats per latent number below which the KL term does not press (Kingma et al. 2016,
        arXiv 1606.04934, eq. 16), against posterior collapse.
    prior: sample from the `mixture` on the aggregated posterior, or from the `normal` prior.
    components: Gaussians of the mixture, for each class.
    noise: add the likelihood's own noise to samples; without it a sample is the likelihood's mean.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    latent: int = Field(16, ge=1, le=1024)
    width: int = Field(32, ge=16, le=512, multiple_of=16)
    lr: float = Field(4e-3, gt=0)
    likelihood: Literal["gaussian", "logistic"] = "gaussian"
    perceptual: float = Field(0.0, ge=0)
    beta: float = Field(0.5, ge=0)
    kl_warm_up: float = Field(0.1, ge=0, le=1)
    free_bits: float = Field(0.0, ge=0)
    prior: Literal["mixture", "normal"] = "mixture"
    components: int = Field(8, ge=1, le=256)
    noise: bool = False


class Block(nn.Module):
    """Residual block of two convolutions; in the decoder the embedding scales and shifts between them."""

    def __init__(self, c_in: int, c_out: int, c_emb: int = 0) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(c_in // 16, c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.affine = nn.Linear(c_emb, 2 * c_out) if c_emb else None
        self.norm2 = nn.GroupNorm(c_out // 16, c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x_BCHW: Tensor, emb_BE: Tensor | None = None) -> Tensor:
        """Map (B, c_in, H, W) to (B, c_out, H, W)."""
        h_BCHW = self.norm2(self.conv1(F.silu(self.norm1(x_BCHW))))
        if self.affine is not None:
            scale_BC11, shift_BC11 = self.affine(emb_BE)[..., None, None].chunk(2, dim=1)
            h_BCHW = torch.addcmul(shift_BC11, h_BCHW, 1 + scale_BC11)
        return self.skip(x_BCHW) + self.conv2(F.silu(h_BCHW))


class Network(nn.Module):
    """Encoder and decoder, on 4 x 4 pixels folded into channels."""

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__()
        sides, widths = (spec.height // FOLD, spec.width // FOLD), [config.width]
        while all(side % 2 == 0 and side > 4 for side in sides):
            sides = (sides[0] // 2, sides[1] // 2)
            widths.append(2 * config.width)
        self.base, c_emb, coarse = sides, 2 * config.width, widths[-1]
        self.embed_label = nn.Embedding(max(spec.classes, 1), c_emb)
        self.encode_in = nn.Conv2d(FOLD**2 * spec.channels, config.width, 3, padding=1)
        self.encoder = nn.ModuleList(Block(a, b, c_emb) for a, b in pairwise([config.width, *widths]))
        self.encode_out = nn.Linear(coarse * math.prod(sides), 2 * config.latent)
        self.embed = nn.Linear(config.latent + c_emb, c_emb)
        self.start = nn.Linear(c_emb, coarse * math.prod(sides))
        self.decoder = nn.ModuleList(Block(a, b, c_emb) for a, b in pairwise([coarse, *widths[::-1]]))
        self.norm_out = nn.GroupNorm(config.width // 16, config.width)
        heads = 2 if config.likelihood == "logistic" else 1
        self.decode_out = nn.Conv2d(config.width, heads * FOLD**2 * spec.channels, 3, padding=1)
        self.log_scale = nn.Parameter(torch.tensor(-1.0))
        for block in [*self.encoder, *self.decoder]:
            nn.init.zeros_(cast(Block, block).conv2.weight)
        nn.init.zeros_(self.encode_out.weight)
        nn.init.zeros_(self.encode_out.bias)

    def encode(self, x_BCHW: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x, y), (B, latent) each, float32."""
        h_BCHW, emb_BE = self.encode_in(F.pixel_unshuffle(x_BCHW, FOLD)), self.embed_label(y_B)
        for number, block in enumerate(self.encoder):
            h_BCHW = block(F.avg_pool2d(h_BCHW, 2) if number else h_BCHW, emb_BE)
        mean_BZ, log_var_BZ = self.encode_out(F.silu(h_BCHW.flatten(1))).float().chunk(2, dim=1)
        return mean_BZ, log_var_BZ.clamp(-12, 4)

    def decode(self, z_BZ: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-scale of p(x | z, y), float32: (B, C, H, W), or for the scale ()."""
        emb_BE = F.silu(self.embed(torch.cat([z_BZ, self.embed_label(y_B)], dim=1)))
        h_BCHW = self.start(emb_BE).unflatten(1, (-1, *self.base))
        for number, block in enumerate(self.decoder):
            h_BCHW = block(F.interpolate(h_BCHW, scale_factor=2.0) if number else h_BCHW, emb_BE)
        out_BCHW = F.pixel_shuffle(self.decode_out(F.silu(self.norm_out(h_BCHW))), FOLD).float()
        if out_BCHW.shape[1] in (1, 3):
            return out_BCHW.tanh(), self.log_scale.clamp(min=-5.0)
        mean_BCHW, scale_BCHW = out_BCHW.chunk(2, dim=1)
        return mean_BCHW.tanh(), (scale_BCHW + self.log_scale).clamp(-6.0, 2.0)

    def forward(self, x_BCHW: Tensor, y_B: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Both, z drawn as in eq. 10: mean and log-variance of q, mean and log-scale of p."""
        mean_BZ, log_var_BZ = self.encode(x_BCHW, y_B)
        z_BZ = mean_BZ + (log_var_BZ / 2).exp() * torch.randn_like(mean_BZ)
        return mean_BZ, log_var_BZ, *self.decode(z_BZ, y_B)


def divergence(mean_BZ: Tensor, log_var_BZ: Tensor) -> Tensor:
    """KL(q || N(0, 1)) of each latent number, in nats (eq. 10, and appendix B)."""
    return (mean_BZ**2 + log_var_BZ.exp() - 1 - log_var_BZ) / 2


def log_gaussian(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """ln N(x; mean, exp(log_scale)^2), elementwise."""
    return -(((x - mean) * (-log_scale).exp()) ** 2) / 2 - log_scale - LN_2PI / 2


class VAE(Learner):
    """The family: what it learns with, how it learns, and how it samples."""

    condition: ClassVar[str] = "label"
    TRAINS: ClassVar[bool] = True
    ALARMS: ClassVar[dict[str, Alarm]] = {
        "kl": Alarm(
            0.1, math.inf, "the posterior has collapsed: the latent says nothing of the image", "lower beta"
        ),
        "loss": Alarm(-20.0, 20.0, "the reconstruction does not learn"),
        "grad_norm": Alarm(0.0, 1e4, "the gradients explode, so that clipping leaves only their noise"),
    }
    BATCH: ClassVar[int] = 128
    SAMPLING: ClassVar[frozenset[str]] = frozenset()
    config: Config
    network: Network

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__(config, spec, (0.9, 0.99), network=Network(config, spec))
        K, M, Z = max(spec.classes, 1), config.components, config.latent
        self.share_KM: Tensor
        self.register_buffer("share_KM", torch.full((K, M), 1 / M))
        self.centre_KMZ: Tensor
        self.register_buffer("centre_KMZ", torch.zeros(K, M, Z))
        self.spread_KMZZ: Tensor  # lower triangular, of covariance = spread spread^T
        self.register_buffer("spread_KMZZ", torch.eye(Z).repeat(K, M, 1, 1))

    def log_likelihood(self, x_BCHW: Tensor, mean_BCHW: Tensor, scale_BCHW: Tensor) -> Tensor:
        """ln p(x | z, y) of each image (B,): in nats, summed over its pixels."""
        each = log_gaussian if self.config.likelihood == "gaussian" else log_logistic
        return each(x_BCHW, mean_BCHW, scale_BCHW).sum((1, 2, 3))

    def step(self, batch: Batch, progress: float) -> dict[str, float]:
        """Update once on the evidence lower bound (eq. 3 and 10), the KL term weighted."""
        self.pace(progress)
        mean_BZ, log_var_BZ, *image = self.through["network"](batch.x_BCHW, batch.labels_B)
        rebuilt_B = self.log_likelihood(batch.x_BCHW, *image)
        kl_BZ = divergence(mean_BZ, log_var_BZ)
        beta = self.config.beta
        if self.config.kl_warm_up:
            beta *= min(1.0, progress / self.config.kl_warm_up)
        pressed = kl_BZ.mean(0).clamp(min=self.config.free_bits).sum()
        loss = (beta * pressed - rebuilt_B.mean()) / batch.x_BCHW[0].numel()
        if self.config.perceptual:
            apart_B = features.perceptual_distance(image[0], batch.x_BCHW)
            loss = loss + self.config.perceptual * apart_B.mean()
        found = {"loss": loss, "kl": kl_BZ.sum(1).mean(), "reconstruction": -rebuilt_B.mean()}
        told = {name: float(value.detach()) for name, value in found.items()}
        return told | {"grad_norm": self.descend(loss, clip=1.0)}

    @torch.no_grad()
    def finish(self, batches: Any) -> None:
        """Fit each class's mixture to where the encoder puts the training images."""
        said = [(*self.network.encode(b.x_BCHW, b.labels_B), b.labels_B) for b in batches]
        mean_NZ, log_var_NZ, y_N = (torch.cat(parts).cpu() for parts in zip(*said, strict=True))
        for label in range(len(self.share_KM)):
            of_class = y_N == label
            if of_class.any():
                mixture = fit_mixture(mean_NZ[of_class], log_var_NZ[of_class].exp(), self.config.components)
                for buffer, found in zip(
                    (self.share_KM, self.centre_KMZ, self.spread_KMZZ), mixture, strict=True
                ):
                    buffer[label] = found

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
            uint8 images (B, C, H, W), and the evidence lower bound of each in nats (B,), at q's mean.
        """
        device = self.lr_factor.device
        y_B = torch.zeros(len(seeds_B), dtype=torch.long, device=device) if y_B is None else y_B.to(device)
        noise = SampleNoise(seeds_B, device)
        z_BZ = noise.normal((self.config.latent,))
        if self.config.prior == "mixture":
            limits_BM = self.share_KM[y_B].cumsum(1)
            limits_BM = limits_BM / limits_BM[:, -1:]  # the last with a share ends at 1 exactly
            chosen_B = (noise.uniform((1,)) >= limits_BM[:, :-1]).sum(1)
            z_BZ1 = self.spread_KMZZ[y_B, chosen_B] @ z_BZ[..., None]
            z_BZ = self.centre_KMZ[y_B, chosen_B] + z_BZ1.float()[..., 0]
        mean_BCHW, scale_BCHW = self.network.decode(z_BZ, y_B)
        x_BCHW = mean_BCHW
        if self.config.noise and self.config.likelihood == "gaussian":
            x_BCHW = mean_BCHW + scale_BCHW.exp() * noise.normal(tuple(mean_BCHW.shape[1:]))
        elif self.config.noise:
            x_BCHW = mean_BCHW + scale_BCHW.exp() * noise.uniform(tuple(mean_BCHW.shape[1:])).logit(1e-5)
        x_BCHW = eight_bits(x_BCHW)
        return x_BCHW.to(torch.uint8), self.bound(Batch(x_BCHW / 127.5 - 1, y_B))

    def bound(self, batch: Batch) -> Tensor:
        """The evidence lower bound of each image in nats (B,), with z at q's mean instead of drawn."""
        mean_BZ, log_var_BZ = self.network.encode(batch.x_BCHW, batch.labels_B)
        image = self.network.decode(mean_BZ, batch.labels_B)
        return self.log_likelihood(batch.x_BCHW, *image) - divergence(mean_BZ, log_var_BZ).sum(1)

    @torch.no_grad()
    def bits_per_dim(self, batch: Batch) -> float | None:
        """An upper bound of the images' cost in bits per number, z drawn once; None for densities."""
        if self.config.likelihood == "gaussian":
            return None
        mean_BZ, log_var_BZ, *image = self.network(batch.x_BCHW, batch.labels_B)
        nats_B = divergence(mean_BZ, log_var_BZ).sum(1) - self.log_likelihood(batch.x_BCHW, *image)
        return float(nats_B.mean()) / batch.x_BCHW[0].numel() / math.log(2)

    @torch.no_grad()
    def interpolate(self, a: Batch, b: Batch, weights: list[float]) -> Tensor:
        """Walk from images `a` to images `b` through the latent space: uint8 (len(weights), B, C, H, W).

        Weight 0 rebuilds `a`, weight 1 rebuilds `b`; the walk keeps to the labels of `a`.
        """
        (from_BZ, _), (to_BZ, _) = (self.network.encode(e.x_BCHW, e.labels_B) for e in (a, b))
        steps = [self.network.decode(torch.lerp(from_BZ, to_BZ, w), a.labels_B)[0] for w in weights]
        return eight_bits(torch.stack(steps)).to(torch.uint8)


def build(config: Config, spec: Spec) -> VAE:
    """Make the family.

    Raises ValueError unless the sides are multiples of 4 from 8 to 256, and the packages are here that a
    perceptual distance needs.
    """
    spec.demand("vae", 4)
    if config.perceptual:
        features.require()
    return VAE(config, spec)
