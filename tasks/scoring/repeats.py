"""Samples that repeat each other: features and signatures propose pairs, pixels decide, one stays."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from models.likeness import residual, rough_residual
from models.neighbours import nearest_other

PROPOSE = ("features", "signatures", "looks")  # what pairs are proposed by, of what was measured
PROPOSED = 4  # other samples that one is compared with, by either way of proposing them
CLOSER = 2  # of those, the likest at first look, and the nearest signature
CHUNK = 1024
APART = 2.0  # a residual that nothing alike has


def pairs(features_ND: Tensor, signatures_NF: Tensor, looks_ND: Tensor) -> tuple[np.ndarray, Tensor, Tensor]:
    """Pairs (P, 2) of rows worth comparing, first below second; and each row's nearest other by feature.

    That one is told as distance (N,) and row (N,). A lone sample has no pair, and inf.
    """
    count = min(PROPOSED, len(features_ND) - 1)
    if count < 1:
        none = torch.full((len(features_ND),), torch.inf)
        return np.zeros((0, 2), np.int64), none, torch.zeros(len(none), dtype=torch.int64)
    distance_Nk, near_Nk = nearest_other(features_ND, count)
    by_signature_Nk = nearest_other(signatures_NF, count)[1]
    proposed_Nk = torch.cat([near_Nk, by_signature_Nk], 1)
    parts = range(0, len(proposed_Nk), CHUNK)
    apart_Nk = torch.cat(
        [rough_residual(looks_ND[n : n + CHUNK], looks_ND[proposed_Nk[n : n + CHUNK]]) for n in parts]
    )
    likest_Nk = proposed_Nk.gather(1, apart_Nk.topk(min(CLOSER, 2 * count), largest=False).indices)
    partner_Nk = torch.cat([likest_Nk, by_signature_Nk[:, :1]], 1).numpy()
    both = np.stack([np.repeat(np.arange(len(partner_Nk)), partner_Nk.shape[1]), partner_Nk.ravel()], 1)
    return np.unique(np.sort(both, axis=1), axis=0), distance_Nk[:, 0], near_Nk[:, 0]


def residuals(pairs_P2: np.ndarray, thumbs: Callable[[np.ndarray], Tensor]) -> np.ndarray:
    """(P,) float32: how much of one of a pair the other does not explain."""
    found = [np.zeros(0, np.float32)]
    for start in range(0, len(pairs_P2), CHUNK):
        part = pairs_P2[start : start + CHUNK]
        found.append(residual(thumbs(part[:, 0]), thumbs(part[:, 1])).numpy())
    return np.concatenate(found)


def leaders(
    told: tuple[Tensor, Tensor, Tensor], pairs_P2: np.ndarray, apart_P: np.ndarray, digests: Sequence[bytes],
    limit_N: np.ndarray, sound_N: np.ndarray, thumbs: Callable[[np.ndarray], Tensor],
) -> np.ndarray:  # fmt: skip
    """(N,) row of the sample that each one repeats; -1 where it repeats none, or stands for its crowd.

    `told` and the first pairs are as of `pairs`. A crowd that is larger than what each is compared with
    falls into parts at first: so those that stand for a part are compared again, until no two are alike.
    """
    leader_N, rows = np.full(len(sound_N), -1), np.arange(len(sound_N))
    while True:
        some = partial(_of, rows, thumbs)
        found = representatives(
            pairs_P2, apart_P, [digests[n] for n in rows.tolist()], limit_N[rows], sound_N[rows], some
        )
        repeats = found >= 0
        leader_N[rows[repeats]] = rows[found[repeats]]
        alike = np.unique(pairs_P2[apart_P < limit_N[rows][pairs_P2].min(1)])
        rows = rows[alike[~repeats[alike]]]
        if not repeats.any() or len(rows) < 2:
            break
        pairs_P2 = pairs(*(each[torch.from_numpy(rows)] for each in told))[0]
        apart_P = residuals(pairs_P2, partial(_of, rows, thumbs))
    while (further := (leader_N >= 0) & (leader_N[leader_N] >= 0)).any():
        leader_N[further] = leader_N[leader_N[further]]
    return leader_N


def _of(rows: np.ndarray, thumbs: Callable[[np.ndarray], Tensor], places: np.ndarray) -> Tensor:
    return thumbs(rows[places])


def representatives(
    pairs_P2: np.ndarray, apart_P: np.ndarray, digests: Sequence[bytes], limit_N: np.ndarray,
    sound_N: np.ndarray, thumbs: Callable[[np.ndarray], Tensor],
) -> np.ndarray:  # fmt: skip
    """(N,) row of the sample that each one repeats, by these pairs alone; -1 as of `leaders`.

    The first sound sample of a crowd stands for it. Who is like a member must be like that one too, or it
    starts a crowd of its own: so a chain of small changes does not make one crowd of unlike ends.
    `limit_N` bounds the residual of each sample.
    """
    stands_N = np.full(len(sound_N), -1)
    first: dict[bytes, int] = {}
    alike: dict[int, list[int]] = {}
    for a, b in pairs_P2[apart_P < limit_N[pairs_P2].min(1)].tolist():
        alike.setdefault(a, []).append(b)
        alike.setdefault(b, []).append(a)
    order = np.argsort(~sound_N, kind="stable")
    for n in order.tolist():
        same = first.setdefault(digests[n], n)
        near = alike.get(n, ())
        leaders = {int(stands_N[m]) for m in near if stands_N[m] >= 0} - {n}
        known = {m for m in near if m in leaders} | ({same} - {n})
        asked = np.array(sorted(leaders - known), np.int64)
        if len(asked) and not known:
            one_1CHW = thumbs(np.array([n]))
            apart = residual(one_1CHW.expand(len(asked), -1, -1, -1), thumbs(asked)).numpy()
            known = set(asked[apart < np.minimum(limit_N[n], limit_N[asked])].tolist())
        stands_N[n] = min(known, default=n)
    return np.where(stands_N == np.arange(len(stands_N)), -1, stands_N)
