"""DVC decides the order and whether a stage runs; its failure is told in its own last lines."""

import contextlib
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


def test_only_the_stages_of_its_own_dvc_yaml_are_run(project):
    """Beside them: what `dvc add` wrote of the source, and another dvc.yaml."""
    from dvc.repo import Repo

    with contextlib.chdir(project), Repo() as repo:
        repo.add("source.txt")
    (project / "other").mkdir()
    (project / "other/dvc.yaml").write_text("stages: {first: {cmd: echo 1 > x, outs: [x]}}")
    assert dvc.stages(project) == ["first", "second"]
    assert dvc.reproduce("first", project, {}, sparse=True)
    (project / "source.txt").unlink()
    assert not dvc.reproduce("first", project, {}, sparse=True)
    (project / "first.txt").unlink()
    (project / "dvc.yaml").write_text((project / "dvc.yaml").read_text().replace("cp source", "cat source"))
    with pytest.raises(UserError, match="first: failed under DVC"):
        dvc.reproduce("first", project, {}, sparse=True)
    assert (project / "source.txt").read_text() == "1"  # brought back for it


@pytest.mark.parametrize("ignored", [False, True])
def test_a_dep_that_git_should_have_brought_is_missed(project, ignored):
    """One that git ignores may lie on another machine: where nothing else changed, it is not needed."""
    assert dvc.reproduce("first", project, {}, sparse=True)
    (project / "source.txt").unlink()
    if ignored:
        (project / ".gitignore").write_text("source.txt\nfirst.txt\n")
        assert not dvc.reproduce("first", project, {}, sparse=True)
    else:
        with pytest.raises(UserError, match=r"first: failed under DVC(.|\n)*source\.txt"):
            dvc.reproduce("first", project, {}, sparse=True)


def test_a_source_that_can_not_be_reached_is_told_in_dvcs_lines(project, monkeypatch):
    """Of what reaches it, each library has errors of its own."""
    from dvc.stage import PipelineStage

    def refused(*asked, **how):
        raise ImportError("gs is supported, but requires 'dvc-gs' to be installed")

    monkeypatch.setattr(PipelineStage, "changed", refused)
    (project / "source.txt").unlink()
    with pytest.raises(UserError, match="first: failed under DVC"):
        dvc.reproduce("first", project, {})


def test_a_store_whose_package_is_missing_is_told(project, monkeypatch):
    monkeypatch.setitem(sys.modules, "dvc_gs", None)
    (project / "dvc.yaml").write_text("stages: {a: {cmd: touch a, deps: ['gs://bucket/x'], outs: [a]}}")
    with pytest.raises(UserError, match="dvc: gs is supported, but requires 'dvc-gs'"):
        dvc.stages(project)


def test_outs_whose_cache_is_gone_are_taken_away(project):
    for stage in ("first", "second"):
        dvc.reproduce(stage, project, {})
    (project / "first.txt").unlink()
    (project / "first.txt").symlink_to(project / "gone")
    dvc.settle(project)
    assert not (project / "first.txt").is_symlink()
    assert (project / "second.txt").exists()


@pytest.mark.parametrize("option", ["push: false", "remote: other"])
def test_what_goes_to_another_store_or_to_none_is_not_missed(project, option):
    (project / "dvc.yaml").write_text(
        f"stages:\n  a: {{cmd: mkdir a; echo 1 > a/b, outs: [a: {{{option}}}]}}\n"
        "  b: {cmd: echo 2 > c, outs: [c]}\n"
    )
    (project / ".dvc/config").write_text(
        "[core]\n    remote = store\n"
        + "".join(f"['remote \"{name}\"']\n    url = {project / name}\n" for name in ("store", "other"))
    )
    for stage in dvc.stages(project):
        dvc.reproduce(stage, project, {})
    dvc.push(project)
    there = {name for name in ("store", "other") for path in (project / name).rglob("*") if path.is_file()}
    assert there == {"store", *({"other"} if "other" in option else ())}
    if "other" in option:
        for path in [path for path in (project / "other").rglob("*") if path.is_file()]:
            if not path.name.endswith(".dir"):
                path.unlink()
        with pytest.raises(UserError, match="push: 1 of the files"):
            dvc.push(project)


def test_a_broken_dvc_yaml_is_named(project):
    (project / "dvc.yaml").write_text("stages: [")
    with pytest.raises(UserError, match=r"dvc\.yaml"):
        dvc.stages(project)


def test_a_full_disk_is_told_in_plain_words(project):
    """DVC keeps what it knows of files in a database, and says so in that one's words."""
    with pytest.raises(UserError, match="dvc: database or disk is full"), dvc.opened(project):
        raise sqlite3.OperationalError("database or disk is full")


def test_a_broken_database_is_told_with_the_mend(project, monkeypatch):
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(project / "site"))
    with dvc.opened(project) as repo:
        repo.state.hashes.set("a", "b")
    (database, *_) = (project / "site/repo").rglob("cache.db")
    database.write_bytes(bytes(200))
    with pytest.raises(UserError, match=f"Remove its notes.*rm -r {project}/site/repo"), dvc.opened(project):
        pass


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


def test_a_killed_dvc_is_told_as_such(project):
    (project / "dvc").mkdir()
    (project / "dvc/__init__.py").write_text("")
    (project / "dvc/__main__.py").write_text(
        "import os\n"
        "print('at work', flush=True)\n"
        "print('resource_tracker: leaked', flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    with pytest.raises(UserError) as told:
        dvc._dvc(["repro"], project, os.environ, "train")
    assert str(told.value) == "train: DVC was killed by signal 9. Its last lines:\nat work"


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
