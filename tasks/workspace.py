"""The clone of its own in which a scheduled run works: kept between runs, never the user's tree.

It lies in the user's cache folder, shares the DVC cache and the remotes' settings of the tree that
the run was started from, and is brought to the wanted commit at every run. Unfinished work in it
stays, so that a run that was cut off is gone on with.
"""

import fcntl
import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks import dvc
from tasks.errors import UserError
from tasks.git import asked, git
from tasks.keeping import hold
from tasks.layout import PARAMS
from tasks.overriding import override
from tasks.secrets import LOGIN, for_stage
from tasks.shards import whole

log = logging.getLogger("mintage.workspace")
BRANCHES = "refs/remotes/origin/"
REACHING = r"^(credential|http|url)\.|^remote\.origin\.pushurl$"
# No question is asked that nobody answers, and a server that is silent is given up.
SSH_OPTIONS = "-o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=30"


@contextmanager
def clone_of(home: Path) -> Iterator[Path]:
    """Hold the clone that belongs to the tree at `home`, alone; another run waits until this one ends.

    Raises UserError if there can be none.
    """
    root = place(home)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        opened = root.with_name(root.name + ".lock").open("w")
    except OSError as error:
        raise UserError(f"{root.parent}: {error.strerror}. Make room there, or set XDG_CACHE_HOME.") from None
    with opened as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another run is at work in %s; waiting for it", root)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield root


def place(home: Path) -> Path:
    """Where the clone lies: one for each origin, in `$XDG_CACHE_HOME/mintage` or `~/.cache/mintage`.

    A login in the URL has no part in it, so that a new token is not a new clone.
    """
    url = LOGIN.sub(r"\1", origin(home))
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = re.sub(r"[^\w.-]+", "-", re.split(r"[/:\\]", url.removesuffix(".git").rstrip("/"))[-1])
    return caches / "mintage" / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def origin(home: Path) -> str:
    """What the clone is cloned from: the tree's own origin, else the tree itself.

    Raises UserError, in git's words, if the tree is no git repository, or another user's.
    """
    top = git(home, "rev-parse", "--show-toplevel")
    url = asked(home, "remote", "get-url", "origin")
    if url is None:
        return top
    local = "://" not in url and (Path(top) / url).exists()
    return str((Path(top) / url).resolve()) if local else url


def prepare(root: Path, home: Path, ref: str, changes: Mapping[str, Any]) -> None:
    """Bring the clone to `ref` with `changes` in its params.yaml, checked, and DVC's settings shared.

    Raises UserError if the ref is unknown, origin can't be reached, or the params are not sound.
    """
    if not (root / ".git").exists():
        log.info("cloning into %s", root)
    if root.exists() and not root.is_dir():
        raise UserError(f"{root}: is no folder, and runs are to work there. Move it away.")
    # git's and DVC's settings in it may hold keys.
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    root.chmod(0o700)  # one that was there may be open to others
    free(root)
    try:
        check_out(root, home, ref)
    except UserError:
        if not (root / ".git").exists() or asked(root, "fsck", "--no-progress") is not None:
            raise
        # As a power cut leaves it. What earlier nights held of the cache is forgotten, and stays there.
        log.warning("the repository in %s is broken; cloning it again", root)
        if (root / ".git").is_dir():
            shutil.rmtree(root / ".git")
        else:
            (root / ".git").unlink()
        check_out(root, home, ref)
    override(root / PARAMS, changes)
    check(root)
    share(home, root)
    dvc.settle(root)


def check_out(root: Path, home: Path, ref: str) -> None:
    """Have all that origin has, remember what the last run left, and bring the clone to `ref`."""
    # Also where it is there: cut off in the middle, it would be none, and git would look further up.
    git(root, "init", "--quiet")
    git(root, "config", "remote.origin.url", origin(home))
    ssh = asked(home, "config", "core.sshCommand") or "ssh"  # with a deploy key of its own, perhaps
    git(root, "config", "core.sshCommand", f"{ssh} {SSH_OPTIONS}")
    reach(home, root)
    fetch(root)
    hold(root)
    git(root, "checkout", "--quiet", "--force", "--detach", commit(root, ref))


