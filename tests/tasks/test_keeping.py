"""The cache stays level, whatever one night or one branch left behind, and no data of the user's is lost."""

import logging
import shutil
import subprocess

import pytest

from tasks import dvc, keeping, workspace
from tasks.errors import UserError
from tests import publishing as tiny
from tests.nights import Nights


@pytest.fixture
def nights(tmp_path, monkeypatch):
    tiny.settle(monkeypatch, tmp_path)
    monkeypatch.setattr(dvc, "_dvc", tiny.in_process)
    monkeypatch.setattr(workspace, "check", lambda root: None)
    return Nights(tmp_path)


def by_hand(nights, seed):
    """Run the user's own tree with a seed, commit nothing, and return the file of the cache that it made."""
    path = nights.home / "params.yaml"
    path.write_text(path.read_text().replace("seed: 0", f"seed: {seed}"))
    tiny.in_process(["repro"], nights.home)
    with dvc.opened(nights.home) as repo:
        (out,) = [o for s in repo.index.stages for o in s.outs if o.def_path == "data/synthetic"]
        return repo.cache.local.oid_to_path(out.hash_info.value)


def there(nights, path):
    return (nights.home / path).exists()


def test_what_can_not_be_read_is_forgotten_and_told(nights, caplog):
    """A night's params of which DVC makes nothing, and a branch with such ones."""
    nights.run(0, keep=1)
    tree = tiny.run(nights.clone, "git", "rev-parse", "HEAD^{tree}")
    (nights.clone / "params.yaml").write_text("export: {name: x, license: 2026-02-28}\ngenerate: {seed: 1}\n")
    keeping.hold(nights.clone)
    tiny.run(nights.home, "git", "checkout", "--quiet", "-b", "wip")
    (nights.home / "params.yaml").write_text("generate: {seed: 2026-02-28}\n")
    tiny.run(nights.home, "git", "commit", "--quiet", "--all", "--message", "work")
    tiny.run(nights.home, "git", "checkout", "--quiet", "main")
    with caplog.at_level(logging.WARNING):
        for day in (1, 2):
            nights.run(day, keep=1)
    held = tiny.run(nights.clone, "git", "for-each-ref", "--format=%(refname)", keeping.HELD).split()
    assert len(held) == 1
    assert held[0] != keeping.HELD + tree
    told = [said for said in caplog.messages if "can't be read" in said]
    assert len([said for said in told if "wip" in said]) == 2
    assert len(told) == 3


@pytest.mark.parametrize("state", ["half-typed params", "a conflict", "stashed"])
def test_what_the_user_is_in_the_middle_of_stays(nights, state):
    """The clone has made the same, and nobody has published it."""
    made = by_hand(nights, 5)
    nights.run(1, fresh=False, publish=False, generate__seed=5)
    if state == "stashed":
        tiny.run(nights.home, "git", "add", "dvc.lock")
        tiny.run(nights.home, "git", "stash", "--quiet")
    else:
        name = "params.yaml" if state == "half-typed params" else "dvc.lock"
        (nights.home / name).write_text("train: [" if name == "params.yaml" else "<<<<<<< HEAD\n")
    if state == "stashed":
        nights.run(2, keep=1)
    else:
        with pytest.raises(UserError, match=r"workspace can't be read: .*Nothing is removed"):
            nights.run(2, keep=1)
    assert there(nights, made)


def test_versions_to_keep_stay_though_the_clone_was_made_again(nights):
    nights.run(0, keep=2)
    made = {path for path in (nights.home / ".dvc/cache/files").rglob("*") if path.is_file()}
    shutil.rmtree(nights.clone)
    assert nights.run(1, fresh=False, generate__seed=yesterday(nights)) == []
    nights.run(2, keep=2)
    assert all(path.exists() for path in made)


def yesterday(nights):
    import yaml

    return yaml.safe_load(tiny.run(nights.origin, "git", "show", "main:params.yaml"))["generate"]["seed"]


def test_a_link_to_a_shared_cache_is_left_alone(nights, caplog):
    elsewhere = nights.base / "elsewhere"
    elsewhere.mkdir()
    (nights.home / ".dvc/cache").symlink_to(elsewhere)
    with caplog.at_level(logging.INFO):
        for day in (0, 1):
            nights.run(day, keep=1)
    assert "may be shared with other projects" in caplog.text


def test_tags_of_no_commit_are_no_hindrance(nights):
    tiny.run(nights.home, "git", "tag", "blob", "HEAD:params.yaml")
    tiny.run(nights.home, "git", "tag", "--annotate", "--message", "a tree", "tree", "HEAD^{tree}")
    tiny.run(nights.home, "git", "tag", "--annotate", "--message", "release", "v1")
    assert keeping._named(nights.home) == ["refs/tags/v1"]
    level = [nights.run(day, keep=1) and nights.cached() for day in (0, 1, 2)]
    assert level[1] == level[2]


def test_an_index_that_a_merge_left_is_no_hindrance(nights):
    nights.run(0)
    blob = tiny.run(nights.clone, "git", "hash-object", "-w", "make.py")
    entries = "".join(f"100644 {blob} {stage}\tmake.py\n" for stage in (1, 2, 3))
    command = ["git", "update-index", "--index-info"]
    subprocess.run(command, cwd=nights.clone, input=entries, text=True, check=True)
    assert nights.run(1) == ["generate", "export"]
