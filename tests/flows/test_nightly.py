"""A scheduled run from end to end: in a clone of its own, published whole, and had by others."""

import json

import pytest
import yaml

from flows import pipeline as nightly
from tasks import dvc, keeping, publishing, workspace
from tasks.errors import UserError
from tests import publishing as tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory, prefect):
    """A tiny project, its origin and its store, as the flow's own tree; runs work in a clone beside."""
    base = tmp_path_factory.mktemp("nightly")
    with pytest.MonkeyPatch.context() as patch:
        tiny.settle(patch, base)
        home = tiny.project(base)
        patch.setattr(nightly, "ROOT", home)
        patch.setattr(workspace, "check", lambda root: None)  # it imports torch: see test_workspace
        yield base


def at_origin(base, *command):
    return tiny.run(base / "origin.git", "git", *command)


def night(**wanted):
    nightly.pipeline(**{"ref": "main", "fresh": True, "publish": True, **wanted})


def test_a_night_is_published(base, monkeypatch):
    """From a tree whose user is in the middle of something; no word of it counts."""
    from prefect.artifacts import Artifact

    kept, trim, sound = [], keeping.trim, (base / "home/params.yaml").read_text()

    def trimmed(root, home, keep):
        kept.append(keep)
        trim(root, home, keep)

    monkeypatch.setattr(keeping, "trim", trimmed)
    monkeypatch.chdir(base / "home")
    (base / "home/params.yaml").write_text("train: [")
    (base / "home/left.txt").write_text("the user is in the middle of something")
    before = tiny.run(base / "home", "git", "status", "--porcelain")
    night(overrides={"train.images": 9, "schedule.keep": 3})
    assert kept == [3]
    (tag,) = at_origin(base, "tag", "--list").split()
    assert tag.startswith("dataset/mnist5k-synthetic/20")
    assert at_origin(base, "show", "--format=", "--name-only", "main").split() == ["dvc.lock", "params.yaml"]
    assert at_origin(base, "rev-parse", f"{tag}^{{commit}}") == at_origin(base, "rev-parse", "main")
    params = yaml.safe_load(at_origin(base, "show", "main:params.yaml"))
    assert params["train"]["images"] == 9
    assert params["generate"]["seed"] > 0
    said = yaml.safe_load(at_origin(base, "for-each-ref", "--format=%(contents:body)", "refs/tags"))
    assert said["accuracy.synthetic.mean"] == params["generate"]["seed"] / 2**31
    assert said["kept"] == 3
    shown = {key: Artifact.get(key) for key in ("metrics", "samples", "report")}
    assert {"metric": "kept", "value": 3} in json.loads(shown["metrics"].data)
    assert shown["samples"].data.startswith("data:image/png;base64,")
    assert "data/report/report.html" in shown["report"].data
    assert tiny.run(base / "home", "git", "status", "--porcelain") == before
    assert not (base / "home/data").exists()
    (base / "home/params.yaml").write_text(sound)


def test_a_lost_race_goes_on_from_the_winner(base, monkeypatch):
    """Somebody pushes other source images while our data is on its way: the lock must be that of theirs."""
    push, raced = dvc.push, []

    def late(root):
        if not raced:
            raced.append(True)
            tiny.run(base / "home", "git", "pull", "--quiet", "--rebase", "origin", "main")
            tiny.commit(base / "home", **{"source.txt": "2"})
        push(root)

    monkeypatch.setattr(dvc, "push", late)
    monkeypatch.setattr(dvc, "_dvc", tiny.in_process)
    night()
    assert len(at_origin(base, "tag", "--list", "--contains", "main^").split()) == 1
    assert at_origin(base, "show", "main:source.txt") == "2"
    fresh = base / "fresh"
    tiny.run(base, "git", "clone", "--quiet", "origin.git", "fresh")
    tiny.in_process(["pull"], fresh)
    with dvc.opened(fresh) as repo:
        assert repo.status() == {}


def test_three_lost_races_are_told(base, monkeypatch):
    tried = []

    def lost(root, ref, due):
        tried.append(ref)
        return False

    monkeypatch.setattr(publishing, "publish", lost)
    monkeypatch.setattr(nightly, "run_stages", lambda root: None)
    with pytest.raises(UserError, match="others pushed to main first, 3 times"):
        night()
    assert tried == ["main"] * 3


@pytest.mark.parametrize(("ran", "expected"), [(True, ["COMPLETED"]), (False, []), (None, ["CRASHED"])])
def test_the_server_is_told_how_a_stage_ended_that_ran(monkeypatch, ran, expected):
    def reproduced(*asked, **how):
        if ran is None:
            raise KeyboardInterrupt
        return ran

    told = []
    monkeypatch.setattr(dvc, "reproduce", reproduced)
    monkeypatch.setattr(nightly, "close_nested", lambda parent, end: told.append(end.type.value))
    try:
        state = nightly.reproduce.fn("train", nightly.ROOT)
        assert state.name == ("Completed" if ran else "Unchanged")
    except KeyboardInterrupt:
        assert ran is None
    assert told == expected


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied", "/srv/cache"), ValueError("of a library's own")]
)
def test_a_cache_that_can_not_be_trimmed_fails_no_night(base, monkeypatch, caplog, error):
    def refused(*asked):
        raise error

    monkeypatch.setattr(keeping, "trim", refused)
    nightly.tidy(base / "home")
    assert f"the cache was not trimmed: {error}" in caplog.messages


def test_a_bad_night_keeps_the_cache_level_too(base, monkeypatch):
    def failed(root):
        raise UserError("a gate is broken")

    kept = []
    monkeypatch.setattr(nightly, "run_stages", failed)
    monkeypatch.setattr(keeping, "trim", lambda root, home, keep: kept.append(keep))
    with pytest.raises(UserError, match="a gate is broken"):
        night(overrides={"schedule.keep": 5})
    assert kept == [5]


def test_what_every_night_would_fail_of_is_said_at_once(base, monkeypatch, caplog):
    nightly.warn()
    assert caplog.messages == []
    tiny.run(base / "home", "git", "remote", "remove", "origin")
    try:
        nightly.warn()
    finally:
        tiny.run(base / "home", "git", "remote", "add", "origin", str(base / "origin.git"))
    (told,) = caplog.messages
    assert told.startswith("as it is, nights will fail: git remote: failed")


def test_what_changes_files_needs_a_clone():
    with pytest.raises(UserError, match="`ref`"):
        nightly.here({"train.images": 9}, publish=False)
    with pytest.raises(UserError, match="`ref`"):
        nightly.here({}, publish=True)
