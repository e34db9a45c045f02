"""Style transfer: what a source shows, painted as another image is.

Gatys, Ecker & Bethge 2016 ("Image style transfer using convolutional neural networks", CVPR; "G" below):
the pixels themselves are optimised until the features of a trained network agree with the source's where
they lie, and with the style's in how they occur together, by Gram matrices. Huang & Belongie 2017 (arXiv
1703.06868; "H"): one pass instead, which gives the source's features the style's means and deviations
(AdaIN) and decodes them. Either takes as style an image of reference, or another source of the class.

The network is VGG-19 in both papers; here it may be EfficientNet-Lite0. Small images are enlarged before
it sees them, since it was trained on photographs of 224 pixels. Sums over an image's or a layer's numbers
are means here, so that weights mean the same at any size.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models import features
from models.families import Alarm, Batch, Spec
from models.features import gram, relative
from models.learning import Learner
from models.noise import SampleNoise
from models.pixels import eight_bits

SEEN = 32  # pixels a side, at least, that the network is shown
DEPTH = {"optimise": 4, "adain": 3}  # layers that are compared; AdaIN's encoder ends with the last of them
STEPS = 150  # of the optimisation
PACE = 0.05  # of Adam, in images of [-1, 1]
FLOOR = 1e-5  # least variance that is divided by


class Config(BaseModel):
    """How style is transferred, and what decides the weights that training arrives at.

    method: `adain`, a network that is trained and then fast, or `optimise`, which trains nothing and
        optimises each sample.
    features: the network whose features are compared: `vgg19`, whose weights are fetched once;
        `efficientnet_lite0`, which needs the packages of the extra `features`; or `auto`: VGG-19 where its
        weights lie in torch's cache already, else EfficientNet-Lite0.
    alpha: weight of the content (G eq. 7).
    beta: weight of the style (G eq. 7; of H eq. 11, lambda is beta / alpha).
    width: channels of the decoder that `adain` trains.
    lr: Adam's learning rate at its height; it warms up first, and falls to 0 along a cosine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["adain", "optimise"] = "adain"
    features: Literal["auto", "efficientnet_lite0", "vgg19"] = "auto"
    alpha: float = Field(1.0, gt=0)
    beta: float = Field(10.0, ge=0)
    width: int = Field(64, ge=8, le=512)
    lr: float = Field(2e-3, gt=0)


def decided(config: Config) -> Config:
    """The config with what this machine decides in it: which network `auto` is."""
    return config.model_copy(update={"features": features.here()}) if config.features == "auto" else config


def enlargement(spec: Spec) -> int:
    """How many times larger than they are images are shown to the network: a power of 2.

    At least twice, so that its first layer's stride of 2 falls on all pixels alike.
    """
    factor = 2
    while factor * min(spec.height, spec.width) < SEEN:
        factor *= 2
    return factor


