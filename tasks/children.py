"""Child processes that end with their parent."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from typing import Any

GRACE_SECONDS = 8
PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask Linux to end this process when its parent dies, also by SIGKILL. Elsewhere, nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def stop_group(child: "subprocess.Popen[Any]") -> None:
    """End a child that leads a session, and all that it started: politely first, so that locks are freed."""
    for wish in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is not None:
            break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, wish)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
