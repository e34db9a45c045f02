"""Where real images lie in feature space, as balls round each of them, and what that says of others.

A row's ball reaches to its k-th nearest other row of its own set; there may be balls of several k. All
is computed on the CPU in double precision, in blocks, so that memory grows with the rows and not with
their pairs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from models.neighbours import nearest_other

BLOCK = 2048  # rows a side of the distances held at once


class Told(NamedTuple):
    """How many balls of each k hold each query (J, N), and how many queries each ball holds (J, M), int64.

    And realism (N,), float32: the largest radius over distance, of the trusted first balls; 1 is at an edge.
    Kynkäänniemi et al. 2019, arXiv 1904.06991, eq. 3.
    """

    by_query_JN: Tensor
    by_ball_JM: Tensor
    realism_N: Tensor


@dataclass(frozen=True, eq=False)
class Manifold:
    """The rows (M, D) of a set and the radii (J, M) of each one's balls, one for each k."""

    rows_MD: Tensor
    radius_JM: Tensor

    @classmethod
    def of(cls, rows_MD: Tensor, *ks: int) -> "Manifold":
        """Balls to the k-th nearest other row for each of `ks`.

        Raises ValueError if there are no more rows than the largest of them.
        """
        apart_Mk = nearest_other(rows_MD, max(ks))[0].double()
        return cls(rows_MD, torch.stack([apart_Mk[:, k - 1] for k in ks]))

    @cached_property
    def trusted_M(self) -> Tensor:
        """(M,) bool: the half of the first balls that are no larger than the median, for realism."""
        return self.radius_JM[0] <= self.radius_JM[0].median()

    def tell(self, queries_ND: Tensor) -> Told:
        """What the balls say of others, and how many of these each ball holds, in one pass over all pairs."""
        by_query_JN = torch.zeros(len(self.radius_JM), len(queries_ND), dtype=torch.int64)
        by_ball_JM = torch.zeros(self.radius_JM.shape, dtype=torch.int64)
        realism_N = torch.zeros(len(queries_ND), dtype=torch.float64)
        reach_M = self.radius_JM[0] * self.trusted_M
        for n, m, apart in _blocks(queries_ND, self.rows_MD):
            for j, radius_M in enumerate(self.radius_JM):
                inside = apart <= radius_M[m]
                by_query_JN[j, n] += inside.sum(1, dtype=torch.int32)  # 16 times as fast as in 64 bits
                by_ball_JM[j, m] += inside.sum(0, dtype=torch.int32)
            near = torch.div(reach_M[m], apart.clamp_(min=1e-9), out=apart)
            realism_N[n] = torch.maximum(realism_N[n], near.amax(1))
        return Told(by_query_JN, by_ball_JM, realism_N.float())


def _blocks(queries_ND: Tensor, rows_MD: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Distances of a block of queries to a block of rows, and which these are."""
    queries_ND, rows_MD = queries_ND.detach().cpu(), rows_MD.detach().cpu()
    for start in range(0, len(queries_ND), BLOCK):
        n = slice(start, start + BLOCK)
        for first in range(0, len(rows_MD), BLOCK):
            m = slice(first, first + BLOCK)
            yield n, m, torch.cdist(queries_ND[n].double(), rows_MD[m].double())
