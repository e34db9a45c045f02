"""Progress of long work: one line in a terminal, a log line now and then elsewhere, quiet in CI."""

import logging
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable

log = logging.getLogger("mintage.progress")
TERMINAL_SECONDS = 0.2
LOG_SECONDS = 30.0
WATCH_SECONDS = 10.0
# Whoever else wants to know, such as a server that shows it: called now and then, and at the end.
watchers: list[Callable[["Progress"], None]] = []


class Progress:
    """Counts images (or `unit`s of `each`) towards `total`: how many, how fast, how long there is to go.

    A worker process leaves the terminal's one line to its parent, and logs. Threads may share one.
    """

    def __init__(self, doing: str, total: int, done: int = 0, unit: str = "images", each: int = 1) -> None:
        self.doing, self.total, self.done = doing, total, done
        self.unit, self.each = unit, each
        self.already = done
        self.adding = threading.Lock()
        self.started = self.shown = self.watched = time.monotonic()
        alone = multiprocessing.parent_process() is None
        self.terminal = alone and sys.stderr.isatty() and "CI" not in os.environ

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *failure: object) -> None:
        if self.watched > self.started:
            self._tell(self.watched)
        if self.terminal:
            sys.stderr.write("\r" + self.line() + "\n")
        elif failure[0] is None and "CI" not in os.environ:
            log.info(self.line())

    def add(self, images: int, note: str = "") -> None:
        """Count `images` more, and show `note` (a loss, a split) beside them."""
        with self.adding:
            self.done += images
            now = time.monotonic()
            if now - self.watched >= WATCH_SECONDS:
                self._tell(now)
            if now - self.shown < (TERMINAL_SECONDS if self.terminal else LOG_SECONDS):
                return
            self.shown = now
            if self.terminal:
                sys.stderr.write("\r" + self.line(note).ljust(100))
                sys.stderr.flush()
            elif "CI" not in os.environ:
                log.info(self.line(note))

    def _tell(self, now: float) -> None:
        self.watched = now
        for watcher in list(watchers):
            watcher(self)

    def line(self, note: str = "") -> str:
        """The words that are shown: what, how many, how fast, how long to go."""
        seconds = max(time.monotonic() - self.started, 1e-9)
        rate = (self.done - self.already) / seconds
        left = (self.total - self.done) / rate if rate else float("inf")
        ahead = f"{left:.0f} s left" if 0 < left < float("inf") else f"{seconds:.1f} s"
        done, total, rate = self.done // self.each, self.total // self.each, rate / self.each
        speed = f"{rate:,.0f}" if rate >= 1 else f"{rate:.2g}"
        parts = [f"{self.doing}: {done:,} of {total:,} {self.unit}", f"{speed} {self.unit}/s", ahead]
        return ", ".join(parts + ([note] if note else []))
