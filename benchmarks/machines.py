"""A team's machines for scheduled runs, each a folder and its processes: origin, store, server, worker.

The store speaks S3 (moto's server), the server is Prefect's own, the worker works in the user's tree,
and that tree lies with all caches on a disk that can be full.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.orchestration import clone
from tasks import workspace
from tasks.children import die_with_parent

# Put together here, since clones of the project hold this file, and must not be taken for a leak.
SECRET = "-".join(("a", "key", "that", "nobody", "should", "see"))
DISK_BYTES = 2_000_000_000
PATIENCE = 900  # seconds
ORPHAN_SECONDS = 10
SILENCE = timedelta(seconds=90)
CONFIG = """[core]
    analytics = false
    remote = store
['remote "store"']
    url = s3://mintage/store
    endpointurl = http://127.0.0.1:{}
"""


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def environment(base: Path) -> dict[str, str]:
    """What all processes of the team are told."""
    port = str(free_port())
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(base / "disk/caches"),
        "DVC_SITE_CACHE_DIR": str(base / "disk/site"),
        "PREFECT_HOME": str(base / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_API_PORT": port,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # Nights are scheduled here, one after the other, and not by the clock.
        "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "CI": "true",
    }


def until(happens: Callable[[], Any], what: str) -> Any:
    """Wait until something happens, and return it. Raises RuntimeError if it does not."""
    deadline = time.monotonic() + PATIENCE
    while not (found := happens()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited in vain: {what}")
        time.sleep(0.05)
    return found


def healthy() -> bool:
    """Whether the Prefect server of PREFECT_API_URL answers."""
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"{os.environ['PREFECT_API_URL']}/health", timeout=5).close()
        return True
    return False


def size(folder: Path) -> int:
    """The bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class Machines:
    """All of them, in `base`, on a disk of their own: needs the right to mount one."""

    def __init__(self, base: Path, params: Mapping[str, Mapping[str, Any]]) -> None:
        self.base, self.disk, self.origin = base, base / "disk", base / "origin.git"
        self.home, self.raw = self.disk / "home", self.disk / "raw"
        self.disk.mkdir()
        wanted = f"size={DISK_BYTES}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", wanted, "tmpfs", str(self.disk)], check=True)
        self.store_port = free_port()
        self.store: Any = None
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        clone(self.home)
        self.change(params)
        (self.home / ".dvc/config").write_text(CONFIG.format(self.store_port))
        self.git(base, "init", "--quiet", "--bare", "--initial-branch=main", "origin.git")
        self.git(self.home, "remote", "set-url", "origin", str(self.origin))
        self.git(self.home, "checkout", "--quiet", "-B", "main")
        self.push("Start")
        self.began = self.git(self.home, "rev-parse", "HEAD")
        self.clone = workspace.place(self.home)

    def git(self, root: Path, *arguments: str) -> str:
        """Run git as somebody, and return what it printed."""
        who = ("-c", "user.name=somebody", "-c", "user.email=somebody@localhost")
        done = subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def change(self, params: Mapping[str, Mapping[str, Any]]) -> None:
        """Set params in the user's tree."""
        path = self.home / "params.yaml"
        known = yaml.safe_load(path.read_text(encoding="utf-8"))
        path.write_text(yaml.safe_dump({s: {**b, **params.get(s, {})} for s, b in known.items()}))

    def push(self, why: str) -> None:
        """Commit all of the user's tree, on top of what the nights have published, and push it."""
        self.git(self.home, "add", "--all")
        self.git(self.home, "commit", "--quiet", "--no-verify", "--message", why)
        if self.git(self.origin, "branch", "--list", "main"):
            self.git(self.home, "pull", "--quiet", "--rebase", "--strategy-option=theirs", "origin", "main")
        self.git(self.home, "push", "--quiet", "origin", "HEAD:main")

    def tags(self) -> list[str]:
        """All published versions."""
        return self.git(self.origin, "tag", "--list", "dataset/*").split()

    def open_store(self) -> None:
        """Let the store answer; what it held it still holds."""
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
        self.store = ThreadedMotoServer("127.0.0.1", self.store_port, verbose=False)
        self.store.start()

    def close_store(self) -> None:
        """Let the store refuse all connections."""
        self.store.stop()

    def bucket(self) -> Any:
        """The store's bucket, for us to look into."""
        import boto3

        resource = boto3.resource("s3", endpoint_url=f"http://127.0.0.1:{self.store_port}")
        return resource.Bucket("mintage")

    def start(self, name: str, *command: str) -> None:
        """Start a machine's process in the user's tree."""
        with (self.base / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "prefect", *command], cwd=self.home, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True, preexec_fn=die_with_parent,
            )  # fmt: skip

    def start_server(self) -> None:
        """Start Prefect's server, or start it again, and wait until it answers."""
        self.start("server", "server", "start", "--host", "127.0.0.1")
        until(healthy, "Prefect's server")

    def start_worker(self) -> None:
        """Start a worker."""
        self.start("worker", "worker", "start", "--pool", "mintage", "--limit", "1")

    def kill(self, name: str, whole: bool = False) -> None:
        """SIGKILL a machine's first process, or all of it."""
        process = self.processes.pop(name)
        (os.killpg if whole else os.kill)(process.pid, signal.SIGKILL)
        process.wait()

    def kill_run(self) -> None:
        """SIGKILL what the worker started, as the kernel does when memory is short; the worker lives."""
        for child in psutil.Process(self.processes["worker"].pid).children():
            child.kill()

    @contextlib.contextmanager
    def full(self, but: int) -> Iterator[None]:
        """Fill the disk, but for so many bytes, as long as the block lasts."""
        state: os.statvfs_result = os.statvfs(self.disk)
        with (self.disk / "ballast").open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, state.f_bavail * state.f_frsize - but)
        try:
            yield
        finally:
            (self.disk / "ballast").unlink()

    def begun(self, stage: str) -> list[Path]:
        """The unfinished work of a stage in the runs' clone."""
        return list((self.clone / "data/.unfinished" / stage).glob("*/recipe.json"))

    def at_work(self) -> list[str]:
        """The command lines of all processes in the team's trees that are no machine themselves."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                ours = Path(process.cwd()).is_relative_to(self.base)
                if ours and process.pid not in {each.pid for each in self.processes.values()}:
                    found.append(" ".join(process.cmdline()))
        return [words for words in found if words]

    def orphans(self) -> list[str]:
        """What is still at work after the time that it may take to end."""
        deadline = time.monotonic() + ORPHAN_SECONDS
        while (found := self.at_work()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return found


class Prefect:
    """Prefect's server as its client sees it: nights are asked of it, and what became of them."""

    def __init__(self) -> None:
        from prefect.client.orchestration import get_client

        self.client = get_client(sync_client=True)

    def deploy(self, machines: Machines) -> None:
        """Write the work pool, the deployments of prefect.yaml, and the word about dead runs, sooner."""
        from flows import automations

        for words in ("work-pool create mintage --type process", "--no-prompt deploy --all"):
            command = [sys.executable, "-m", "prefect", *words.split()]
            subprocess.run(command, cwd=machines.home, check=True, capture_output=True)
        for automation in automations.crashed():
            automation.trigger.within = SILENCE  # type: ignore[union-attr]
            automations.write(automation)

    def schedule(self, due: datetime, name: str, **parameters: Any) -> Any:
        """Have a deployment run that was due then, and return the run's id."""
        from prefect.states import Scheduled

        deployment = self.client.read_deployment_by_name(f"pipeline/{name}")
        state: Any = Scheduled(scheduled_time=due)
        run = self.client.create_flow_run_from_deployment(deployment.id, parameters=parameters, state=state)
        return run.id

    def cancel(self, run: Any) -> None:
        """Ask for the end of a run, as the UI does."""
        from prefect.states import Cancelling

        self.client.set_flow_run_state(run, Cancelling())

    def ended(self, run: Any) -> Any:
        """The run's state, once it is a last one."""

        def last() -> Any:
            with contextlib.suppress(Exception):  # the server may be away
                state = self.client.read_flow_run(run).state
                return state if state and state.is_final() else None

        return until(last, f"the end of run {run}")

    def overlap(self, runs: Sequence[Any]) -> bool:
        """Whether one began before another had ended."""
        read: list[Any] = [self.client.read_flow_run(run) for run in runs]
        times = sorted((each.start_time, each.end_time) for each in read)
        return any(end > start for (_, end), (start, _) in pairwise(times))

    def stages(self, run: Any) -> list[str]:
        """The stages that ran, each time that they did."""
        tasks = self._filtered("task_runs", task_runs={"flow_run_id": {"any_": [str(run)]}})
        done = [t for t in tasks if "reproduce" in t["task_key"] and t["state_name"] == "Completed"]
        return [t["name"] for t in done]

    def said(self, run: Any) -> str:
        """The run's log."""
        lines: list[str] = []
        while True:
            found = self._filtered("logs", logs={"flow_run_id": {"any_": [str(run)]}}, offset=len(lines))
            lines += [line["message"] for line in found]
            if not found:
                return "\n".join(lines)

    def _filtered(self, what: str, **body: Any) -> list[dict[str, Any]]:
        return json.loads(self.client._client.post(f"/{what}/filter", json=body).content)