def enlarged(x_BCHW: Tensor, factor: int) -> Tensor:
    """Images some times larger: pixels repeated, and averaged with their neighbours."""
    x_BCHW = F.interpolate(x_BCHW, scale_factor=float(factor))
    return F.avg_pool2d(x_BCHW, factor + 1, 1, factor // 2, count_include_pad=False)


def moments(h_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature of each image, (B, C) both (H eq. 5 and 6)."""
    h_BCN = h_BCHW.flatten(2).float()
    return h_BCN.mean(2), (h_BCN.var(2, correction=0) + FLOOR).sqrt()


def adain(h_BCHW: Tensor, mean_BC: Tensor, std_BC: Tensor) -> Tensor:
    """Features with these means and standard deviations instead of their own (H eq. 8)."""
    own_mean_BC, own_std_BC = (each[..., None, None] for each in moments(h_BCHW))
    return (h_BCHW - own_mean_BC) / own_std_BC * std_BC[..., None, None] + mean_BC[..., None, None]


class Decoder(nn.Module):
    """The mirror of the encoder: features (B, c_in, h, w) to images in [-1, 1] (H, section 6.1).

    It works on 2 x 2 pixels folded into channels, and has no normalisation, which would take styles away
    (H, section 6.1).
    """

    def __init__(self, c_in: int, width: int, spec: Spec) -> None:
        super().__init__()
        self.factor = enlargement(spec)
        self.coarse = nn.Sequential(convolution(c_in, 2 * width), convolution(2 * width, 2 * width))
        self.fine = nn.Sequential(convolution(2 * width, width), convolution(width, width))
        self.conv_out = nn.Conv2d(width, 4 * spec.channels, 3, padding=1)

    def forward(self, h_BCHW: Tensor) -> Tensor:
        """Map features to images."""
        h_BCHW = F.avg_pool2d(self.coarse(h_BCHW), self.factor // 2)
        return F.pixel_shuffle(self.conv_out(self.fine(h_BCHW)), 2).float().tanh()


def convolution(c_in: int, c_out: int) -> nn.Sequential:
    """Convolution and SiLU; beyond the edge lies the edge itself, which shows less than black would.

    ReLU, as the paper has it, switches at a last digit, and two processes then differ sooner from one.
    """
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1, padding_mode="replicate"), nn.SiLU())


class Style(Learner):
    """The family: what it compares, how its decoder learns, and how it samples by either method."""

    condition: ClassVar[str] = "image"
    PARENTS: int = 2  # the source and whose style it takes; 1 where styles are those of references
    PAIRED: ClassVar[bool] = False
    TRAINS: bool = True  # but for `optimise`
    ALARMS: ClassVar[dict[str, Alarm]] = {
        "loss": Alarm(0.0, 1e6, "the decoder does not learn"),
        "grad_norm": Alarm(0.0, 1e6, "the gradients explode"),
    }
    BATCH: ClassVar[int] = 16
    SAMPLING: frozenset[str] = frozenset()
    config: Config
    network: nn.Module

    def __init__(self, config: Config, spec: Spec) -> None:
        self.name: features.Name = "vgg19" if config.features == "vgg19" else "efficientnet_lite0"
        self.depth, self.factor = DEPTH[config.method], enlargement(spec)
        widths = features.CHANNELS[self.name][: self.depth]
        if config.method == "adain":
            network = Decoder(widths[-1], config.width, spec)
            super().__init__(config, spec, (0.9, 0.99), network=network)
            self.numbers = [2 * width for width in widths]
        else:
            super().__init__(config, spec, (0.9, 0.99))
            self.network, self.TRAINS, self.SAMPLING = nn.Identity(), False, frozenset({"steps"})
            self.numbers = [width**2 for width in widths]
        if spec.references:
            self.PARENTS = 1
        self.styles_RD: Tensor  # of the references, taken once
        self.register_buffer("styles_RD", torch.zeros(spec.references, sum(self.numbers)))

    def seen(self, x_BCHW: Tensor) -> list[Tensor]:
        """The features of images that are compared, the finest layer first."""
        return [h.float() for h in features.maps(enlarged(x_BCHW, self.factor), self.name, self.depth)]

    def styles(self, seen: Sequence[Tensor]) -> Tensor:
        """What the style of images is, (B, D): each layer's Gram matrix (G eq. 3) or moments (H eq. 13)."""
        if self.config.method == "optimise":
            return torch.cat([gram(h_BCHW).flatten(1) for h_BCHW in seen], 1)
        return torch.cat([each_BC for h_BCHW in seen for each_BC in moments(h_BCHW)], 1)

    def style_loss(self, styles_BD: Tensor, wanted_BD: Tensor) -> Tensor:
        """How far styles are from those that are wanted, by image (B,): G eq. 4 and 5, H eq. 13."""
        parts = zip(styles_BD.split(self.numbers, 1), wanted_BD.split(self.numbers, 1), strict=True)
        return torch.stack([relative(*part) for part in parts]).mean(0)

    @torch.no_grad()
    def refer(self, x_RCHW: Tensor) -> None:
        """Take the styles of images of reference in [-1, 1], as many as the spec says, and keep them."""
        self.styles_RD.copy_(torch.cat([self.styles(self.seen(x_BCHW)) for x_BCHW in x_RCHW.split(16)]))

    def step(self, batch: Batch, progress: float) -> dict[str, float]:
        """Update the decoder once, each image in the style of a reference, or of another one of the batch."""
        self.pace(progress)
        with torch.no_grad():
            seen = self.seen(batch.x_BCHW)
            if len(self.styles_RD):
                chosen_B = torch.rand(len(batch.x_BCHW), device=batch.x_BCHW.device)
                wanted_BD = self.styles_RD[(chosen_B * len(self.styles_RD)).long()]
            else:
                # Two and two, which lie together also where processes share the batch out.
                other_B = (torch.arange(len(batch.x_BCHW)) ^ 1).clamp(max=len(batch.x_BCHW) - 1)
                wanted_BD = self.styles(seen)[other_B]
            target_BCHW = self.target(seen, wanted_BD)
        found = self.seen(self.through["network"](target_BCHW))
        content = relative(found[-1], target_BCHW).mean()  # H eq. 12
        style = self.style_loss(self.styles(found), wanted_BD).mean()
        loss = self.config.alpha * content + self.config.beta * style  # H eq. 11
        told = {"loss": loss, "content": content, "style": style}
        norm = self.descend(loss, clip=10.0)
        return {name: float(value.detach()) for name, value in told.items()} | {"grad_norm": norm}

    def target(self, seen: Sequence[Tensor], wanted_BD: Tensor) -> Tensor:
        """The features that are decoded: those of the sources in the wanted styles (H eq. 9)."""
        mean_BC, std_BC = wanted_BD.split(self.numbers, 1)[-1].chunk(2, 1)
        return adain(seen[-1], mean_BC, std_BC)

    def optimised(self, x_BCHW: Tensor, wanted_BD: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Images by G eq. 7, begun at the sources, and what share of its first loss each has left (B,).

        Adam works on each number by itself, so that a sample does not depend on its batch.
        """
        with torch.no_grad():
            content_BCHW = self.seen(x_BCHW)[-1]
        x_BCHW = x_BCHW.clone().requires_grad_()
        adam, lost = torch.optim.Adam([x_BCHW], lr=PACE), []
        for number in range(steps + 1):
            found = self.seen(x_BCHW)
            content_B = relative(found[-1], content_BCHW)  # G eq. 1
            style_B = self.style_loss(self.styles(found), wanted_BD)
            loss_B = self.config.alpha * content_B + self.config.beta * style_B
            lost.append(loss_B.detach())
            if number < steps:
                x_BCHW.grad = torch.autograd.grad(loss_B.sum(), x_BCHW)[0]
                adam.step()
                x_BCHW.data.clamp_(-1, 1)
        return x_BCHW.detach(), lost[-1] / lost[0].clamp(min=1e-12)

    def sample(
        self, y_B: Tensor | None, seeds_B: list[int], sources: Sequence[Batch] = (), steps: int = STEPS
    ) -> tuple[Tensor, Tensor | None]:
        """Paint the first sources in the style of a reference, or of the second ones.

        Args:
            y_B: not used; a source shows what it shows.
            seeds_B: they choose among the references.
            sources: a batch of images, and where there are no references another one, of their styles.
            steps: of the optimisation.

        Returns:
            uint8 images (B, C, H, W), and for `optimise` minus the share of its loss that each has left
            (B,), 0 being best; None for `adain`.
        """
        # The sampler asks in inference mode, whose tensors know no gradients: so they are copied.
        with torch.inference_mode(False), torch.no_grad():
            x_BCHW = sources[0].x_BCHW.clone()
            if len(self.styles_RD):
                chosen_B = SampleNoise(seeds_B, x_BCHW.device).uniform(())
                wanted_BD = self.styles_RD[(chosen_B * len(self.styles_RD)).long()].clone()
            else:
                wanted_BD = self.styles(self.seen(sources[1].x_BCHW.clone()))
            score_B = None
            if self.config.method == "adain":
                x_BCHW = self.network(self.target(self.seen(x_BCHW), wanted_BD))
            else:
                with torch.enable_grad():
                    x_BCHW, left_B = self.optimised(x_BCHW, wanted_BD, steps)
                score_B = -left_B
            return eight_bits(x_BCHW).to(torch.uint8), score_B


def build(config: Config, spec: Spec) -> Style:
    """Make the family.

    Raises ValueError unless the sides are multiples of 4 from 8 to 256, and the network is here, or can be
    fetched, whose features are compared.
    """
    spec.demand("style", 4)
    family = Style(decided(config), spec)
    features.require(family.name)
    return family
