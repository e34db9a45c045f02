"""What families share that learn by descending gradients: optimisers, Fabric, and the course of the rate."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from models.families import Spec


class Learner(nn.Module):
    """A family whose networks learn by Adam.

    `networks`, by name: `network`, which samples, and what it plays against, if there is anything. Each is
    an attribute of that name, which sampling calls; training calls it as `through[name]`.
    """

    config: Any
    lr_factor: Tensor  # what rollbacks have left of the rate

    def __init__(self, config: Any, spec: Spec, betas: tuple[float, float], **networks: nn.Module) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.optimisers: dict[str, Optimizer] = {}
        self.through: dict[str, Callable[..., Any]] = {}
        for name, network in networks.items():
            self.add_module(name, network)
            self.optimisers[name] = Adam(network.parameters(), lr=config.lr, betas=betas)
            self.through[name] = network.__call__
        self.register_buffer("lr_factor", torch.ones(()))
        self._backward: Callable[[Tensor], None] = Tensor.backward

    def attach(self, fabric: Any) -> None:
        """Train through Fabric from now on; sampling still calls the networks themselves."""
        for name, adam in self.optimisers.items():
            wrapped, self.optimisers[name] = fabric.setup(getattr(self, name), adam)
            # A bound method, since as a module attribute the wrapper would double every state_dict key.
            self.through[name] = wrapped.__call__
        self._backward = fabric.backward

    def pace(self, progress: float, warm_up: float = 0.03) -> None:
        """Set the rates for a step at `progress` in [0, 1] of the budget.

        They rise to `config.lr` over the first `warm_up` of the budget and fall to 0 along a cosine.
        """
        rise = min(1.0, progress / warm_up)
        fall = 0.5 + 0.5 * math.cos(math.pi * progress)
        for adam in self.optimisers.values():
            for group in adam.param_groups:
                group["lr"] = self.config.lr * rise * fall * float(self.lr_factor)

    def descend(self, loss: Tensor, name: str = "network", clip: float | None = None) -> float:
        """Update a network on its loss, the gradient's norm held to `clip`; return the norm it had."""
        network, adam = getattr(self, name), self.optimisers[name]
        adam.zero_grad()
        self._backward(loss)
        norm = nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
        if clip is not None:
            nn.utils.clip_grads_with_norm_(network.parameters(), clip, norm)
        adam.step()
        return float(norm)

    def scale_lr(self, factor: float) -> None:
        """Multiply every learning rate from now on."""
        self.lr_factor *= factor

    def finish(self, batches: Any) -> None:
        """Nothing is left to fit."""
