"""DVC as the pipeline's executor: which stages there are, in its own order, and one of them reproduced."""

import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.children import die_with_parent, stop_group
from tasks.errors import UserError
from tasks.git import ignored
from tasks.secrets import for_stage, for_stores, hidden

log = logging.getLogger("mintage.dvc")
# DVC runs a stage through a shell. Bash gives way to a single command, so that the stage is DVC's own
# child and ends with it (tasks/children.py); dash would stand between them.
SHELL = {"SHELL": shell} if (shell := shutil.which("bash")) else {}
# A store that hangs must not hold the clone until the next night. What it has got, it is not sent again.
STORE_HOURS = 12.0


@contextmanager
def opened(root: Path) -> Iterator[Any]:
    """DVC's view of the project at `root`.

    Raises UserError in DVC's words for what DVC refuses, or if it can't write down what it saw.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    # Here it is only asked; what its commands have to say comes from the child.
    logging.getLogger("dvc").setLevel(logging.ERROR)
    try:
        with Repo(str(root)) as repo:
            yield repo
    # Such as: database or disk is full; gs is supported, but requires 'dvc-gs' to be installed.
    except (DvcException, sqlite3.OperationalError, ImportError) as error:
        raise UserError(f"dvc: {hidden(str(error))}") from None
    except sqlite3.DatabaseError as error:  # as a power cut leaves it
        from dvc.dirs import site_cache_dir

        notes = Path(site_cache_dir()) / "repo"
        raise UserError(f"dvc: {error}. Remove its notes, which it makes again: rm -r {notes}") from None


def stages(root: Path) -> list[str]:
    """The names of dvc.yaml's stages, each after those it depends on. Raises UserError if it is broken."""
    import networkx

    with opened(root) as repo:
        graph = repo.index.graph
        written = {stage: place for place, stage in enumerate(repo.index.stages)}
        ordered = networkx.lexicographical_topological_sort(graph.reverse(), key=written.__getitem__)
        ours = _ours(repo)
        return [stage.name for stage in ordered if stage in ours]


def reproduce(stage: str, root: Path, environment: Mapping[str, str], sparse: bool = False) -> bool:
    """Run `dvc repro --single-item` for one stage in a child process; whether anything had changed.

    Its lines go to the log. The child has a session of its own, so that stopping this process stops
    DVC and the stage under it. In a `sparse` tree an out may be missing as long as nobody needs it:
    what a changed stage reads is pulled first. Raises UserError with DVC's last lines if it fails.
    """
    from dvc.exceptions import DvcException

    with opened(root) as repo, repo.lock:
        (found,) = [each for each in _ours(repo) if each.name == stage]
        upstream = [each for each in repo.index.stages if each is not found] if sparse else None
        missing = [dep.def_path for dep in found.deps if dep.is_in_repo and not dep.exists]
        made = [Path(out.fs_path) for each in repo.index.stages for out in each.outs]
        lacking = [path for path in missing if any((root / path).is_relative_to(out) for out in made)]
        # What git has not brought although it would: DVC is to say so. Ignored, it may lie elsewhere.
        gone = [path for path in missing if path not in lacking and not ignored(root, path)]
        try:
            changed = found.changed(allow_missing=sparse, upstream=upstream) or gone
        except DvcException:
            raise
        except Exception as error:  # of whatever library reaches the source: DVC says it better
            log.warning("%s: not known whether it changed: %s", stage, hidden(str(error)))
            changed = True
    if not changed:
        return False
    if sparse and lacking:
        fetch(lacking, root)
    asked = {**for_stage(os.environ, stage), **environment, **SHELL}
    _dvc(["repro", "--single-item", stage], root, asked, stage)
    return True


