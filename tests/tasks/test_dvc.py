"""DVC decides the order and whether a stage runs; its failure is told in its own last lines."""

import subprocess

import pytest

from tasks import dvc
from tasks.errors import UserError
from tests.house import ROOT, STAGES


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
