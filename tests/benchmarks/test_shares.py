from pathlib import Path

from benchmarks import shares
from tests.benchmarks.benches import bench


def test_the_clock_counts_what_it_watches_and_lets_go(monkeypatch):
    class Worker:
        def work(self, for_):
            now[0] += for_
            return "done"

    now = [0.0]
    monkeypatch.setattr(shares.time, "monotonic", lambda: now[0])
    clock, worker = shares.Clock(bench(Path()).device), Worker()
    with clock.watching(Worker, "work"):
        assert worker.work(for_=3.0) == "done"
        now[0] += 5.0
    worker.work(for_=7.0)
    assert clock.seconds == 3.0
