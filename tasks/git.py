"""git, asked in plain commands that never wait for a password and never show one."""

import os
import subprocess
from pathlib import Path

from tasks.children import die_with_parent
from tasks.errors import UserError
from tasks.secrets import for_stores, hidden

QUIET = {
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
    "GIT_EDITOR": "true",
    # A server that sends nothing for two minutes is given up.
    "GIT_HTTP_LOW_SPEED_LIMIT": "1",
    "GIT_HTTP_LOW_SPEED_TIME": "120",
}
LAST_LINES = 4


def git(root: Path, *arguments: str, text: str | None = None) -> str:
    """Run a git command in `root`, `text` its input, and return what it printed.

    Raises UserError with its last lines if it fails.
    """
    done = _run(root, arguments, text)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()][-LAST_LINES:]
        command = arguments[2 * arguments.count("-c")]  # each with its value, before the command
        raise UserError(hidden("\n".join([f"git {command}: failed in {root}.", *said])))
    return done.stdout.strip()


def asked(root: Path, *arguments: str) -> str | None:
    """What a git command printed, or None if it failed: for questions that may have no answer."""
    done = _run(root, arguments, None)
    return None if done.returncode else done.stdout.strip()


def ignored(root: Path, path: str) -> bool:
    """Whether git is told to leave a path out, be it a file or a folder: it may not be there."""
    return bool(asked(root, "check-ignore", path, f"{path}/"))


def _run(root: Path, arguments: tuple[str, ...], text: str | None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            # No hook of the user's: it may be meant for other work, and whatever it says is not seen.
            ["git", "-c", "core.hooksPath=/dev/null", *arguments],
            cwd=root,
            env={**for_stores(os.environ), **QUIET},
            input=text or "",
            capture_output=True,
            text=True,
            errors="replace",
            preexec_fn=die_with_parent,
        )
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: not found. git and the project's folder are needed.") from None
