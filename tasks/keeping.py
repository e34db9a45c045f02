"""Keeping the local cache level: of what runs in the clone made, the latest published versions stay.

Whatever a run leaves is remembered by a commit of its dvc.lock. Only data that such a commit names
is ever removed, and only from the cache: what a user made by hand, and the remote, stay whole. A cache
that lies outside the tree may be shared with other projects, of which nothing is known: it is left alone.
"""

import logging
from pathlib import Path
from typing import Any

from tasks import dvc
from tasks.git import asked, git

log = logging.getLogger("mintage.keeping")
HELD = "refs/mintage/held/"
TAGS = "dataset"
WRITTEN = ("dvc.lock", "params.yaml", ".gitignore")
IDENTITY = ("-c", "user.name=mintage", "-c", "user.email=mintage@localhost")


def hold(root: Path) -> None:
    """Remember what the last run left in the clone, published or not."""
    if not (root / "dvc.lock").exists() or asked(root, "rev-parse", "--verify", "--quiet", "HEAD") is None:
        return
    git(root, "add", "--", *[name for name in WRITTEN if (root / name).exists()])
    tree = git(root, "write-tree")
    made = git(root, *IDENTITY, "commit-tree", tree, "-p", "HEAD", "-m", "held")
    git(root, "update-ref", HELD + tree, made)


def trim(root: Path, home: Path, keep: int) -> None:
    """Remove from the cache what earlier runs made.

    The latest `keep` published versions stay, and whatever the clone, or the tree at `home` with its
    branches, tags and experiments, still uses.
    """
    hold(root)
    listed = git(root, "for-each-ref", "--format=%(refname:lstrip=3) %(objectname)", HELD)
    held = dict(line.split() for line in listed.splitlines())
    latest = ("--sort=-creatordate", f"--count={keep}", "--format=%(*tree)%(tree)")
    published = git(root, "for-each-ref", *latest, f"refs/tags/{TAGS}").split()
    over = {tree: commit for tree, commit in held.items() if tree not in published}
    if not over:
        return
    named = [tag for tag in git(home, "tag", "--list").split() if not tag.startswith(f"{TAGS}/")]
    with dvc.opened(root) as own, dvc.opened(home) as users:
        cache = own.cache.local
        if not Path(cache.path).is_relative_to(users.root_dir):
            log.info("%s may be shared with other projects, so that nothing is removed from it", cache.path)
            return
        stays = _used(own, revs=[commit for tree, commit in held.items() if tree in published])
        theirs = _used(users, all_branches=True, all_experiments=True, revs=named)
        made = {tree: _used(own, revs=[commit]) - stays for tree, commit in over.items()}
        # These and no others: DVC's own gc takes whatever has come since it was told what to keep.
        unused = [each for each in set().union(*made.values()) - theirs if cache.exists(each)]
        for each in unused:
            cache.delete(each)
    # What a user still has stays known, so that it goes when he has moved on.
    for tree in (tree for tree, each in made.items() if not each & theirs):
        git(root, "update-ref", "-d", HELD + tree)
    log.info("removed %d files from the cache; the last %d published versions stay", len(unused), keep)


def _used(repo: Any, **which: Any) -> set[str]:
    """The digests that a project's workspace and the named commits use, as far as the cache has them."""
    objects = repo.used_objs(**which, force=True, skip_failed=True).values()
    return {each.value for some in objects for each in some}