def reach(home: Path, root: Path) -> None:
    """Have the clone reach origin as the tree at `home` does, by that tree's own git settings."""
    for key, _ in _settings(root):
        asked(root, "config", "--local", "--unset-all", key)
    for key, value in _settings(home):
        git(root, "config", "--local", "--add", key, value)


def fetch(root: Path) -> None:
    """Learn origin's branches and tags, and forget those that it has not."""
    git(
        root,
        "fetch",
        "--quiet",
        "--prune",
        "--update-shallow",
        "origin",
        f"+refs/heads/*:{BRANCHES}*",
        "+refs/tags/*:refs/tags/*",
    )


def branch(root: Path, ref: str) -> bool:
    """Whether `ref` is a branch of origin, which can be published to; a tag or a commit only gets tags."""
    return _there(root, BRANCHES + ref)


def commit(root: Path, ref: str) -> str:
    """The commit that a branch, a tag or a digest means at origin. Raises UserError if there is none."""
    names = [name for name in (BRANCHES + ref, f"refs/tags/{ref}") if _there(root, name)]
    names += [ref] if re.fullmatch("[0-9a-f]{7,64}", ref) else []
    for name in names:
        if found := asked(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"):
            return found
    there = git(root, "for-each-ref", "--format=%(refname:lstrip=3)", BRANCHES).split()
    raise UserError(f"ref: origin has no branch, tag or commit {ref!r}; its branches: {', '.join(there)}.")


def check(root: Path) -> None:
    """Hold the params.yaml of a tree against that tree's own code. Raises UserError naming the key."""
    done = subprocess.run(
        [sys.executable, "-m", "tasks.reading"],
        cwd=root,
        env=for_stage(os.environ, "check"),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise UserError(done.stderr.strip()[-2_000:])


def share(home: Path, root: Path) -> None:
    """Give the clone the DVC cache of the tree at `home`, and what only that tree knows of its remotes."""
    from configobj import ConfigObj

    with dvc.opened(home) as repo:
        settings, cache = repo.config.read("local"), repo.cache.local_cache_dir
        folders = {
            name: remote["url"]
            for name, remote in repo.config.read("repo").get("remote", {}).items()
            # A folder is written relative to the tree, and from the clone would be another one.
            if "://" not in remote.get("url", "://")
        }
    for name, url in folders.items():
        settings["remote"].setdefault(name, {}).setdefault("url", url)
    settings["cache"]["dir"] = cache
    for kind in ("remote", "machine", "db"):
        settings |= {f'{kind} "{name}"': block for name, block in settings.pop(kind).items()}
    # Not by DVC's own writing, which has ASCII alone, and refuses half a remote's settings.
    config = ConfigObj({name: block for name, block in settings.items() if block}, encoding="utf-8")
    with whole(root / ".dvc/config.local") as file:
        config.write(file)


def free(root: Path) -> None:
    """Remove the locks that a killed run left: whoever holds the clone is alone in it.

    DVC takes a dead process that nobody has waited for, or another that got its number, for alive.
    """
    for stale in [*(root / ".git").rglob("*.lock"), root / ".dvc/tmp/rwlock", root / ".dvc/tmp/lock"]:
        stale.unlink(missing_ok=True)


def _settings(root: Path) -> list[tuple[str, str]]:
    """A repository's own settings that decide how remotes are reached."""
    listed = asked(root, "config", "--local", "--null", "--get-regexp", REACHING) or ""
    found = [each.partition("\n") for each in listed.split("\0") if each]
    return [(key, value if given else "true") for key, given, value in found]


def _there(root: Path, name: str) -> bool:
    """Whether a ref of exactly this name is there: `main~1` means a commit, and is no name to push to."""
    return asked(root, "show-ref", "--verify", "--quiet", name) is not None
