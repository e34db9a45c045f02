"""What a scheduled run leaves at its remotes, and what not: real git and DVC, stages that take no time."""

import json
import logging
import shutil
from datetime import timedelta

import pytest

from tasks import delivering, dvc, publishing, workspace
from tasks.errors import UserError
from tests import publishing as tiny
from tests.nights import DUE, Nights


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    base = tmp_path_factory.mktemp("nights")
    with pytest.MonkeyPatch.context() as patch:
        tiny.settle(patch, base)
        # In this process, as starting DVC takes longer than all that it does here.
        patch.setattr(dvc, "_dvc", tiny.in_process)
        patch.setattr(workspace, "check", lambda root: None)
        yield Nights(base)


def test_a_second_night_without_changes_publishes_nothing_new(nights):
    assert nights.run(0) == ["generate", "export"]
    before = nights.tags(), nights.main()
    assert nights.run(1, fresh=False) == []
    assert (nights.tags(), nights.main()) == before
    assert len(before[0]) == 1


def stored(nights):
    return sorted(p for p in (nights.base / "store").rglob("*") if p.is_file())


def test_a_breached_gate_publishes_nothing(nights, capfd):
    before = nights.tags(), nights.main(), stored(nights)
    with pytest.raises(UserError, match="failed under DVC"):
        nights.run(2, gates__kept_ratio__min=0.9)
    assert "kept_ratio: under its gate" in capfd.readouterr().err
    assert (nights.tags(), nights.main(), stored(nights)) == before


def test_a_commit_without_a_tag_is_not_told_as_a_new_version(nights, caplog):
    """Other params that decide no byte of the dataset: it has its tag already."""
    before = nights.tags()
    with caplog.at_level(logging.INFO):
        assert nights.run(0, schedule__keep=29) == []
    assert nights.tags() == before
    (told,) = [said for said in caplog.messages if said.startswith("published ")]
    assert told.endswith(": HEAD:refs/heads/main")


def test_a_push_that_fails_takes_no_earlier_tag_away(nights, monkeypatch):
    aside = nights.base / "aside.git"
    monkeypatch.setattr(dvc, "push", lambda root: nights.origin.rename(aside))
    try:
        with pytest.raises(UserError, match="fetch: failed"):
            nights.run(0, schedule__keep=28)
    finally:
        aside.rename(nights.origin)
    assert tiny.run(nights.clone, "git", "tag", "--list").split() == nights.tags()


def test_where_nothing_can_be_published_to_is_told(nights, tmp_path):
    home = tiny.project(tmp_path)
    publishing.ready(home)
    params = (home / "params.yaml").read_text()
    (home / "params.yaml").write_text(params.replace("mnist5k-synthetic", "a..b"))
    with pytest.raises(UserError, match=r"export\.name: git can't tag a dataset as 'a\.\.b'"):
        publishing.ready(home)
    (home / "params.yaml").write_text(params)
    for url in (str(nights.home), nights.home.as_uri(), str(nights.home / ".git")):
        tiny.run(home, "git", "remote", "set-url", "origin", url)
        with pytest.raises(UserError, match="is a working tree"):
            publishing.ready(home)
    (home / ".dvc/config").write_text("")
    with pytest.raises(UserError, match="no DVC remote"):
        publishing.ready(home)


SIGNING = "[tag]\n\tgpgSign = true\n[gpg]\n\tprogram = false\n"


