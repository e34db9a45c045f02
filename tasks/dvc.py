"""DVC as the pipeline's executor: which stages there are, in its own order, and one of them reproduced."""

import logging
import os
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from tasks.children import die_with_parent, stop_group
from tasks.errors import UserError

log = logging.getLogger("mintage.dvc")
UNCHANGED = "didn't change, skipping"


def stages(root: Path) -> list[str]:
    """The names of dvc.yaml's stages, each after those it depends on. Raises UserError if it is broken."""
    import networkx
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            graph = repo.index.graph
            written = {stage: place for place, stage in enumerate(repo.index.stages)}
            ordered = networkx.lexicographical_topological_sort(graph.reverse(), key=written.__getitem__)
            return [stage.name for stage in ordered]
    except DvcException as error:
        raise UserError(f"dvc.yaml: {error}") from None


def reproduce(stage: str, root: Path, environment: Mapping[str, str]) -> bool:
    """Run `dvc repro --single-item` for one stage in a child process; whether anything had changed.

    Its lines go to the log. The child has a session of its own, so that stopping this process stops
    DVC and the stage under it. Raises UserError with DVC's last lines if it fails.
    """
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", stage]
    child = subprocess.Popen(
        command,
        cwd=root,
        env={**os.environ, **environment, "PATH": _path()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    lines: deque[str] = deque(maxlen=6)
    changed = True
    try:
        assert child.stdout is not None
        for line in map(str.rstrip, child.stdout):
            changed = changed and UNCHANGED not in line
            if line:
                lines.append(line)
                log.info("%s | %s", stage, line)
        if child.wait():
            raise UserError(f"{stage}: failed under DVC. Its last lines:\n" + "\n".join(list(lines)[-5:]))
    finally:
        stop_group(child)
    return changed


def _path() -> str:
    """PATH with this interpreter's folder first: dvc.yaml says `python`, and means this one."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