def fetch(paths: Sequence[str], root: Path) -> None:
    """Bring outs of dvc.lock into the tree, from the cache or else the default remote.

    Raises UserError with DVC's last lines if one is in neither, or if the remote takes too long.
    """
    words = ["pull" if remote(root) else "checkout", *paths]
    _dvc(words, root, for_stores(os.environ), "fetch", hours=STORE_HOURS)


def push(root: Path) -> None:
    """Send the data that dvc.lock names to the default remote, and see that it is there.

    Raises UserError with DVC's last lines if it fails, if the remote takes too long, or if there is data
    that neither the cache nor the remote has, of which DVC itself only warns.
    """
    _dvc(["push"], root, for_stores(os.environ), "push", hours=STORE_HOURS)
    lost = 0
    with opened(root) as repo:
        used = repo.used_objs(force=True, push=True)
        # A folder that is nowhere is not among the objects: what it held isn't known.
        used[None] |= {out.hash_info for out in _pushed(repo) if out.hash_info}
        for store, objects in used.items():
            named = sorted({each.value for each in objects})
            # One by one: of a folder that DVC knows to have sent, it does not ask for what lies in it.
            there = (store or repo.cloud.get_remote_odb()).oids_exist(named) if named else ()
            lost += len(set(named) - set(there))
    if lost:
        raise UserError(
            f"push: {lost:,} of the files that dvc.lock names are not at the remote, and DVC does not "
            "send them. Bring them back, or run the stages that make them again: dvc repro --force."
        )


def cache(root: Path) -> Path:
    """The folder of the local cache, where a file lies by its MD5 digest, two letters a folder."""
    with opened(root) as repo:
        return Path(repo.cache.local.path)


def remote(root: Path) -> str | None:
    """The name of the default remote, if there is one."""
    with opened(root) as repo:
        return repo.config["core"].get("remote")


def settle(root: Path) -> None:
    """Take away outs that are not those of dvc.lock, left by another run: what is missing can be fetched."""
    with opened(root) as repo:
        for out in (out for stage in repo.index.stages for out in stage.outs):
            try:
                stale = out.exists and (not out.hash_info or out.workspace_status())
            except FileNotFoundError:  # links into a cache that has them no longer
                stale = True
            if stale or (Path(out.fs_path).is_symlink() and not out.exists):
                out.remove()


def _ours(repo: Any) -> list[Any]:
    """The stages of the project's own dvc.yaml: neither another's, nor what `dvc add` or `import` wrote."""
    return [each for each in repo.index.stages if each.path_in_repo == "dvc.yaml"]


def _pushed(repo: Any) -> list[Any]:
    """The outs that DVC pushes to the default remote."""
    outs = [out for each in repo.index.stages if not each.is_repo_import for out in each.outs]
    return [out for out in outs if out.use_cache and out.can_push and not out.remote]


def _dvc(
    arguments: Sequence[str],
    root: Path,
    environment: Mapping[str, str],
    doing: str,
    hours: float | None = None,
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=root,
        env={**environment, "PATH": _path()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    lines: deque[str] = deque(maxlen=5)
    given_up = threading.Event()

    def give_up() -> None:
        given_up.set()
        stop_group(child)

    watch = threading.Timer(3_600 * (hours or 0), give_up)
    try:
        if hours:
            watch.start()
        assert child.stdout is not None
        for line in map(str.rstrip, child.stdout):
            if line:
                log.info("%s | %s", doing, hidden(line))
            if line and "resource_tracker" not in line:  # which a killed process leaves, and speaks last
                lines.append(hidden(line))
        if code := child.wait():
            if given_up.is_set():
                raise UserError(f"{doing}: given up after {hours:g} hours. Run again: it goes on from there.")
            how = f"DVC was killed by signal {-code}" if code < 0 else "failed under DVC"
            raise UserError(f"{doing}: {how}. Its last lines:\n" + "\n".join(lines))
    finally:
        watch.cancel()
        stop_group(child)


def _path() -> str:
    """PATH with this interpreter's folder first: dvc.yaml says `python`, and means this one."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
