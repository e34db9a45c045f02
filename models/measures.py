"""Measures of samples and of sets of samples: tensors in; tensors, or floats for a whole set, out.

Features are (N, D) of any float type; probabilities are (N, K) whose rows sum to 1. All is computed
on the CPU and gives the same numbers every time. torch-fidelity is imported where it is used, because
it takes seconds to load and only the report needs it.
"""

import faiss
import torch
from torch import Tensor

CHUNK = 1024  # rows of a distance matrix held at once


def margin(probs_NK: Tensor, y_N: Tensor) -> Tensor:
    """The probability of each sample's own class less that of the best other one, in [-1, 1]."""
    own_N1 = probs_NK.gather(1, y_N[:, None])
    others_NK = probs_NK.scatter(1, y_N[:, None], -1.0)
    return own_N1[:, 0] - others_NK.amax(dim=1)


def entropy(probs_NK: Tensor) -> Tensor:
    """The entropy of each row, in nats: 0 where one class has it all, ln K where all are alike."""
    return torch.special.entr(probs_NK).sum(dim=1)


def nearest(queries_ND: Tensor, base_MD: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """Find the `k` nearest rows of `base` to each query, exactly.

    Returns:
        Euclidean distances (N, k), float32, ascending, and the rows' indices (N, k).

    Raises:
        ValueError: `base` has fewer than `k` rows.
    """
    if len(base_MD) < k:
        raise ValueError(f"{k} nearest of {len(base_MD)} rows cannot be found")
    queries, base = (t.detach().cpu().float().contiguous() for t in (queries_ND, base_MD))
    index = faiss.IndexFlatL2(base.shape[1])
    index.add(base.numpy())
    found_Nk = torch.from_numpy(index.search(queries.numpy(), k)[1])
    # faiss expands the square, which loses the digits of small distances and depends on the batch.
    exact_Nk = torch.cat(
        [
            (q_BD[:, None].double() - base[f_Bk].double()).norm(dim=2).float()
            for q_BD, f_Bk in zip(queries.split(CHUNK), found_Nk.split(CHUNK), strict=True)
        ]
    )
    exact_Nk, order_Nk = exact_Nk.sort(dim=1, stable=True)
    return exact_Nk, found_Nk.gather(1, order_Nk)


def nearest_other(features_ND: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """Find the `k` nearest other rows of the same set to each row; a copy of a row is another row.

    Returns and raises as `nearest`.
    """
    if len(features_ND) <= k:
        raise ValueError(f"{k} nearest others of {len(features_ND)} rows cannot be found")
    distances, indices = nearest(features_ND, features_ND, k + 1)
    itself = indices == torch.arange(len(indices))[:, None]
    # Among many copies a row may not find itself: its last find is then the one too many.
    itself[:, -1] |= ~itself.any(dim=1)
    return distances[~itself].reshape(-1, k), indices[~itself].reshape(-1, k)


def frechet_distance(fake_ND: Tensor, real_MD: Tensor) -> float:
    """The Fréchet distance between the Gaussians of two sets, 0 and up.

    Heusel et al. 2017, arXiv 1706.08500, eq. 6. It is biased upwards where sets are small: compare only
    sets of the same size. Raises ValueError if a set has fewer than 2 rows.
    """
    from torch_fidelity.metric_fid import (
        KEY_METRIC_FID,
        fid_features_to_statistics,
        fid_statistics_to_metric,
    )

    if min(len(fake_ND), len(real_MD)) < 2:
        raise ValueError("a Fréchet distance needs 2 rows a set or more")
    fake, real = (fid_features_to_statistics(t.detach().cpu().double()) for t in (fake_ND, real_MD))
    return float(fid_statistics_to_metric(fake, real, verbose=False)[KEY_METRIC_FID])


def kernel_distance(fake_ND: Tensor, real_MD: Tensor, subset: int = 1000, subsets: int = 50) -> float:
    """The kernel distance (KID): unbiased squared MMD under the kernel (x.y / D + 1)^3, around 0 if alike.

    The mean over `subsets` draws of `subset` rows a set, or of all where one set has fewer (Bińkowski et
    al. 2018, arXiv 1801.01401, section 4). Raises ValueError if a set has fewer than 2 rows.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    rows = min(subset, len(fake_ND), len(real_MD))
    if rows < 2:
        raise ValueError("a kernel distance needs 2 rows a set or more")
    fake, real = (t.detach().cpu().double() for t in (fake_ND, real_MD))
    options = {"kid_subset_size": rows, "kid_subsets": subsets, "rng_seed": 0, "verbose": False}
    return float(kid_features_to_metric(fake, real, **options)[KEY_METRIC_KID_MEAN])


def precision_recall(fake_ND: Tensor, real_MD: Tensor, k: int = 3) -> tuple[float, float]:
    """The share of fake rows within real balls, and of real rows within fake balls, in [0, 1].

    A row's ball reaches to its k-th nearest other row of its own set (Kynkäänniemi et al. 2019, arXiv
    1904.06991, eq. 1 and 2). Raises ValueError if a set has `k` rows or fewer.
    """
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    if min(len(fake_ND), len(real_MD)) <= k:
        raise ValueError(f"precision and recall need more than {k} rows a set")
    fake, real = (t.detach().cpu().double() for t in (fake_ND, real_MD))
    options = {"prc_neighborhood": k, "prc_batch_size": CHUNK, "save_cpu_ram": True, "verbose": False}
    found = prc_features_to_metric(fake, real, **options)
    return float(found[KEY_METRIC_PRECISION]), float(found[KEY_METRIC_RECALL])


def density_coverage(fake_ND: Tensor, real_MD: Tensor, k: int = 5) -> tuple[float, float]:
    """How many real balls a fake row lies in, over `k`; and the share of real balls that hold a fake row.

    A ball is as in `precision_recall`, of real rows alone (Naeem et al. 2020, arXiv 2002.09797, eq. 3 and
    5). Density is 0 and up, around 1 if the sets are alike; coverage is in [0, 1]. Raises ValueError if
    there are `k` real rows or fewer.
    """
    radius_M = nearest_other(real_MD, k)[0][:, -1].double()
    fake, real = (t.detach().cpu().double() for t in (fake_ND, real_MD))
    inside, covered_M = 0, torch.zeros(len(real), dtype=torch.bool)
    for fake_BD in fake.split(CHUNK):
        holds_BM = torch.cdist(fake_BD, real) <= radius_M
        inside += int(holds_BM.sum())
        covered_M |= holds_BM.any(dim=0)
    return inside / (k * len(fake)), float(covered_M.double().mean())


def set_measures(fake_ND: Tensor, real_MD: Tensor) -> dict[str, float | None]:
    """All the measures of a set against real images, by name; None where a set has too few rows."""
    enough = min(len(fake_ND), len(real_MD)) > 5
    precision, recall = precision_recall(fake_ND, real_MD) if enough else (None, None)
    density, coverage = density_coverage(fake_ND, real_MD) if enough else (None, None)
    return {
        "frechet_distance": frechet_distance(fake_ND, real_MD) if enough else None,
        "kernel_distance": kernel_distance(fake_ND, real_MD) if enough else None,
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
    }
