"""All cores on batches of work: results in order, and only a few batches in memory at a time."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
# Starting processes takes about a second. With fewer images than these, see first whether they
# are small enough to be done in that time without.
MANY = 6_000
TRIAL_SECONDS = 1.0


def cores(workers: int | None) -> int:
    """How many processes to use: as many as are asked for, else one for each core we may run on."""
    return workers or len(os.sched_getaffinity(0))


def spread(function: Callable[[T], R], batches: Iterable[T], images: int, workers: int | None) -> Iterator[R]:
    """Apply a module-level `function` to each batch, in order; `images` is their total.

    Processes, not threads: decoding a small image is mostly Python, which threads can't share.
    They are fresh ones, as a fork of a process that runs Prefect's or torch's threads can hang.
    """
    rest = iter(batches)
    if cores(workers) == 1:
        yield from map(function, rest)
        return
    started = time.monotonic()
    while images < MANY and time.monotonic() - started < TRIAL_SECONDS:
        try:
            batch = next(rest)
        except StopIteration:
            return
        yield function(batch)
    for batch in rest:  # only if there is one more is a pool started
        yield from _pool(function, chain([batch], rest), cores(workers))


def _pool(function: Callable[[T], R], batches: Iterable[T], workers: int) -> Iterator[R]:
    from joblib import Parallel, delayed

    pool = Parallel(
        n_jobs=workers, return_as="generator", pre_dispatch="2*n_jobs", batch_size=1, max_nbytes=None
    )
    return pool(delayed(function)(batch) for batch in batches)
