"""Networks that others trained, whose features sets of images are compared in, beside the judge's.

They are torch-fidelity's feature extractors, registered there by these names, so that its own command
line gives the same numbers. EfficientNet-Lite0 comes in a package; the weights of the others are
fetched when they are first asked for.
"""

import copy
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

from models import features

SIDE = 224  # what EfficientNet-Lite0 was trained on
BATCH = 50
LAYERS = {  # by the name in params: torch-fidelity's name, and which of its features
    "efficientnet_lite0": ("efficientnet-lite0", "pooled"),
    "inception_v3": ("inception-v3-compat", "2048"),
    "dinov2": ("dinov2-vit-s-14", "dinov2"),
}


class EfficientNetLite0(FeatureExtractorBase):
    """The 1,280 pooled features of EfficientNet-Lite0 on ImageNet, of images resized to 224 pixels."""

    def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
        super().__init__(name, features_list)
        self.model = copy.deepcopy(features.network(torch.device("cpu")))  # it is moved, that one stays

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """The one layer there is."""
        return ("pooled",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """The same for all metrics."""
        return "pooled"

    @staticmethod
    def can_be_compiled() -> bool:
        """Its package's blocks break torch.compile's graph."""
        return False

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, ...]:
        """Features (B, 1280) of uint8 images (B, 3, H, W)."""
        x_BCHW = F.interpolate(x_BCHW.float() / 127.5 - 1, (SIDE, SIDE), mode="bilinear", antialias=True)
        maps_BCHW = self.model.extract_features(features.normalised(x_BCHW))
        return (maps_BCHW.mean((2, 3)),)


if "efficientnet-lite0" not in FEATURE_EXTRACTORS_REGISTRY:
    register_feature_extractor("efficientnet-lite0", EfficientNetLite0)


def load(name: str, device: torch.device) -> FeatureExtractorBase:
    """An extractor by its name in params, on the device.

    Raises:
        ValueError: a package that it needs is not installed.
        OSError: its weights can't be fetched.
    """
    registered, layer = LAYERS[name]
    return (
        FEATURE_EXTRACTORS_REGISTRY[registered](registered, [layer]).to(device).eval().requires_grad_(False)
    )


@torch.inference_mode()
def extract(extractor: FeatureExtractorBase, batches: Iterable[Tensor], device: torch.device) -> Tensor:
    """(N, D) float32 features of uint8 images (n, 1 or 3, H, W), a few at a time."""
    found = []
    for x_NCHW in batches:
        for x_BCHW in x_NCHW.split(BATCH):
            found.append(extractor(x_BCHW.expand(-1, 3, -1, -1).to(device))[0].float().cpu())
    return torch.cat(found)
