"""The nearest rows of a set to others, exactly. Features are (N, D) of any float type, on the CPU."""

import faiss
import torch
from torch import Tensor

CHUNK = 256  # rows whose distances are made exact at once


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
    found_Nk = torch.from_numpy(faiss.knn(queries.numpy(), base.numpy(), k)[1])
    # faiss expands the square, which loses the digits of small distances and depends on the batch.
    exact_Nk = torch.empty(found_Nk.shape)
    for start in range(0, len(queries), CHUNK):
        part = slice(start, start + CHUNK)
        apart_BkD = queries[part, None].double() - base[found_Nk[part]].double()
        exact_Nk[part] = apart_BkD.norm(dim=2)
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
