"""All cores on batches of work: results in order, and only a few batches in memory at a time."""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from joblib import Parallel, delayed

T = TypeVar("T")
R = TypeVar("R")
# Starting processes takes about a second: fewer images than these are done sooner without.
WORTH_IT = 4_000


def cores(workers: int | None) -> int:
    """How many processes to use: as many as are asked for, else one for each core we may run on."""
    return workers or len(os.sched_getaffinity(0))


def spread(function: Callable[[T], R], batches: Iterable[T], images: int, workers: int | None) -> Iterator[R]:
    """Apply a module-level `function` to each batch, in order; `images` is their total.

    Processes, not threads: decoding a small image is mostly Python, which threads can't share.
    They are fresh ones, as a fork of a process that runs Prefect's or torch's threads can hang.
    """
    if cores(workers) == 1 or images < WORTH_IT:
        return map(function, batches)
    pool = Parallel(
        n_jobs=cores(workers),
        return_as="generator",
        pre_dispatch="2*n_jobs",
        batch_size=1,
        max_nbytes=None,
    )
    return pool(delayed(function)(batch) for batch in batches)
