"""Publishing: the data, then the commit and the tag that name it. Export has held it against the gates.

Nobody ever sees a dvc.lock whose data is not at the remote yet, and a race that is lost changes
nothing: the run goes on from the winner's commit.
"""

import logging
from datetime import UTC, datetime
from pathlib import Path

import yaml

from tasks import dvc
from tasks.delivering import headline
from tasks.errors import UserError
from tasks.git import asked, git
from tasks.keeping import IDENTITY, TAGS, WRITTEN
from tasks.layout import EXPORT, PARAMS
from tasks.params import ExportParams
from tasks.reading import mapping, section
from tasks.workspace import BRANCHES, branch, fetch

log = logging.getLogger("mintage.publishing")
DIGITS = 8


def possible(root: Path) -> None:
    """Raise UserError if there is nowhere to publish to."""
    if not dvc.remote(root):
        raise UserError("publish: no DVC remote. Add one: dvc remote add --default NAME URL, and commit it.")
    url = git(root, "remote", "get-url", "origin")
    place = Path(url.removeprefix("file://"))
    if place.is_dir() and asked(place, "rev-parse", "--is-bare-repository") == "false":
        raise UserError(
            f"publish: {url} is a working tree. Push to a bare one: git remote add (or set-url) origin URL."
        )


def ready(root: Path) -> None:
    """Raise UserError, before any work, if there is nowhere to publish to, or git will refuse it."""
    possible(root)
    name = _name(root)
    if asked(root, "check-ref-format", f"refs/tags/{TAGS}/{name}/x") is None:
        raise UserError(f"export.name: git can't tag a dataset as {name!r}. Choose another name.")
    for taken in (TAGS, f"{TAGS}/{name}"):
        if git(root, "tag", "--list", taken):
            raise UserError(f"publish: there is a tag {taken}, below which git can have no other. Remove it.")
    _rehearse(root)


def _rehearse(root: Path) -> None:
    """Commit, tag and all but push, and take it back: what git will refuse, it refuses before any work."""
    before, trial = git(root, "rev-parse", "HEAD"), "mintage-rehearsal"
    try:
        git(root, *identity(root), "commit", "--quiet", "--no-verify", "--allow-empty", "-m", "Rehearse")
        git(root, *identity(root), "tag", "--force", "--annotate", "-m", "Rehearse", trial)
        git(root, "push", "--quiet", "--no-verify", "--dry-run", "origin", trial)
    finally:
        asked(root, "tag", "--delete", trial)
        git(root, "reset", "--quiet", "--soft", before)


def publish(root: Path, ref: str, due: datetime) -> bool:
    """Publish what lies in the clone, as made from `ref`; False if somebody else was faster.

    The tag tells the day for which the run was due, and the dataset's digest; a dataset that is
    published already gets no second one. Raises UserError if a remote fails.
    """
    dvc.push(root)
    base = git(root, "rev-parse", "HEAD")
    git(root, "reset", "--quiet")  # whatever DVC added of its own accord
    git(root, "add", "--", *[name for name in WRITTEN if (root / name).exists()])
    wanted, lease = [], []
    label = f"{_name(root)} {due.astimezone(UTC):%Y-%m-%d}-{digest(root)[:DIGITS]}"
    if asked(root, "diff", "--cached", "--quiet") is None:
        git(root, *identity(root), "commit", "--quiet", "--no-verify", "-m", f"Publish {label}")
        if branch(root, ref):
            wanted += [f"HEAD:refs/heads/{ref}"]
            # Also a branch that somebody took back meanwhile has moved: what left it must not return.
            lease = [f"--force-with-lease=refs/heads/{ref}:{base}"]
    tag = f"{TAGS}/{label.replace(' ', '/')}"
    if not _published(root):
        message = f"{label}\n\n{yaml.safe_dump(headline(root), sort_keys=False)}"
        git(
            root, *identity(root), "tag", "--annotate", "--cleanup=verbatim", "--file", "-", tag, text=message
        )
        wanted += [f"refs/tags/{tag}"]
    if not wanted:
        log.info("%s is published already", label)
        return True
    try:
        git(root, "push", "--quiet", "--no-verify", "--atomic", *lease, "origin", *wanted)
    except UserError:
        tagged = f"refs/tags/{tag}" in wanted
        if tagged:
            asked(root, "tag", "--delete", tag)
        if _moved(root, ref, base) or (tagged and _published(root)):
            log.info("somebody else pushed to %s first; going on from there", ref)
            return False
        raise
    log.info("published %s: %s", label, ", ".join(wanted))
    return True


def digest(root: Path) -> str:
    """The digest of data/export in dvc.lock. Raises UserError if it is not there."""
    stages = mapping(root / "dvc.lock", "DVC's lock").get("stages", {})
    for out in (out for stage in stages.values() for out in stage.get("outs", [])):
        if out["path"] == EXPORT.as_posix():
            return out["md5"]
    raise UserError(f"dvc.lock: names no {EXPORT}, so there is nothing to publish.")


def identity(root: Path) -> tuple[str, ...]:
    """git's options that say who publishes: whoever git knows, or else Mintage itself."""
    known = all(asked(root, "config", f"user.{each}") for each in ("name", "email"))
    return () if known else IDENTITY


def _moved(root: Path, ref: str, base: str) -> bool:
    """Whether origin's branch is no longer where the run began."""
    was = branch(root, ref)
    fetch(root)
    return was and (not branch(root, ref) or git(root, "rev-parse", BRANCHES + ref) != base)


def _published(root: Path) -> str:
    """The tags that the dataset has, of whatever day."""
    return git(root, "tag", "--list", f"{TAGS}/{_name(root)}/*-{digest(root)[:DIGITS]}")


def _name(root: Path) -> str:
    return str(section(root / PARAMS, "export").get("name") or ExportParams().name)
