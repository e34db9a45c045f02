"""The course of a learning rate, which the families that descend a gradient share."""

import math

from torch import Tensor
from torch.optim import Optimizer


def set_rate(optimiser: Optimizer, lr: float, progress: float, factor: Tensor, warm_up: float = 0.03) -> None:
    """Set the rate for a step at `progress` in [0, 1] of the budget.

    It rises to `lr` over the first `warm_up` of the budget and falls to 0 along a cosine; `factor` ()
    scales it all, as a rollback does.
    """
    rise = min(1.0, progress / warm_up)
    fall = 0.5 + 0.5 * math.cos(math.pi * progress)
    for group in optimiser.param_groups:
        group["lr"] = lr * rise * fall * float(factor)
