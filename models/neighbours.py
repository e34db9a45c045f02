"""The nearest rows of a set to others. Features are (N, D) of any float type, on the CPU.

Distances are always exact. Which rows are nearest is exact as well, but for the nearest others within a
set of more than 50,000 rows: all pairs would cost four times as much for twice the rows.
"""

import faiss
import numpy as np
import torch
from torch import Tensor

CHUNK = 256  # rows whose distances are made exact at once
EXACT = 50_000  # rows of a set, up to which all pairs are looked at
CELLS = 4  # times the root of the rows: how many cells a larger set is cut into
PROBES = 16  # cells that a row's nearest others are looked for in


def nearest(queries_ND: Tensor, base_MD: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """Find the `k` nearest rows of `base` to each query, exactly.

    Returns:
        Euclidean distances (N, k), float32, ascending, and the rows' indices (N, k).

    Raises:
        ValueError: `base` has fewer than `k` rows.
    """
    if len(base_MD) < k:
        raise ValueError(f"{k} nearest of {len(base_MD)} rows cannot be found")
    queries_ND, base_MD = (t.detach().cpu().float().contiguous() for t in (queries_ND, base_MD))
    return _exact(queries_ND, base_MD, faiss.knn(queries_ND.numpy(), base_MD.numpy(), k)[1])


def nearest_other(features_ND: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """Find the `k` nearest other rows of the same set to each row; a copy of a row is another row.

    In a set of more than EXACT rows, which these are is told by cells: see `_by_cells`.

    Returns and raises as `nearest`.
    """
    if len(features_ND) <= k:
        raise ValueError(f"{k} nearest others of {len(features_ND)} rows cannot be found")
    if len(features_ND) > EXACT:
        features_ND = features_ND.detach().cpu().float().contiguous()
        distances, indices = _exact(features_ND, features_ND, _by_cells(features_ND.numpy(), k + 1))
    else:
        distances, indices = nearest(features_ND, features_ND, k + 1)
    itself = indices == torch.arange(len(indices))[:, None]
    # Among many copies a row may not find itself: its last find is then the one too many.
    itself[:, -1] |= ~itself.any(dim=1)
    return distances[~itself].reshape(-1, k), indices[~itself].reshape(-1, k)


def _exact(queries_ND: Tensor, base_MD: Tensor, found_Nk: np.ndarray) -> tuple[Tensor, Tensor]:
    """The rows that were found in the order of their exact distances, and these.

    faiss expands the square, which loses the digits of small distances and depends on the batch.
    """
    row_Nk = torch.from_numpy(found_Nk)
    exact_Nk = torch.empty(row_Nk.shape)
    for start in range(0, len(queries_ND), CHUNK):
        part = slice(start, start + CHUNK)
        apart_BkD = queries_ND[part, None].double() - base_MD[row_Nk[part]].double()
        exact_Nk[part] = apart_BkD.norm(dim=2)
    exact_Nk, order_Nk = exact_Nk.sort(dim=1, stable=True)
    return exact_Nk, row_Nk.gather(1, order_Nk)


def _by_cells(rows_ND: np.ndarray, k: int) -> np.ndarray:
    """(N, k) the nearest rows to each row, itself among them, looked for in the PROBES cells nearest to it.

    A cell is all that is nearer to one of some rows, drawn with a fixed seed, than to the others of them
    (an inverted file: Jégou et al. 2011, section IV). The nearest of all may lie in another cell: rarely,
    and the more rarely the nearer it is. The work grows with N to the power of 1.5.
    """
    count, dimensions = rows_ND.shape
    drawn = np.random.Generator(np.random.Philox(0)).choice(count, int(CELLS * count**0.5), replace=False)
    centres_CD = np.unique(rows_ND[drawn], axis=0)
    cells = faiss.IndexFlatL2(dimensions)
    cells.add(centres_CD)
    index = faiss.IndexIVFFlat(cells, dimensions, len(centres_CD))
    index.is_trained, index.nprobe = True, PROBES
    index.add(rows_ND)
    found_Nk = np.empty((count, k), np.int64)
    # Rows of one cell after each other look into much the same cells, which the processor then still holds.
    together_N = cells.search(rows_ND, 1)[1][:, 0].argsort(kind="stable")
    for rows in np.array_split(together_N, -(-count // EXACT)):
        found_Nk[rows] = index.search(rows_ND[rows], k)[1]
    lacking = (found_Nk < 0).any(axis=1)  # where so many cells hold fewer rows than were asked for
    if lacking.any():
        found_Nk[lacking] = faiss.knn(rows_ND[lacking], rows_ND, k)[1]
    return found_Nk
