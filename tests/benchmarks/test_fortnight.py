"""The diary says what came of each night, and where it is not what should have."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from benchmarks import fortnight, machines
from tests import publishing as tiny

ROW = {
    "night": 3,
    "what": "nothing special",
    "state": "COMPLETED",
    "stages": 4,
    "versions": ["dataset/digits/2026-11-04-bd9ba077"],
    "cache": 3_600_000,
    "faults": [],
}


def test_a_night_is_a_row_and_what_held_is_a_list():
    lines = fortnight.markdown({"diary": [ROW], "held": {"all is well": True, "so is this": False}}).split(
        "\n"
    )
    assert lines[2] == "| 3 | nothing special | completed | 4 | 2026-11-04-bd9ba077 | 3.60 |"
    assert lines[-2:] == ["- all is well: yes", "- so is this: NO"]


@pytest.fixture
def diary(tmp_path):
    """A fortnight whose run has failed and published nothing."""
    here = object.__new__(fortnight.Fortnight)
    here.diary, here.before, here.started = [], [], 0.0
    here.machines = SimpleNamespace(home=tmp_path, tags=list, orphans=list)
    state = SimpleNamespace(type=SimpleNamespace(value="FAILED"), message="the store is down")
    here.prefect = SimpleNamespace(
        ended=lambda run: state,
        stages=lambda run: ["train"],
        said=lambda run: "push",
    )
    return here


def test_what_was_expected_is_no_fault(diary):
    diary.end("a bad night", "run", state="FAILED", says="store is down")
    assert diary.diary[0]["faults"] == []


def test_each_thing_that_was_not_expected_is_one(diary, capsys):
    diary.machines.tags, diary.machines.orphans = lambda: ["a", "b"], lambda: ["python -m flows.train"]
    diary.end("a good night", "run", says="going on from")
    assert diary.diary[0]["faults"] == [
        "FAILED: the store is down",
        "2 versions",
        "left running: python -m flows.train",
        "never said 'going on from'",
    ]
    assert "NOT AS IT SHOULD" in capsys.readouterr().out


def test_a_process_in_the_teams_trees_is_found_and_no_machine(tmp_path):
    (tmp_path / "home").mkdir()
    here = SimpleNamespace(base=tmp_path, processes={})
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, cwd=tmp_path / "home", stdin=subprocess.PIPE) as child:
        assert len(machines.Machines.at_work(here)) == 1
        here.processes["worker"] = child
        assert machines.Machines.at_work(here) == []
        here.processes.clear()
        child.stdin.close()
    assert machines.Machines.at_work(here) == []


def test_runs_that_queue_do_not_overlap():
    def read(first, second):
        runs = {name: SimpleNamespace(start_time=a, end_time=b) for name, (a, b) in (first, second)}
        client = SimpleNamespace(read_flow_run=runs.__getitem__)
        return machines.Prefect.overlap(SimpleNamespace(client=client), list(runs))

    assert not read(("late", (3, 5)), ("early", (1, 3)))
    assert read(("late", (2, 5)), ("early", (1, 3)))


def test_the_key_is_found_in_files_and_in_origins_history(tmp_path):
    team = SimpleNamespace(base=tmp_path, origin=tmp_path / "origin")
    team.git = lambda root, *asked: tiny.run(root, "git", *asked)
    team.origin.mkdir()
    tiny.run(team.origin, "git", "init", "--quiet")

    def commit(text):
        (team.origin / "a.txt").write_text(text)
        tiny.run(team.origin, "git", "add", "a.txt")
        tiny.run(team.origin, "git", "commit", "--quiet", "--message", "a change")
        return tiny.run(team.origin, "git", "rev-parse", "HEAD").strip()

    team.began = commit("nothing")
    assert fortnight.told(team) == []
    commit(machines.SECRET)
    commit("nothing again")
    assert fortnight.told(team) == [str(team.origin)]
    (tmp_path / "loud.log").write_text(f"key: {machines.SECRET}")
    assert fortnight.told(team) == [str(tmp_path / "loud.log"), str(team.origin)]
