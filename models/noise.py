"""Random numbers for sampling: one generator per sample, whatever the batch around it."""

import numpy as np
import torch
from torch import Tensor


class SampleNoise:
    """Random draws that depend on a sample's seed alone.

    Each sample has its own counter-based generator (Philox: Salmon et al. 2011, "Parallel random
    numbers: as easy as 1, 2, 3"), drawn from on the CPU: neither the device, nor the other samples of
    the batch, nor their number can change what a seed gives. torch's own CPU generator would not do,
    since it reads only the low 32 bits of a seed.

    Args:
        seeds_B: one seed per sample, each in [0, 2**63).
        device: where the drawn tensors are put.

    Raises:
        ValueError: a seed is outside that range.
    """

    def __init__(self, seeds_B: list[int], device: torch.device | str = "cpu") -> None:
        if bad := [seed for seed in seeds_B if not 0 <= seed < 2**63]:
            raise ValueError(f"a seed must be in [0, 2**63), not {bad[0]}")
        self.device = torch.device(device)
        self._generators = [np.random.Generator(np.random.Philox(key=seed)) for seed in seeds_B]

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Draw standard normal float32 of `(B, *shape)`; the next call goes on where this one stopped."""
        draws = [g.standard_normal(shape, dtype=np.float32) for g in self._generators]
        return torch.from_numpy(np.stack(draws)).to(self.device)

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Draw float32 of `(B, *shape)`, uniform in [0, 1); the next call goes on where this one stopped."""
        draws = [g.random(shape, dtype=np.float32) for g in self._generators]
        return torch.from_numpy(np.stack(draws)).to(self.device)
