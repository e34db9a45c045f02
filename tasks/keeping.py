"""Keeping the local cache level: of what runs in the clone made, the latest published versions stay.

Whatever a run leaves is remembered by a commit of its dvc.lock. Only data that such a commit names
is ever removed, and only from the cache: what a user made by hand, and the remote, stay whole. A cache
that lies outside the tree may be shared with other projects, of which nothing is known: it is left alone.
"""

import logging
from pathlib import Path
from typing import Any

from tasks import dvc
from tasks.errors import UserError, first_line
from tasks.git import asked, git

log = logging.getLogger("mintage.keeping")
HELD = "refs/mintage/held/"
TAGS = "dataset"
TAGGED = f"refs/tags/{TAGS}"
WRITTEN = ("dvc.lock", "params.yaml", ".gitignore")
IDENTITY = ("-c", "user.name=mintage", "-c", "user.email=mintage@localhost")


def hold(root: Path) -> None:
    """Remember what the last run left in the clone, published or not."""
    if not (root / "dvc.lock").exists() or asked(root, "rev-parse", "--verify", "--quiet", "HEAD") is None:
        return
    git(root, "reset", "--quiet")
    git(root, "add", "--", *[name for name in WRITTEN if (root / name).exists()])
    tree = git(root, "write-tree")
    made = git(root, *IDENTITY, "commit-tree", tree, "-p", "HEAD", "-m", "held")
    git(root, "update-ref", HELD + tree, made)


def trim(root: Path, home: Path, keep: int) -> None:
    """Remove from the cache what earlier runs made.

    The latest `keep` published versions stay, and whatever the clone, or the tree at `home` with its
    branches, tags, stashes and experiments, still uses. Raises UserError, and removes nothing, if one of
    those versions, or the tree as it is now, can't be read.
    """
    hold(root)
    listed = git(root, "for-each-ref", "--format=%(refname:lstrip=3) %(objectname)", HELD)
    held = dict(line.split() for line in listed.splitlines())
    latest = ("--sort=-creatordate", f"--count={keep}", "--format=%(*tree)%(tree) %(refname)")
    lines = [line.split() for line in git(root, "for-each-ref", *latest, TAGGED).splitlines()]
    published = {tag: tree for tree, tag in (line for line in lines if len(line) == 2)}
    over = {tree: commit for tree, commit in held.items() if tree not in published.values()}
    if not over:
        return
    with dvc.opened(root) as own, dvc.opened(home) as users:
        cache = own.cache.local
        if not Path(cache.path).resolve().is_relative_to(Path(users.root_dir).resolve()):
            log.info("%s may be shared with other projects, so that nothing is removed from it", cache.path)
            return
        stays = _used(own, [*published], strict=True, workspace=True)
        theirs = _used(users, [], strict=True, workspace=True) | _used(
            users, _named(home), all_branches=True, all_experiments=True
        )
        made = {tree: _used(own, [commit]) - stays for tree, commit in over.items()}
        # These and no others: DVC's own gc takes whatever has come since it was told what to keep.
        unused = [each for each in set().union(*made.values()) - theirs if cache.exists(each)]
        for each in unused:
            cache.delete(each)
    # What a user still has stays known, so that it goes when he has moved on.
    for tree in (tree for tree, each in made.items() if not each & theirs):
        git(root, "update-ref", "-d", HELD + tree)
    log.info("removed %d files from the cache; the last %d published versions stay", len(unused), keep)


def _named(home: Path) -> list[str]:
    """A tree's own tags of commits, which are not those of datasets, and its stashes."""
    told = git(home, "for-each-ref", "--format=%(refname) %(objecttype) %(*objecttype)", "refs/tags")
    tags = [line.split() for line in told.splitlines()]
    own = [name for name, *kinds in tags if kinds[-1] == "commit" and not name.startswith(f"{TAGGED}/")]
    return [*own, *git(home, "stash", "list", "--format=%H").split()]


def _used(
    repo: Any, revs: list[str], strict: bool = False, workspace: bool = False, **which: bool
) -> set[str]:
    """The digests that a project's commits, and its workspace, use, as far as the cache has them.

    Raises UserError, if `strict`, for a commit that can't be read; else it is told and left out.
    """
    found: set[str] = set()
    root = repo.root_dir  # while a commit is looked at, it is another
    if not (revs or which or workspace):
        return found
    for rev in repo.brancher(revs=revs, workspace=workspace, **which):
        try:
            found |= {each.value for some in repo.index.used_objs(force=True).values() for each in some}
        except Exception as error:  # DVC has no one word for what a file of params may hold
            said = f"{root}: {rev or 'workspace'} can't be read: {first_line(error)}"
            if strict:
                raise UserError(f"{said}. Nothing is removed.") from None
            log.warning("%s", said)
    return found