@pytest.mark.parametrize("refusal", ["a tag in the way", "a signature without a key", "nobody to push to"])
def test_what_git_will_refuse_is_told_before_any_work(tmp_path, monkeypatch, refusal):
    home = tiny.project(tmp_path)
    before = tiny.run(home, "git", "rev-parse", "HEAD"), tiny.run(home, "git", "tag", "--list")
    if refusal == "a tag in the way":
        tiny.run(home, "git", "tag", "dataset/mnist5k-synthetic")
        words = "there is a tag dataset/mnist5k-synthetic"
    elif refusal == "a signature without a key":
        (tmp_path / "config").write_text(SIGNING)
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
        words = "git tag: failed"
    else:
        tiny.run(home, "git", "remote", "set-url", "--push", "origin", str(tmp_path / "nowhere"))
        words = "git push: failed"
    with pytest.raises(UserError, match=words):
        publishing.ready(home)
    if refusal == "a tag in the way":
        tiny.run(home, "git", "tag", "--delete", "dataset/mnist5k-synthetic")
        publishing.ready(home)
    assert (tiny.run(home, "git", "rev-parse", "HEAD"), tiny.run(home, "git", "tag", "--list")) == before
    assert tiny.run(home, "git", "status", "--porcelain") == ""


def raced(nights, monkeypatch, meanwhile):
    """What publish says if something happens at origin while the data is on its way."""
    push = dvc.push

    def late(root):
        push(root)
        monkeypatch.setattr(dvc, "push", push)
        meanwhile()

    with workspace.clone_of(nights.home) as root:
        workspace.prepare(root, nights.home, "main", {"generate.seed": 77})
        for stage in dvc.stages(root):
            dvc.reproduce(stage, root, {}, sparse=True)
        monkeypatch.setattr(dvc, "push", late)
        return publishing.publish(root, "main", DUE + timedelta(days=30))


@pytest.mark.parametrize("how", ["rewound", "deleted"])
def test_what_left_a_branch_does_not_return(nights, monkeypatch, how):
    before = nights.main()
    tiny.run(nights.home, "git", "pull", "--quiet", "--rebase", "origin", "main")
    tiny.commit(nights.home, **{"leaked.txt": "a key"})
    where = [f"{before}:refs/heads/main"] if how == "rewound" else [f"{before}:refs/heads/aside", ":main"]

    def taken_back():
        tiny.run(nights.home, "git", "push", "--quiet", "--force", "origin", *where)

    if how == "deleted":
        tiny.run(nights.origin, "git", "config", "receive.denyDeleteCurrent", "ignore")
    tags = nights.tags()
    try:
        assert raced(nights, monkeypatch, taken_back) is False
        heads = tiny.run(nights.origin, "git", "branch", "--format=%(refname:lstrip=2) %(objectname)")
        assert heads == f"{'main' if how == 'rewound' else 'aside'} {before}"
        assert nights.tags() == tags
    finally:
        tiny.run(nights.home, "git", "reset", "--quiet", "--hard", before)
        tiny.run(nights.home, "git", "push", "--quiet", "--force", "origin", f"{before}:refs/heads/main")
        if how == "deleted":
            tiny.run(nights.home, "git", "push", "--quiet", "origin", ":aside")


def test_a_tag_that_another_machine_pushed_first_is_a_lost_race(nights, monkeypatch):
    """From the same commit of another branch: nothing but the tag is in the way."""

    def tagged():
        found = publishing.digest(nights.clone)[: publishing.DIGITS]
        tag = f"dataset/mnist5k-synthetic/{DUE + timedelta(days=30):%Y-%m-%d}-{found}"
        tiny.run(nights.home, "git", "tag", "--annotate", "--message", "theirs", tag)
        tiny.run(nights.home, "git", "push", "--quiet", "origin", tag)

    assert raced(nights, monkeypatch, tagged) is False
    with workspace.clone_of(nights.home) as root:
        assert publishing.publish(root, "main", DUE) is True


def test_a_dataset_without_a_name_has_the_default(nights):
    params = (nights.home / "params.yaml").read_text()
    (nights.home / "params.yaml").write_text(params.replace("name: mnist5k-synthetic\n", "shard_size: 5\n"))
    assert publishing._name(nights.home) == "synthetic"
    (nights.home / "params.yaml").write_text(params)


