import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

from benchmarks import kills
from benchmarks.machines import until
from tasks.layout import PARAMS
from tasks.reading import read


def test_the_table_of_kills_is_what_was_counted(tmp_path):
    rows = {"computed_on": {"digest": "x"}}
    kills.note(tmp_path / "kills.json", rows, "train, all killed", True, "begun")
    kills.note(tmp_path / "kills.json", rows, "train, all killed", False, "half done")
    kills.note(tmp_path / "kills.json", rows, "generate, 2 workers", True)
    assert json.loads((tmp_path / "kills.json").read_text()) == rows
    lines = kills.table(rows).splitlines()[2:]
    assert lines == ["| train, all killed | 2 | 1 |", "| generate, 2 workers | 1 | 1 |"]


def test_a_worker_is_found_whichever_thread_started_it():
    worker = get_context("spawn").Process(target=time.sleep, args=(60,))
    with ThreadPoolExecutor(1) as elsewhere:
        elsewhere.submit(worker.start).result()
        # Linux says what a process runs a moment after it has begun to.
        until(lambda: worker.pid in kills.workers(os.getpid()), "the worker")
        worker.kill()
        worker.join()
    assert worker.pid not in kills.workers(os.getpid())


def test_the_facts_told_are_those_of_the_stages_that_are_killed(tmp_path):
    here = kills.Project(tmp_path / "project", {})
    assert read(here.root / PARAMS).machine.device == here.facts["device"] == "cpu"
    assert here.facts["threads"] == "1"
