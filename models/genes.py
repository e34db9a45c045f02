"""What images are made from in a family's latent space, read out of real images and expressed again.

A VAE has an encoder. A GAN has none, so its latent is descended to (Zhu et al. 2016, arXiv 1609.03552,
section 3.1). Diffusion runs the equation by which it samples backwards (Song et al. 2021, arXiv 2010.02502,
section 5.4). Genes are about standard normal numbers in each.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from models.families import Batch, load

STEPS = {"vae": 1, "gan": 100, "diffusion": 16}
NEAR = 0.1  # Adam's step towards the latent of a GAN


class Tongue(Protocol):
    """How a family's images are read as genes (B, ...), about standard normal, and genes as images."""

    def read(self, batch: Batch) -> Tensor:
        """The genes of images."""

    def express(self, z: Tensor, y_B: Tensor) -> Tensor:
        """Images (B, C, H, W) of genes, mostly in [-1, 1]."""

    def opinion(self, x_BCHW: Tensor, y_B: Tensor) -> Tensor:
        """The family's own score of images (B,), higher is better; zeros if it has none."""


class OfVAE(NamedTuple):
    """Genes are the mean of q(z | x, y)."""

    family: Any
    steps: int

    def read(self, batch: Batch) -> Tensor:
        """The encoder's word."""
        return self.family.network.encode(batch.x_BCHW, batch.labels_B)[0]

    def express(self, z: Tensor, y_B: Tensor) -> Tensor:
        """The mean of p(x | z, y)."""
        return self.family.network.decode(z, y_B)[0]

    def opinion(self, x_BCHW: Tensor, y_B: Tensor) -> Tensor:
        """The evidence lower bound."""
        return self.family.bound(Batch(x_BCHW, y_B))


class OfGAN(NamedTuple):
    """Genes are the latent whose image comes nearest to the source, found from 0 (Zhu et al. 2016)."""

    family: Any
    steps: int

    def read(self, batch: Batch) -> Tensor:
        """Descend the squared difference of pixels by Adam, each image for itself."""
        device = batch.x_BCHW.device
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            x_BCHW, y_B = batch.x_BCHW.clone(), batch.labels_B.clone()
            z_BZ = torch.zeros(len(x_BCHW), self.family.config.latent, device=device, requires_grad=True)
            adam = torch.optim.Adam([z_BZ], NEAR)
            for _ in range(self.steps):
                apart_B = (self.family.network(z_BZ, y_B) - x_BCHW).square().mean((1, 2, 3))
                (z_BZ.grad,) = torch.autograd.grad(apart_B.sum(), z_BZ)
                adam.step()
        return z_BZ.detach()

    def express(self, z: Tensor, y_B: Tensor) -> Tensor:
        """The generator's image."""
        return self.family.network(z, y_B)

    def opinion(self, x_BCHW: Tensor, y_B: Tensor) -> Tensor:
        """The discriminator's logit."""
        return self.family.discriminator(x_BCHW, y_B)[0]


class OfDiffusion(NamedTuple):
    """Genes are the noise that the probability-flow ODE (Karras et al. 2022, eq. 1) leads to the image."""

    family: Any
    steps: int

    def walk(self, x_BCHW: Tensor, y_B: Tensor, levels: list[float]) -> Tensor:
        """Follow the ODE from levels[0] to levels[-1]."""

        def denoise(x_BCHW: Tensor, sigma: float) -> Tensor:
            sigma_B = torch.full((len(x_BCHW),), sigma, device=x_BCHW.device)
            return self.family.denoise(x_BCHW, sigma_B, y_B, self.family.network)

        return load("diffusion").walk(denoise, x_BCHW, levels)

    def read(self, batch: Batch) -> Tensor:
        """From the image, taken as that at the least level, up to the noise."""
        levels = load("diffusion").sigmas(self.steps)[:-1]
        return self.walk(batch.x_BCHW, batch.labels_B, levels[::-1]) / levels[0]

    def express(self, z: Tensor, y_B: Tensor) -> Tensor:
        """From the noise down to the image."""
        levels = load("diffusion").sigmas(self.steps)
        return self.walk(levels[0] * z, y_B, levels)

    def opinion(self, x_BCHW: Tensor, y_B: Tensor) -> Tensor:
        """It has none."""
        return x_BCHW.new_zeros(len(x_BCHW))


TONGUES: dict[str, Callable[[Any, int], Tongue]] = {"vae": OfVAE, "gan": OfGAN, "diffusion": OfDiffusion}
