"""Measures of samples and of sets of samples: tensors in; tensors, or floats for a whole set, out.

Features are (N, D) of any float type; probabilities are (N, K) whose rows sum to 1. All is computed
on the CPU and gives the same numbers every time. torch-fidelity is imported where it is used, because
it takes seconds to load.
"""

import numpy as np
import torch
from torch import Tensor

from models.manifold import Manifold

CHUNK = 4096  # rows that are in double precision at once
SUBSETS = 50  # of a kernel distance


def margin(probs_NK: Tensor, y_N: Tensor) -> Tensor:
    """The probability of each sample's own class less that of the best other one, in [-1, 1]."""
    own_N1 = probs_NK.gather(1, y_N[:, None])
    others_NK = probs_NK.scatter(1, y_N[:, None], -1.0)
    return own_N1[:, 0] - others_NK.amax(dim=1)


def entropy(probs_NK: Tensor) -> Tensor:
    """The entropy of each row, in nats: 0 where one class has it all, ln K where all are alike."""
    return torch.special.entr(probs_NK).sum(dim=1)


def inception_score(probs_NK: Tensor) -> float:
    """exp of the mean KL(p(y|x) || p(y)), from 1 to K: sure of each image, and evenly spread over classes.

    Salimans et al. 2016, arXiv 1606.03498, section 4, over the whole set at once.
    """
    parts = [part.double() for part in probs_NK.split(CHUNK)]
    marginal_K = sum(part.sum(0) for part in parts) / len(probs_NK)
    own = sum(torch.special.entr(part).sum() for part in parts) / len(probs_NK)
    return float((torch.special.entr(torch.as_tensor(marginal_K)).sum() - own).exp())


def balance(labels_N: Tensor, classes: int) -> float:
    """The entropy of how often each class occurs, over its most, in [0, 1]: 1 if all occur alike."""
    share_K = torch.bincount(labels_N, minlength=classes).double() / max(len(labels_N), 1)
    return float(torch.special.entr(share_K).sum() / np.log(classes)) if classes > 1 else 1.0


