"""Groups of images that belong together, and dealing them out to splits by content alone."""

from collections.abc import Iterable, Sequence

import numpy as np


class Groups:
    """A union-find over N rows: rows that were joined, directly or not, are one group."""

    def __init__(self, rows: int) -> None:
        self.parent = list(range(rows))

    def root(self, row: int) -> int:
        """The row that stands for a row's group."""
        while self.parent[row] != row:
            self.parent[row] = self.parent[self.parent[row]]
            row = self.parent[row]
        return row

    def join(self, one: int, other: int) -> None:
        """Make one group of two."""
        a, b = self.root(one), self.root(other)
        self.parent[max(a, b)] = min(a, b)

    def members(self, rows: Iterable[int]) -> list[list[int]]:
        """The groups among the given rows, each in the order given."""
        found: dict[int, list[int]] = {}
        for row in rows:
            found.setdefault(self.root(row), []).append(row)
        return list(found.values())


def deal(
    groups: Sequence[Sequence[int]], labels: Sequence[int], order: Sequence[str], shares: dict[str, float]
) -> dict[str, list[int]]:
    """Deal groups of rows to splits so that each class comes as near to `shares` as groups allow.

    `labels` (0..) and `order` (a hash of content) are by row. Large groups go first, equal ones in
    the order of their smallest hash; each goes where its classes lack most of their share. So a
    class of three groups or more has one in each split, and single images meet shares exactly.
    """
    classes = max((labels[r] for g in groups for r in g), default=-1) + 1
    totals = np.bincount([labels[r] for g in groups for r in g], minlength=classes)
    names = sorted(shares, key=lambda s: -shares[s])
    whole = sum(shares.values())
    targets = [[shares[s] / whole * n for n in totals.tolist()] for s in names]
    lacking = [list(t) for t in targets]
    dealt: dict[str, list[int]] = {s: [] for s in shares}
    for group in sorted(groups, key=lambda g: (-len(g), min(order[r] for r in g))):
        needs = [sum(lack[labels[r]] / target[labels[r]] for r in group)
                 for lack, target in zip(lacking, targets, strict=True)]  # fmt: skip
        # Rounded, so that a tie is one on every machine; the largest share then comes first.
        best = max(range(len(names)), key=lambda s: (round(needs[s], 9), -s))
        dealt[names[best]] += group
        for row in group:
            lacking[best][labels[row]] -= 1
    return dealt
