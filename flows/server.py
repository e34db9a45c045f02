"""The Prefect server that a run talks to: the one that settings name, else one of its own.

Prefect can start a temporary server itself, but imports all of the server into the client to do
so, and only when the flow begins. Started here as a plain child process, it comes up while the
stage imports torch. What Prefect calls ephemeral has neither scheduler nor UI, so that whoever
serves runs needs a whole one, and one that is started again when it dies.
"""

import logging
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from urllib.parse import urlsplit

from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

from flows.reports import CACHE
from tasks import dvc
from tasks.children import die_with_parent
from tasks.errors import UserError
from tasks.layout import ROOT

log = logging.getLogger("mintage.server")
LOOPBACK = "127.0.0.1"
START_SECONDS = 120
STOP_SECONDS = 3
AGAIN_SECONDS = 5
VACUUM = "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED"
RETENTION = "events,flow_runs"
OURS = {"PREFECT_SERVER_ANALYTICS_ENABLED": "0", "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL"}
EPHEMERAL = {
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PREFECT_SERVER_UI_ENABLED": "0",
}


class Server:
    """A server's URL; `child` is its process if it is ours. As a context, it ends with the run.

    One that `stays` has all of Prefect's services, the UI among them, at Prefect's own host and port.
    Raises UserError then if a server that settings name does not answer, or if the port is taken.
    One that is `known`, as a nested run's is, is only asked whether it takes connections.
    """

    def __init__(self, stays: bool = False, known: bool = False) -> None:
        self.child: subprocess.Popen[bytes] | None = None
        self.ending = False
        url = get_current_settings().api.url
        if url and (wrong := trouble(url, known)):
            if stays:
                raise UserError(f"PREFECT_API_URL: {wrong} Start it, or unset this.")
            sys.stderr.write(f"PREFECT_API_URL: {wrong} Going on with a temporary one.\n")
            url = None
        self.url = url or (self._stay() if stays else self._start())

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *failure: object) -> None:
        self.ending = True
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
            free.bind((LOOPBACK, 0))
            port = free.getsockname()[1]
        self.child = process(LOOPBACK, port, EPHEMERAL)
        return f"http://{LOOPBACK}:{port}/api"

    def _stay(self) -> str:
        asked = get_current_settings().server.api
        here = LOOPBACK if asked.host in ("0.0.0.0", "::") else asked.host
        url = f"http://{here}:{asked.port}/api"
        if not 0 < asked.port < 2**16:
            raise UserError(f"PREFECT_SERVER_API_PORT: found {asked.port}; a port is at most 65535.")
        if answers(url):
            raise UserError(
                f"prefect: port {asked.port} is in use. If a Prefect server is there, name it: "
                f"export PREFECT_API_URL={url}. Else choose another: export PREFECT_SERVER_API_PORT=4201."
            )
        settings = {VACUUM: os.environ.get(VACUUM, RETENTION), "PREFECT_API_URL": url}
        settings |= {CACHE: str(dvc.cache(ROOT))}
        self.child = process(asked.host, asked.port, settings, stays=True)
        threading.Thread(target=self._again, args=(asked.host, asked.port, settings), daemon=True).start()
        return url

    def _again(self, host: str, port: int, settings: dict[str, str]) -> None:
        while self.child:
            self.child.wait()
            time.sleep(AGAIN_SECONDS)
            if self.ending:
                return
            log.warning("prefect: its server died; starting it again")
            self.child = process(host, port, settings, stays=True)

    def wait(self) -> str:
        """Wait until the server is healthy, and return its URL. Raises UserError if it does not come up."""
        deadline = time.monotonic() + START_SECONDS
        while self.child and not self._healthy():
            if self.child.poll() is not None or time.monotonic() > deadline:
                raise UserError(
                    "prefect: its server did not start; `prefect server start` shows why. "
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


def process(host: str, port: int, settings: dict[str, str], stays: bool = False) -> subprocess.Popen[bytes]:
    """Start a Prefect server, which has the reports beside its UI if it `stays`.

    It ends with the thread that started it, and no Ctrl-C reaches it: a run that is stopped tells it so.
    """
    factory = "flows.reports:application" if stays else "prefect.server.api.server:create_app"
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "uvicorn", "--app-dir", str(ROOT), "--factory", factory),
            *("--host", host, "--port", str(port), "--log-level", "critical"),
        ],
        env={**os.environ, **OURS, **settings},
        stdin=subprocess.DEVNULL,
        preexec_fn=die_with_parent,
        start_new_session=True,
    )


def answers(url: str) -> bool:
    """Whether anything takes connections where a URL points, asked for two seconds at most."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), timeout=2):
            return True
    except (OSError, ValueError, OverflowError):
        return False


def trouble(url: str, known: bool = False) -> str | None:
    """What is wrong with a URL of Prefect's API, `known` to be one, or else asked; None if nothing is."""
    if not answers(url):
        return f"no server answers at {url}."
    if known:
        return None
    from prefect.client.base import ServerType
    from prefect.client.orchestration import get_client

    try:
        with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
            if client.server_type != ServerType.CLOUD:
                client.api_version()
    except Exception as error:  # whatever stands in its place may answer anything
        log.debug("%s", error)
        return f"what answers at {url} is no Prefect API, whose URL ends in /api, or does not let us in."
    return None
