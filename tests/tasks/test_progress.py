"""Progress shows how many, how fast and how long; in a terminal on one line, and not at all in CI."""

import io
import logging
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks import progress
from tasks.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_line_says_count_rate_and_time_left(clock):
    bar = Progress("train", 1_000)
    clock[0] += 10
    bar.done = 250
    assert bar.line("loss 0.5") == "train: 250 of 1,000 images, 25 images/s, 30 s left, loss 0.5"


def test_resumed_work_counts_only_its_own_rate(clock):
    bar = Progress("train", 1_000, done=500)
    clock[0] += 10
    bar.add(100)
    assert "10 images/s, 40 s left" in bar.line()


def test_terminal_gets_one_line(clock, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", screen)
    monkeypatch.delenv("CI", raising=False)
    with Progress("draw", 10) as bar:
        for _ in range(10):
            clock[0] += 1
            bar.add(1)
    assert screen.getvalue().count("\n") == 1
    assert screen.getvalue().count("\r") == 11


def test_elsewhere_it_is_logged_now_and_then(clock, monkeypatch, caplog):
    monkeypatch.delenv("CI", raising=False)
    with caplog.at_level(logging.INFO, "mintage.progress"), Progress("draw", 100) as bar:
        for _ in range(100):
            clock[0] += 1
            bar.add(1)
    assert len(caplog.messages) == 4


def test_ci_is_quiet(clock, monkeypatch, caplog):
    screen = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", screen)
    monkeypatch.setenv("CI", "true")
    with caplog.at_level(logging.INFO, "mintage.progress"), Progress("draw", 100) as bar:
        clock[0] += 100
        bar.add(100)
    assert (screen.getvalue(), caplog.messages) == ("", [])


def test_other_units_and_slow_rates(clock):
    bar = Progress("draw_shard", 8, unit="shards")
    clock[0] += 20
    bar.done = 3
    assert bar.line() == "draw_shard: 3 of 8 shards, 0.15 shards/s, 33 s left"


def test_a_worker_leaves_the_terminal_to_its_parent(clock, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", screen)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(progress.multiprocessing, "parent_process", lambda: object())
    with Progress("generate", 10) as bar:
        clock[0] += 1
        bar.add(10)
    assert screen.getvalue() == ""


def test_watchers_are_told_now_and_then_and_at_the_end(clock, monkeypatch):
    told = []
    monkeypatch.setattr(progress, "watchers", [lambda bar: told.append(bar.done)])
    with Progress("train", 100) as bar:
        for _ in range(33):
            clock[0] += 1
            bar.add(3)
    assert told == [30, 60, 90, 99]
    with Progress("soon done", 100) as bar:
        clock[0] += 1
        bar.add(100)
    assert len(told) == 4


def test_threads_that_share_one_tell_watchers_in_turn(monkeypatch):
    at_once, most = [], []

    def watch(bar):
        at_once.append(1)
        time.sleep(0.02)
        most.append(len(at_once))
        at_once.pop()

    monkeypatch.setattr(progress, "watchers", [watch])
    monkeypatch.setattr(progress, "WATCH_SECONDS", 0)
    bar = Progress("fetch", 4)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(bar.add, [1] * 4))
    assert (most, bar.done) == ([1] * 4, 4)
