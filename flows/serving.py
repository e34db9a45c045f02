"""Serving: the pipeline at its time, from one process that stays and has nobody beside it."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.schedules import Cron
from prefect.schedules import Schedule as PrefectSchedule
from prefect.settings import get_current_settings

from flows.footer import close_nested
from flows.server import Server
from tasks.children import stop_workers
from tasks.errors import UserError
from tasks.layout import PARAMS
from tasks.params import Schedule

log = logging.getLogger("mintage.serving")
NAME = "nightly"
NIGHTLY = {"fresh": True, "ref": "main", "publish": True}
TAGS = ["mintage", "nightly"]
LOCK = "mintage-serve.lock"


@contextmanager
def alone() -> Iterator[None]:
    """Be the only one that serves from Prefect's home. Raises UserError that names whoever does already.

    Two would have one deployment: each run goes to either, and who ends first pauses the other's schedule.
    """
    home = get_current_settings().home
    home.mkdir(parents=True, exist_ok=True)
    with (home / LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UserError(
                f"--serve: {lock.read() or 'another process'} serves already. End it, or give this one "
                "a PREFECT_HOME of its own."
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} in {Path.cwd()}")
        lock.flush()
        yield


def serve(flow: Flow, server: Server, schedule: Schedule, wanted: dict[str, Any]) -> None:
    """Stay, and run the flow at the schedule, with the `wanted` parameters beside those of every night.

    A server of our own is told of dead runs, now and later. Raises UserError for a cron line that is none.
    """
    due = nightly_at(schedule)
    if server.child:
        from flows import automations  # its imports take a while

        bury(flow)
        for automation in automations.crashed():
            automations.write(automation)
    log.info("Prefect's UI is at %s", server.url.removesuffix("/api"))
    try:
        flow.serve(NAME, schedule=due, parameters={**NIGHTLY, **wanted}, limit=1, tags=TAGS)
    finally:
        # Python would wait for them at its exit, and Prefect leaves without a word to them.
        stop_workers()


def nightly_at(schedule: Schedule) -> PrefectSchedule:
    """When the nightly run is due. Raises UserError if Prefect can't read the cron line."""
    try:
        return Cron(schedule.cron, timezone=schedule.timezone)
    except ValueError as error:
        raise UserError(f"{PARAMS}: schedule.cron: {error}. Give five fields, such as 0 2 * * *.") from None


def bury(flow: Flow) -> None:
    """Mark runs as crashed that nobody can be at work on, since nobody else serves and the server is new."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, FlowFilter, FlowRunFilter
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed, State

    down: State[Any] = Crashed(message="its machine went down")
    alive = {"type": {"any_": [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]}}
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(
            flow_filter=FlowFilter.model_validate({"name": {"any_": [flow.name]}}),
            deployment_filter=DeploymentFilter.model_validate({"name": {"any_": [NAME]}}),
            flow_run_filter=FlowRunFilter.model_validate({"state": alive}),
        ):
            own = FlowRunFilter.model_validate({"id": {"any_": [run.id]}})
            for step in client.read_task_runs(flow_run_filter=own):
                close_nested(step.id, down)
            client.set_flow_run_state(run.id, down, force=True)
