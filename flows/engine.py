"""The engine: where a stage's shards are worked on, one task run each, and what becomes of those that fail.

`machine.engine` and `machine.workers` choose here, and nowhere else, between this process, processes
beside it, and a Dask cluster. What a shard becomes does not depend on it.
"""

import logging
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from flows.footer import craft, final
from flows.speaking import speak
from tasks.children import die_with_parent, kills_children
from tasks.errors import UserError, first_line
from tasks.params import Machine
from tasks.progress import Progress
from tasks.recipe import Recipe
from tasks.shards import shard_name

log = logging.getLogger("mintage.engine")
AHEAD = 4  # shards handed out for each worker: none waits for work, and memory does not grow with shards
MOST_FAILED = 3  # shards that fail before the rest is left untried: then it is not the shards
CONNECT = "5s"


@dataclass(frozen=True)
class Engine:
    """Works on shards as `machine` says, on a `tasks.device.Device`, under the recipe that decides them."""

    machine: Machine
    device: Any
    made_by: Recipe

    def each(self, function: Callable[..., Any], shards: Sequence[int | Path], **same: Any) -> None:
        """Call a craft with each shard, the device, and keywords that are the same for all.

        A shard that fails is tried again alone, `max_retries` times, while the others go on. Raises
        UserError that names what failed for good; what the user must mend is raised at once.
        """
        task = craft(settled, self.machine.max_retries, name=function.__name__, task_run_name="{name}")
        same["device"] = self.device
        given = {"function": function, "same": same, "made_by": self.made_by}
        failed: dict[str, Exception] = {}
        left = list(shards)
        with Progress(function.__name__, len(left), unit="shards") as progress:
            for _ in range(self.machine.max_retries + 1):
                left = self._round(task, left, given, failed, progress)
                if not left or failed:
                    break
                log.warning("a worker died; starting again, with %s shards to go", f"{len(left):,}")
        if failed:
            raise UserError(_told(failed, self.machine.max_retries + 1))
        if left:
            raise UserError(
                f"{function.__name__}: its workers are killed again and again, for want of memory it may be. "
                f"{len(left):,} shards are left, the others are kept. Lower machine.workers."
            )

    def _round(
        self,
        task: Any,
        shards: list[int | Path],
        given: dict[str, Any],
        failed: dict[str, Exception],
        progress: Progress,
    ) -> list[int | Path]:
        """Work until all is done, or until a worker's death ends the others; return what is left."""
        if not shards:
            return []
        waiting, out = deque(shards), deque[tuple[int | Path, PrefectFuture[Any]]]()
        with self._runner(len(shards)) as runner, kills_children():
            width = _width(runner)
            while (waiting or out) and len(failed) < MOST_FAILED:
                while waiting and len(out) < AHEAD * width:
                    shard = waiting.popleft()
                    parameters = {**given, "name": _name(shard), "shard": shard}
                    out.append((shard, runner.submit(task, parameters)))
                shard, future = out.popleft()
                try:
                    future.result()
                    progress.add(1)
                except BrokenProcessPool:
                    return [shard, *(other for other, _ in out), *waiting]
                except Exception as error:
                    if final(error):
                        raise
                    failed[_name(shard)] = error
        return []

    def _runner(self, shards: int) -> TaskRunner[Any]:
        if self.machine.engine == "dask":
            return _dask(str(self.machine.scheduler))
        workers = min(self.device.workers(self.machine.workers), shards)
        if workers <= 1:
            return ThreadPoolTaskRunner(max_workers=1)
        places = multiprocessing.get_context("spawn").Value("i", 0)
        told: Any = partial(_told_to, PREFECT_API_URL.value())
        return ProcessPoolTaskRunner(workers, [told], initializer=_begin, initargs=(places,))


def settled(
    name: str,
    shard: int | Path,
    function: Callable[..., Any],
    same: Mapping[str, Any],
    made_by: Recipe,
) -> None:
    """What a worker runs: the craft, once it is sure that here it gives the recipe's bytes."""
    speak()
    same["device"].settle(made_by.parts)
    made_by.hold()
    function(shard, **same)


def _begin(places: Any) -> None:
    """Start a worker process: it ends with its parent, which alone hears Ctrl-C, and knows its place."""
    die_with_parent(signal.SIGKILL)  # Prefect catches SIGTERM while a task runs
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from tasks.device import PLACE  # torch: not in the process that only hands out

    with places.get_lock():
        os.environ[PLACE] = str(places.value)
        places.value += 1


def _told_to(url: str | None) -> Any:
    """Have the thread that hands on what workers tell talk to our server: it would start one of its own."""
    settings = temporary_settings({PREFECT_API_URL: url})
    settings.__enter__()

    def hand_on(kind: str, message: Any, held: Any = settings) -> tuple[str, Any]:
        return kind, message

    return hand_on  # which holds the settings as long as the thread


def _dask(address: str) -> TaskRunner[Any]:
    """A runner on the cluster. Raises UserError if prefect-dask, the scheduler or its workers are missing."""
    try:
        import dask
        from distributed import Client
        from prefect_dask import DaskTaskRunner
    except ImportError:
        raise UserError(
            "machine.engine: dask needs the extra `dask`: pip install prefect-dask, here and on the workers."
        ) from None
    dask.config.set({"distributed.comm.timeouts.connect": CONNECT})
    try:
        with Client(address, set_as_default=False) as client:
            workers = client.ncores()
    except (OSError, ValueError) as error:
        raise UserError(f"machine.scheduler: no Dask scheduler answers at {address} ({error}).") from None
    if not workers:
        raise UserError(
            f"machine.scheduler: {address} has no workers. In a copy of the project: dask worker {address}"
        )
    return DaskTaskRunner(address=address)


def _width(runner: TaskRunner[Any]) -> int:
    """How many shards are worked on at once."""
    client = getattr(runner, "client", None)
    return sum(client.ncores().values()) if client else getattr(runner, "_max_workers", 1)


def _name(shard: int | Path) -> str:
    return shard.name if isinstance(shard, Path) else shard_name(shard)


def _told(failed: Mapping[str, Exception], tries: int) -> str:
    (name, error), *others = failed.items()
    also = f" So did {', '.join(other for other, _ in others)}." if others else ""
    return (
        f"{name} failed {tries} times, at last with {type(error).__name__}: {first_line(error)}.{also} "
        "The other shards are kept: mend this, and run the same command again."
    )
