"""Processes: children that end with their parent, and work that a stop may not break."""

import atexit
import contextlib
import ctypes
import multiprocessing.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

GRACE_SECONDS = 8
STOPS = (signal.SIGINT, signal.SIGTERM)
PR_SET_PDEATHSIG = 1


def die_with_parent(wish: int = signal.SIGTERM) -> None:
    """Ask Linux to end this process when its parent dies, also by SIGKILL. Elsewhere, nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, wish)
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            os._exit(1)  # it died before it could be asked for


@cache
def end_with_parent() -> None:
    """Die with the parent, and soon: a server that is to be told of it may be gone too."""
    parent = os.getppid()

    def limit() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        time.sleep(GRACE_SECONDS)
        os._exit(1)

    die_with_parent()
    threading.Thread(target=limit, daemon=True).start()


def end_in_time(code: int) -> None:
    """Have what this process does at its exit take no longer than GRACE_SECONDS, and end it with `code`.

    A queue that a killed worker left full would else be waited for until the machine is switched off.
    """
    exiting = threading.Event()

    def limit() -> None:
        exiting.wait()
        time.sleep(GRACE_SECONDS)
        os._exit(code)

    # Not by an alarm: while Python takes itself down, which a busy machine is slow at, that would kill it.
    threading.Thread(target=limit, daemon=True).start()
    # multiprocessing, which waits so, was imported before: what is registered last comes first.
    atexit.register(exiting.set)


def stop_group(child: "subprocess.Popen[Any]") -> None:
    """End a child that leads a session, and all that it started: politely first, so that locks are freed."""
    for wish in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is not None:
            break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, wish)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def stop_workers() -> None:
    """End this process's workers: politely first, and all within GRACE_SECONDS."""
    workers = multiprocessing.active_children()
    for worker in workers:
        worker.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
        if worker.is_alive():
            worker.kill()


@contextlib.contextmanager
def kills_children() -> Iterator[None]:
    """If the block is stopped, kill this process's workers: whoever started them would wait for their end."""
    try:
        yield
    except KeyboardInterrupt:
        for child in multiprocessing.active_children():
            child.kill()
        raise


@contextlib.contextmanager
def unbroken() -> Iterator[None]:
    """Let a stop by SIGINT or SIGTERM wait until the block ends, and be a KeyboardInterrupt then.

    In another thread than the main one, which alone gets signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    old = {number: signal.signal(number, lambda got, frame: came.append(got)) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt
