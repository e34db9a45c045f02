"""A mixture of Gaussians, fitted to points that each are a small cloud themselves."""

import torch
import torch.nn.functional as F
from torch import Tensor

EM_ROUNDS = 50
EM_CLOUDS = 20_000  # at most: memory grows with their number, the fit hardly


def fit_mixture(mean_NZ: Tensor, var_NZ: Tensor, components: int) -> tuple[Tensor, Tensor, Tensor]:
    """Fit a mixture of Gaussians to N clouds of given means and diagonal variances, by EM in float64.

    Each covariance is drawn towards its diagonal, the more so the fewer clouds it describes. Where there
    are too few clouds for `components`, the last components have no share. Draws from torch's generator.

    Returns:
        Shares (M,), centres (M, Z), and lower triangular spreads (M, Z, Z) of covariance spread spread^T.
    """
    if len(mean_NZ) > EM_CLOUDS:
        chosen = torch.randperm(len(mean_NZ))[:EM_CLOUDS]
        mean_NZ, var_NZ = mean_NZ[chosen], var_NZ[chosen]
    N, Z = mean_NZ.shape
    used = min(components, max(1, N // 8))
    mean_NZ, var_NZ = mean_NZ.double(), var_NZ.double()
    centre_MZ = mean_NZ[torch.randperm(N)[:used]]
    own_M = torch.cdist(mean_NZ, centre_MZ).argmin(1)
    weight_NM = F.one_hot(own_M, used).double()
    for _ in range(EM_ROUNDS):
        count_M = weight_NM.sum(0).clamp(min=1e-6)
        centre_MZ = weight_NM.T @ mean_NZ / count_M[:, None]
        apart_NMZ = mean_NZ[:, None] - centre_MZ
        cov_MZZ = torch.einsum("nm,nmz,nmy->mzy", weight_NM, apart_NMZ, apart_NMZ) / count_M[:, None, None]
        cov_MZZ += torch.diag_embed(weight_NM.T @ var_NZ / count_M[:, None] + 1e-6)
        keep_M11 = (count_M / (count_M + Z))[:, None, None]
        cov_MZZ = keep_M11 * cov_MZZ + (1 - keep_M11) * torch.diag_embed(cov_MZZ.diagonal(dim1=1, dim2=2))
        spread_MZZ = torch.linalg.cholesky(cov_MZZ)
        scaled_MZN = torch.linalg.solve_triangular(spread_MZZ, apart_NMZ.permute(1, 2, 0), upper=False)
        volume_M = spread_MZZ.diagonal(dim1=1, dim2=2).log().sum(1)
        log_NM = (count_M / N).log() - volume_M - scaled_MZN.square().sum(1).T / 2
        weight_NM = log_NM.softmax(1)
    share_M = F.pad(count_M / count_M.sum(), (0, components - used))
    centre_MZ = F.pad(centre_MZ, (0, 0, 0, components - used))
    unused_MZZ = torch.eye(Z, dtype=torch.float64).repeat(components - used, 1, 1)
    return share_M, centre_MZ, torch.cat([spread_MZZ, unused_MZZ])
