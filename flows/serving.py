"""Serving: the pipeline at its time, from one process that stays and has nobody beside it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.schedules import Schedule
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, get_current_settings, temporary_settings

from flows.server import Server
from tasks.children import stop_workers
from tasks.errors import UserError

NAME = "nightly"
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


def serve(flow: Flow, server: Server, schedule: Schedule, parameters: dict[str, Any]) -> None:
    """Stay, and run the flow at the schedule. A server of our own is told of dead runs, now and later."""
    if server.child:
        from flows import automations  # its imports take a while

        bury(flow)
        for automation in automations.crashed():
            automations.write(automation)
    # Whoever waits for a run's end needs no sign of its life, but the automations do.
    with temporary_settings(restore_defaults={PREFECT_FLOWS_HEARTBEAT_FREQUENCY}):
        try:
            flow.serve(NAME, schedule=schedule, parameters=parameters, limit=1, tags=TAGS)
        finally:
            # Python would wait for them at its exit, and Prefect leaves without a word to them.
            stop_workers()


def bury(flow: Flow) -> None:
    """Mark runs as crashed that nobody can be at work on, since nobody else serves and the server is new."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, FlowFilter, FlowRunFilter, TaskRunFilter
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    alive = {"type": {"any_": [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]}}
    with get_client(sync_client=True) as client:
        dead = client.read_flow_runs(
            flow_filter=FlowFilter.model_validate({"name": {"any_": [flow.name]}}),
            deployment_filter=DeploymentFilter.model_validate({"name": {"any_": [NAME]}}),
            flow_run_filter=FlowRunFilter.model_validate({"state": alive}),
        )
        if not dead:
            return
        own = TaskRunFilter.model_validate({"flow_run_id": {"any_": [run.id for run in dead]}})
        steps = [step.id for step in client.read_task_runs(task_run_filter=own)]
        nested = FlowRunFilter.model_validate({"state": alive, "parent_task_run_id": {"any_": steps}})
        for run in [*dead, *(client.read_flow_runs(flow_run_filter=nested) if steps else [])]:
            client.set_flow_run_state(run.id, Crashed(message="its machine went down"), force=True)