def moments(features_ND: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and unbiased covariance (D, D) of the rows, in double precision."""
    mean_D = sum(part.double().sum(0) for part in features_ND.split(CHUNK)) / len(features_ND)
    parts = ((part.double() - mean_D) for part in features_ND.split(CHUNK))
    covariance_DD = sum(part.T @ part for part in parts) / max(len(features_ND) - 1, 1)
    return torch.as_tensor(mean_D).numpy(), torch.as_tensor(covariance_DD).numpy()


def frechet_distance(fake_ND: Tensor, real_MD: Tensor) -> float:
    """The Fréchet distance between the Gaussians of two sets, 0 and up.

    Heusel et al. 2017, arXiv 1706.08500, eq. 6. It is biased upwards where sets are small: compare only
    sets of the same size. Raises ValueError if a set has fewer than 2 rows.
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    if min(len(fake_ND), len(real_MD)) < 2:
        raise ValueError("a Fréchet distance needs 2 rows a set or more")
    fake, real = (
        dict(zip(("mu", "sigma"), moments(t.detach().cpu()), strict=True)) for t in (fake_ND, real_MD)
    )
    return float(fid_statistics_to_metric(fake, real, verbose=False)[KEY_METRIC_FID])


def kernel_distance(
    fake_ND: Tensor, real_MD: Tensor, subset: int = 1000, subsets: int = SUBSETS
) -> tuple[float, float]:
    """The kernel distance (KID): unbiased squared MMD under the kernel (x.y / D + 1)^3, around 0 if alike.

    The mean over `subsets` draws of `subset` rows a set, or of all where one set has fewer, and the
    standard deviation over those draws (Bińkowski et al. 2018, arXiv 1801.01401, section 4). Draws are
    those of torch-fidelity. Raises ValueError if a set has fewer than 2 rows.
    """
    rows = min(subset, len(fake_ND), len(real_MD))
    if rows < 2:
        raise ValueError("a kernel distance needs 2 rows a set or more")
    fake_ND, real_MD = fake_ND.detach().cpu(), real_MD.detach().cpu()
    fake_SR, real_SR = _draws((len(fake_ND), len(real_MD)), rows, subsets)
    apart_S = _kernel_sums(fake_ND, real_MD, fake_SR, real_SR) / rows**2
    found_S = within(fake_ND, fake_SR) + within(real_MD, real_SR) - 2 * apart_S
    return float(found_S.mean()), float(found_S.std(correction=0))


def _draws(sizes: tuple[int, int], rows: int, count: int) -> tuple[Tensor, Tensor]:
    random = np.random.RandomState(0)
    drawn = [[random.choice(size, rows, replace=False) for size in sizes] for _ in range(count)]
    fake, real = (torch.from_numpy(np.stack(side)) for side in zip(*drawn, strict=True))
    return fake, real


def within(a_ND: Tensor, a_SR: Tensor) -> Tensor:
    """The mean kernel of two rows of each of S draws `a_SR`, which have no row twice: (S,) float64."""
    rows = a_SR.shape[1]
    itself_N = torch.cat([(part.double().square().mean(1) + 1) ** 3 for part in a_ND.split(CHUNK)])
    return (_kernel_sums(a_ND, a_ND, a_SR, a_SR) - itself_N[a_SR].sum(1)) / (rows * (rows - 1))


def _kernel_sums(a_ND: Tensor, b_MD: Tensor, a_SR: Tensor, b_SQ: Tensor) -> Tensor:
    if len(a_ND) * len(b_MD) > a_SR.numel() * b_SQ.shape[1]:
        pairs = zip(a_SR, b_SQ, strict=True)
        return torch.stack([kernel(a_ND[a_R], b_MD[b_Q]).sum() for a_R, b_Q in pairs])
    # The draws share so many pairs that each pair's kernel is better computed once.
    drawn_NS, drawn_MS = (_drawn(*side) for side in ((len(a_ND), a_SR), (len(b_MD), b_SQ)))
    return (kernel(a_ND, b_MD) @ drawn_MS).mul_(drawn_NS).sum(0)


def _drawn(size: int, rows_SR: Tensor) -> Tensor:
    return torch.zeros(size, len(rows_SR), dtype=torch.float64).scatter_(0, rows_SR.T, 1.0)


def kernel(a_ND: Tensor, b_MD: Tensor) -> Tensor:
    """The cubic kernel (a . b / D + 1)^3 of each row with each: (N, M) float64."""
    apart_NM = torch.mm(a_ND.double(), b_MD.double().T).div_(a_ND.shape[1]).add_(1)
    return apart_NM.pow_(3)


def neighbourhood(
    fake_ND: Tensor, real_MD: Tensor, k: int = 3, dense: int = 5
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """How two sets lie among each other, by balls to the `k`-th nearest row of the own set.

    Returns which fake rows lie in real balls (N,), and which real rows in fake balls (M,), bool: precision
    and recall are their means (Kynkäänniemi et al. 2019, arXiv 1904.06991, eq. 1 and 2). Then, by balls to
    the `dense`-th row, of each fake row how many real balls hold it, over `dense` (N,), and of each real
    ball if it holds any (M,): density, 0 and up, around 1 if the sets are alike, and coverage, in [0, 1],
    are their means (Naeem et al. 2020, arXiv 2002.09797, eq. 3 and 5).

    Raises ValueError if a set has `k` rows or fewer, or the real one `dense`.
    """
    if len(fake_ND) <= k or len(real_MD) <= max(k, dense):
        raise ValueError(f"balls need more than {k} fake rows and {max(k, dense)} real ones")
    by_fake_2N, by_ball_2M, _ = Manifold.of(real_MD, k, dense).tell(fake_ND)
    recalled_M = Manifold.of(fake_ND, k).tell(real_MD).by_query_JN[0] > 0
    return by_fake_2N[0] > 0, recalled_M, by_fake_2N[1].double() / dense, by_ball_2M[1] > 0
