"""The peers of benchmarks.families: the same task, solved with two well-known libraries.

diffusers: its UNet2DModel with class labels, about as many parameters as our diffusion family, taught
with DDPMScheduler (v-prediction, cosine noise), averaged by its EMAModel, and sampled by its
DPM-Solver++ in 20 steps. AdamW's settings are those of the library's own training script, but for a
learning rate around 1e-3: its 1e-4 is meant for larger networks and days of training.

pythae: its VAE with its default networks, MLPs, and its GaussianMixtureSampler. It knows no labels. So
one VAE is trained on all images for the whole budget, and one sampler is fitted per class, to where the
encoder puts the images of that class. Its residual networks for MNIST (0.77 million parameters) did
worse than the MLPs (0.83 million) on a CPU: 95.2 % against 96.6 % after 2.5 minutes on one thread, which
were 62,000 and 586,000 images. Its learning rate is that of the library's README.

A peer is asked as a family is: `step`, `finish`, `sample`. Neither package is needed by the rest.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timed import Way
from models.families import Batch, Spec
from models.noise import SampleNoise
from tasks.errors import UserError

STEPS = 20  # of DPM-Solver++
SHAPES = ((1, 2, 2), (1, 1, 2), (1, 2, 4))  # widths of the levels, finest first; the last one goes on
TOLERANCE = 0.1  # how far the peer's parameters may be from ours, as a share of ours
LATENT, COMPONENTS = 16, 10  # pythae's numbers for MNIST, and of its sampler


class Diffusers:
    """UNet2DModel, DDPMScheduler, EMAModel and DPMSolverMultistepScheduler, put together as documented."""

    PACKAGE, LR = "diffusers", 1e-3

    def __init__(self, spec: Spec, lr: float, parameters: int) -> None:
        from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
        from diffusers.training_utils import EMAModel

        def count(config: Mapping[str, Any]) -> int:
            with torch.device("meta"), warnings.catch_warnings(action="ignore"):
                return size(UNet2DModel(**config))

        self.spec, self.lr = spec, lr
        self.network: Any = UNet2DModel(**match(parameters, unets(spec), count))
        self.noising = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
        # The bound is what its documentation asks for with cosine noise.
        self.solver = DPMSolverMultistepScheduler.from_config(self.noising.config, lambda_min_clipped=-5.1)
        self.adam = torch.optim.AdamW(self.network.parameters(), lr, betas=(0.95, 0.999), weight_decay=1e-6)
        self.ema = EMAModel(self.network.parameters(), use_ema_warmup=True, power=0.75, foreach=True)

    def to(self, way: Way) -> None:
        """Move all to the device and layout."""
        way.device.place(self.network, way.layout)
        self.ema.to(way.device.kind)

    def loss(self, batch: Batch) -> Tensor:
        """The error in predicting v (Salimans & Ho 2022), averaged over images and pixels."""
        noise_BCHW = torch.randn_like(batch.x_BCHW)
        t_B = torch.randint(1000, (len(noise_BCHW),), device=noise_BCHW.device)
        noisy_BCHW = self.noising.add_noise(batch.x_BCHW, noise_BCHW, t_B)
        aim_BCHW = self.noising.get_velocity(batch.x_BCHW, noise_BCHW, t_B)
        said_BCHW = self.network(noisy_BCHW, t_B, class_labels=batch.y_B).sample
        return F.mse_loss(said_BCHW.float(), aim_BCHW)

    def after(self) -> None:
        """Take the last step into the average."""
        self.ema.step(self.network.parameters())

    def finish(self, batches: Iterable[Batch], way: Way) -> None:
        """Sample with the averaged weights from now on."""
        self.ema.copy_to(self.network.parameters())
        way.device.place(self.network, way.layout).eval()

    def sample(self, y_B: Tensor | None, seeds_B: list[int]) -> tuple[Tensor, None]:
        """One uint8 image (B, C, H, W) per seed, and no score."""
        kind = self.network.device
        shape = (self.spec.channels, self.spec.height, self.spec.width)
        x_BCHW = SampleNoise(seeds_B, kind).normal(shape)
        self.solver.set_timesteps(STEPS, device=kind)
        for t in self.solver.timesteps:
            v_BCHW = self.network(x_BCHW, t, class_labels=y_B).sample.float()
            x_BCHW = self.solver.step(v_BCHW, t, x_BCHW).prev_sample
        return grey_levels(x_BCHW * 0.5 + 0.5), None


class Pythae:
    """One VAE for all classes, and one GaussianMixtureSampler for each."""

    PACKAGE, LR = "pythae", 1e-3

    def __init__(self, spec: Spec, lr: float, parameters: int) -> None:
        from pythae.models import VAE, VAEConfig

        shape = (spec.channels, spec.height, spec.width)
        config = VAEConfig(input_dim=shape, latent_dim=LATENT, reconstruction_loss="bce")
        self.lr, self.samplers = lr, dict[int, Any]()
        self.network: Any = VAE(config)
        # pythae leaves the loss in the network's precision, in which torch has no cross-entropy.
        plain = self.network.loss_function
        self.network.loss_function = lambda rebuilt, *rest: plain(rebuilt.float(), *rest)
        self.adam = torch.optim.Adam(self.network.parameters(), lr)

    def to(self, way: Way) -> None:
        """Move all to the device and layout."""
        way.device.place(self.network, way.layout)

    def loss(self, batch: Batch) -> Tensor:
        """The evidence lower bound, turned round: nats per image."""
        return self.network({"data": batch.x_BCHW * 0.5 + 0.5}).loss

    def after(self) -> None:
        """Nothing to do after a step."""

    @torch.no_grad()
    def finish(self, batches: Iterable[Batch], way: Way) -> None:
        """Fit a sampler to each class's images, or one to all where there are no labels."""
        from pythae.samplers import GaussianMixtureSampler, GaussianMixtureSamplerConfig

        seen = list(batches)
        x_NCHW = torch.cat([b.x_BCHW for b in seen]) * 0.5 + 0.5
        y_N = torch.cat([torch.zeros(len(b.x_BCHW)) if b.y_B is None else b.y_B.cpu() for b in seen])
        for label in y_N.unique().tolist():
            of_class = x_NCHW[y_N.to(x_NCHW.device) == label]
            config = GaussianMixtureSamplerConfig(n_components=min(COMPONENTS, max(1, len(of_class) // 8)))
            sampler = GaussianMixtureSampler(self.network, config)
            self.network.to(way.device.kind)  # the sampler takes a GPU wherever it sees one
            self.network.device = sampler.device = way.device.kind
            sampler.fit(of_class / of_class.max())  # it refuses images without a white pixel
            self.samplers[int(label)] = sampler
        way.device.place(self.network, way.layout).eval()

    def sample(self, y_B: Tensor | None, seeds_B: list[int]) -> tuple[Tensor, None]:
        """One uint8 image (B, C, H, W) per label, and no score. A batch is drawn by its first seed."""
        y_B = torch.zeros(len(seeds_B), dtype=torch.long) if y_B is None else y_B.cpu()
        drawn: dict[int, Iterator[Tensor]] = {}
        random = np.random.RandomState(np.random.Philox(key=seeds_B[0]))
        for label, count in zip(*(t.tolist() for t in y_B.unique(return_counts=True)), strict=True):
            self.samplers[label].gmm.random_state = random
            x_BCHW = self.samplers[label].sample(count, batch_size=count)
            drawn[label] = iter(x_BCHW[torch.from_numpy(random.permutation(count))])  # by component till here
        return grey_levels(torch.stack([next(drawn[label]) for label in y_B.tolist()])), None


PEERS: dict[str, type[Diffusers] | type[Pythae]] = {"diffusers": Diffusers, "pythae": Pythae}


def missing(name: str) -> str | None:
    """Why the peer can't take part, and the mend, in one line; None if it can."""
    try:
        version(PEERS[name].PACKAGE)
        __import__(PEERS[name].PACKAGE)
    except (ImportError, PackageNotFoundError) as error:
        return f"{name}: skipped ({error}). To take it in: pip install {PEERS[name].PACKAGE}"
    return None


def unets(spec: Spec) -> Iterator[dict[str, Any]]:
    """UNet2DModel configs for such images, with attention at the coarsest level.

    Those that compute fast come first: with few layers, and widths that kernels like. Levels halve the
    sides while they are even and above 4, so 28 x 28 needs no padding.
    """
    side, depth = min(spec.height, spec.width), 1
    while side % 2 == 0 and side > 4:
        side, depth = side // 2, depth + 1
    for layers, each, shape in product((1, 2), (16, 8, 4), SHAPES):
        for width in range(each, 260, each):
            yield {
                "sample_size": (spec.height, spec.width),
                "in_channels": spec.channels,
                "out_channels": spec.channels,
                "down_block_types": ("DownBlock2D",) * (depth - 1) + ("AttnDownBlock2D",),
                "up_block_types": ("AttnUpBlock2D",) + ("UpBlock2D",) * (depth - 1),
                "block_out_channels": tuple(width * shape[min(n, 2)] for n in range(depth)),
                "layers_per_block": layers,
                "norm_num_groups": 4,
                "num_class_embeds": spec.classes or None,
            }


def match(
    parameters: int, configs: Iterable[dict[str, Any]], count: Callable[[Mapping[str, Any]], int]
) -> dict[str, Any]:
    """The first config with about as many `parameters`: within TOLERANCE. Raises UserError if none is."""
    for config in configs:
        if abs(count(config) - parameters) <= TOLERANCE * parameters:
            return config
    raise UserError(f"no network has {parameters:,} parameters, or a number within {TOLERANCE:.0%} of it")


def size(network: nn.Module) -> int:
    """How many parameters a network has."""
    return sum(p.numel() for p in network.parameters())


def grey_levels(x_BCHW: Tensor) -> Tensor:
    """Images in [0, 1] as uint8; what is no number is black."""
    return (x_BCHW.float().nan_to_num() * 255).round().clamp(0, 255).to(torch.uint8)
