"""DVC decides the order and whether a stage runs; its failure is told in its own last lines."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks import dvc, workspace
from tasks.errors import UserError
from tests.house import ROOT, STAGES
from tests.processes import gone


@pytest.fixture
def project(tmp_path):
    """A repository of two stages, the later one written first."""
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n"
        "  second: {cmd: cp first.txt second.txt, deps: [first.txt], outs: [second.txt]}\n"
        "  first: {cmd: cp source.txt first.txt, deps: [source.txt], outs: [first.txt]}\n"
    )
    (tmp_path / "source.txt").write_text("1")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    from dvc.repo import Repo

    Repo.init(str(tmp_path)).close()
    return tmp_path


def test_order_is_that_of_the_graph(project):
    assert dvc.stages(project) == ["first", "second"]
    assert dvc.stages(ROOT) == list(STAGES)


def test_a_stage_runs_once_and_is_then_unchanged(project):
    assert dvc.reproduce("first", project, {}) is True
    assert (project / "first.txt").read_text() == "1"
    assert dvc.reproduce("first", project, {}) is False


def test_a_failed_stage_is_told_by_its_last_lines(project):
    (project / "source.txt").unlink()
    with pytest.raises(UserError, match=r"first: failed under DVC(.|\n)*source\.txt"):
        dvc.reproduce("first", project, {})


def test_a_broken_dvc_yaml_is_named(project):
    (project / "dvc.yaml").write_text("stages: [")
    with pytest.raises(UserError, match=r"dvc\.yaml"):
        dvc.stages(project)


def test_a_full_disk_is_told_in_plain_words(project):
    """DVC keeps what it knows of files in a database, and says so in that one's words."""
    with pytest.raises(UserError, match="dvc: database or disk is full"), dvc.opened(project):
        raise sqlite3.OperationalError("database or disk is full")


def test_a_stage_is_told_no_key(project, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never to be seen")
    monkeypatch.setenv("PREFECT_API_KEY", "told to the server")
    (project / "dvc.yaml").write_text("stages: {told: {cmd: env > told.txt, outs: [told.txt]}}")
    dvc.reproduce("told", project, {"MINTAGE_TASK_RUN": "some run"})
    told = (project / "told.txt").read_text()
    assert "never to be seen" not in told
    assert "told to the server" in told
    assert "MINTAGE_TASK_RUN=some run" in told


@pytest.mark.parametrize("doing", ["push", "fetch"])
def test_a_store_that_hangs_is_given_up(project, monkeypatch, doing):
    """In the place of DVC, something that never ends."""
    (project / "dvc").mkdir()
    (project / "dvc/__init__.py").write_text("")
    (project / "dvc/__main__.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(dvc, "STORE_HOURS", 0.5 / 3_600)
    monkeypatch.setattr(dvc, "remote", lambda root: "store")
    with pytest.raises(UserError, match=f"{doing}: given up after"):
        dvc.push(project) if doing == "push" else dvc.fetch(["first.txt"], project)


SLOW = """
import os, time
from pathlib import Path
from tasks.children import die_with_parent
die_with_parent()
Path("pid").write_text(str(os.getpid()))
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
@pytest.mark.parametrize("killed", ["the run", "dvc"])
def test_no_stage_and_no_lock_outlive_a_killed_process(project, monkeypatch, killed):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (project / "slow.py").write_text(SLOW)
    (project / "dvc.yaml").write_text("stages: {slow: {cmd: python slow.py, outs: [slow.txt]}}")
    code = "import sys; from pathlib import Path; from tasks import dvc; dvc.reproduce('slow', Path('.'), {})"
    run = subprocess.Popen([sys.executable, "-c", code], cwd=project, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not (project / "pid").exists() or not (project / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stage = int((project / "pid").read_text())
    child = int(Path(f"/proc/{stage}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(run.pid if killed == "the run" else child, signal.SIGKILL)
    run.wait(10)
    assert gone(stage, within=10)
    assert gone(child, within=10)
    workspace.free(project)
    (project / "slow.py").write_text("open('slow.txt', 'w')")
    assert dvc.reproduce("slow", project, {}) is True
