"""The Prefect server that a run talks to: the one that settings name, else a temporary one of its own.

Prefect can start a temporary server itself, but imports all of the server into the client to do
so, and only when the flow begins. Started here as a plain child process, it comes up while the
stage imports torch.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from urllib.parse import urlsplit

from prefect.settings import get_current_settings

from tasks.children import die_with_parent
from tasks.errors import UserError

START_SECONDS = 120
STOP_SECONDS = 3


class Server:
    """A server's URL; `child` is its process if it is ours. As a context, it ends with the run."""

    def __init__(self) -> None:
        self.child: subprocess.Popen[bytes] | None = None
        url = get_current_settings().api.url
        if url and not answers(url):
            sys.stderr.write(f"PREFECT_API_URL: no server answers at {url}; going on with a temporary one.\n")
            url = None
        self.url = url or self._start()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *failure: object) -> None:
        if self.child is None:
            return
        self.child.terminate()
        try:
            self.child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()

    def _start(self) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.child = subprocess.Popen(
            [
                *(sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"),
                *("--host", "127.0.0.1", "--port", str(port), "--log-level", "critical"),
            ],
            env={
                **os.environ,
                "PREFECT__SERVER_EPHEMERAL": "1",
                "PREFECT__SERVER_FINAL": "1",
                "PREFECT_SERVER_UI_ENABLED": "0",
                "PREFECT_SERVER_ANALYTICS_ENABLED": "0",
                "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
            },
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )
        return f"http://127.0.0.1:{port}/api"

    def wait(self) -> str:
        """Wait until the server is healthy, and return its URL. Raises UserError if it does not come up."""
        deadline = time.monotonic() + START_SECONDS
        while self.child and not self._healthy():
            if self.child.poll() is not None or time.monotonic() > deadline:
                raise UserError(
                    "prefect: its temporary server did not start; `prefect server start` shows why. "
                    "Or name a server that runs in PREFECT_API_URL."
                )
            time.sleep(0.05)
        return self.url

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                return True
        except OSError:
            return False


def answers(url: str) -> bool:
    """Whether anything takes connections where a URL points, asked for two seconds at most."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=2):
            return True
    except OSError:
        return False
