"""No child outlives its parent, however the parent ends; and a stop breaks no work that may not break."""

import multiprocessing
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tasks.children import kills_children, stop_group, unbroken
from tests.house import ROOT
from tests.processes import alive, gone

GRANDCHILD = (
    "import subprocess, sys, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
)


def test_a_stopped_child_takes_its_children_with_it():
    child = subprocess.Popen(
        [sys.executable, "-c", GRANDCHILD], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    grandchild = int(child.stdout.readline())
    assert alive(grandchild)
    stop_group(child)
    assert gone(child.pid)
    assert gone(grandchild)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_killed_parent_takes_its_child_with_it():
    code = (
        "import subprocess, time; from tasks.children import die_with_parent; "
        "print(subprocess.Popen(['sleep', '60'], preexec_fn=die_with_parent).pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    child = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert gone(child)


def test_a_child_that_is_busy_when_its_parent_dies_ends_soon():
    busy = (
        "import signal, time; from tasks import children; children.GRACE_SECONDS = 0.1; "
        "children.end_with_parent(); signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('ready', flush=True); time.sleep(60)"
    )
    code = (
        "import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', sys.argv[1]], "
        "stdout=subprocess.PIPE); child.stdout.readline(); print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, busy], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    parent.wait()
    assert gone(child)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_child_whose_parent_dies_before_it_asks_ends_too():
    code = """
import multiprocessing, os, signal, time
from tasks.children import die_with_parent

def late():
    while multiprocessing.parent_process().is_alive():
        time.sleep(0.01)
    die_with_parent()
    time.sleep(60)

child = multiprocessing.get_context("fork").Process(target=late)
child.start()
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    child = int(parent.stdout.readline())
    parent.wait()
    assert gone(child)


def test_a_stop_kills_workers_and_another_error_does_not(monkeypatch):
    killed = []
    child = SimpleNamespace(kill=lambda: killed.append(1))
    monkeypatch.setattr(multiprocessing, "active_children", lambda: [child])
    with pytest.raises(ValueError, match="own"), kills_children():
        raise ValueError("its own")
    assert killed == []
    with pytest.raises(KeyboardInterrupt), kills_children():
        raise KeyboardInterrupt
    assert killed == [1]


def test_a_stop_waits_until_unbroken_work_is_done():
    done = []

    def work():
        with unbroken():
            signal.raise_signal(signal.SIGINT)
            done.append(1)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == [1]
    before = signal.getsignal(signal.SIGINT)
    with unbroken():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_what_fails_in_unbroken_work_fails_as_itself():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="own"), unbroken():
        raise ValueError("its own")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_queue_that_nobody_reads_does_not_keep_a_process_from_its_end():
    code = """
import multiprocessing
from tasks import children
children.GRACE_SECONDS = 1
children.end_in_time(7)
left_full = multiprocessing.Queue()
left_full.put(bytes(1 << 20))
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False)
    assert ended.returncode == 7


def test_a_process_that_is_slow_to_go_has_its_own_code():
    """Also where Python takes longer than that to take itself down, and handles no signal any more."""
    code = """
import sys, time
from tasks import children
class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(2)
children.GRACE_SECONDS = 1
children.end_in_time(0)
sys.slow = Slow()
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False).returncode == 0