def test_data_that_nobody_has_is_not_published(nights, monkeypatch):
    """Of such DVC's push only warns. Somebody tidied up the cache while the night was at work."""
    before, deliver = nights.tags(), delivering.deliver

    def tidied(root):
        deliver(root)
        shutil.rmtree(nights.home / ".dvc/cache/files")

    monkeypatch.setattr(delivering, "deliver", tidied)
    with pytest.raises(UserError, match="are not at the remote"):
        nights.run(20)
    monkeypatch.undo()
    assert nights.tags() == before
    nights.run(22)
    card = nights.clone / "data/export/README.md"
    (export,) = [path for path in stored(nights) if path.read_bytes() == card.read_bytes()]
    export.unlink()  # from the store: DVC, which has sent the folder, does not ask for what lies in it
    with pytest.raises(UserError, match=r"push: 1 of the files"):
        nights.run(22, export__license="mit")
    shutil.copy(card, export)
    shutil.rmtree(nights.clone / "data")
    assert nights.run(21) == ["generate", "export"]


def test_a_remote_that_is_down_costs_its_night_alone(nights):
    before = nights.tags(), nights.main()
    store, aside = nights.base / "store", nights.base / "aside"
    store.rename(aside)
    store.write_text("not a folder")
    try:
        with pytest.raises(UserError, match="push: failed under DVC"):
            nights.run(3)
        assert (nights.tags(), nights.main()) == before
    finally:
        store.unlink()
        aside.rename(store)
    assert nights.run(4) == ["generate", "export"]
    assert len(nights.tags()) == len(before[0]) + 1


def test_an_empty_machine_pulls_what_it_needs_and_makes_nothing_again(nights):
    shutil.rmtree(nights.clone)
    shutil.rmtree(nights.home / ".dvc/cache")
    assert nights.run(5, fresh=False) == []
    assert json.loads((nights.clone / "data/export/index.json").read_text())["kept"] == 3
    assert not (nights.clone / "data/synthetic").exists()
    assert nights.run(6, fresh=False, export__license="mit") == ["export"]  # pulls what export reads


def test_old_versions_leave_the_cache_but_not_the_remote(nights):
    nights.run(7, keep=2)
    level = nights.cached()
    by_hand = nights.home / ".dvc/cache/files/md5/ab/cdef"
    by_hand.parent.mkdir(exist_ok=True)
    by_hand.write_text("made by the user")
    nights.run(8, publish=False, keep=2)
    nights.run(9, keep=2)
    assert nights.cached() == level + 1
    assert by_hand.exists()
    tiny.run(nights.home, "git", "fetch", "--quiet", "--tags", "origin")
    oldest, origin = nights.tags()[0], str(nights.origin)
    tiny.run(nights.base, "dvc", "get", "--quiet", "--rev", oldest, origin, "data/export")
    assert (nights.base / "export/index.json").exists()


def test_what_a_user_has_leaves_the_cache_once_he_has_moved_on(nights):
    level = nights.cached()
    tiny.run(nights.home, "git", "pull", "--quiet", "--ff-only", "origin", "main")
    for day in (10, 11, 12):
        nights.run(day, keep=2)
    assert nights.cached() > level
    tiny.run(nights.home, "git", "pull", "--quiet", "--ff-only", "origin", "main")
    nights.run(13, keep=2)
    assert nights.cached() == level


def test_a_cache_outside_the_tree_is_left_alone(nights, caplog):
    """Others may use it too, of whom nothing is known."""
    elsewhere, local = nights.base / "elsewhere", nights.home / ".dvc/config.local"
    local.write_text(f"['cache']\n    dir = {elsewhere}\n")
    try:
        with caplog.at_level(logging.INFO):
            for day in (14, 15):
                nights.run(day, keep=1)
    finally:
        local.unlink()
    assert "may be shared with other projects" in caplog.text
    assert sum(path.is_file() for path in elsewhere.rglob("*")) > 8
