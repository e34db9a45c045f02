"""The exponential moving average of a module's weights, counted in images."""

import torch
from torch import Tensor, nn


class EMA:
    """An average of a module's state that halves the weight of the past every `halflife_images`.

    Early in training the half-life is held to a `ramp` fraction of the images seen so far, so that the
    random initial weights are soon forgotten (Karras et al. 2022, arXiv 2206.00364, their training code).

    Args:
        module: what to average; its present state is where the average starts.
        halflife_images: images after which an old state counts half; 0 keeps no past at all.
        ramp: the half-life's largest share of the images seen so far.
    """

    def __init__(self, module: nn.Module, halflife_images: float, ramp: float = 0.05) -> None:
        self.halflife_images = halflife_images
        self.ramp = ramp
        self.images = 0
        self.average = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, images: int) -> None:
        """Take in the module's state after a step on `images` more images."""
        self.images += images
        halflife = min(self.halflife_images, self.images * self.ramp)
        keep = 0.5 ** (images / halflife) if halflife > 0 else 0.0
        state = module.state_dict()
        floats = [name for name, value in self.average.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.average[name] for name in floats], [state[name] for name in floats], 1 - keep
        )
        for name in self.average.keys() - set(floats):
            self.average[name].copy_(state[name])

    def copy_to(self, module: nn.Module) -> None:
        """Give the averaged state to a module of the same shape."""
        module.load_state_dict(self.average)

    def state_dict(self) -> dict[str, Tensor]:
        """All that a resumed run needs, as tensors: the average and the images seen."""
        return {"images": torch.tensor(self.images), **{f"average.{k}": v for k, v in self.average.items()}}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` gave. Raises KeyError if a name is missing."""
        self.images = int(state["images"])
        for name, value in self.average.items():
            value.copy_(state[f"average.{name}"])
