"""Serving: the pipeline at its time, from one process that stays and has nobody beside it."""

import asyncio
import fcntl
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.schedules import Cron
from prefect.schedules import Schedule as PrefectSchedule
from prefect.settings import get_current_settings

from flows.footer import close, close_nested
from flows.server import Server
from tasks.children import stop_workers
from tasks.errors import UserError, first_line
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
                "a PREFECT_HOME and a PREFECT_SERVER_API_PORT of its own."
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} in {Path.cwd()}")
        lock.flush()
        yield


def serve(flow: Flow, server: Server, due: PrefectSchedule, wanted: dict[str, Any]) -> None:
    """Stay, and run the flow when it is `due`, with the `wanted` parameters beside those of every night.

    A server of our own is told of dead runs, now and later. Of nights that were missed, the last is made up
    for. Raises UserError if somebody else serves at the server already.
    """
    if server.child:
        from flows import automations  # its imports take a while

        bury(flow)
        for automation in automations.crashed():
            automations.write(automation)
    else:
        refuse_a_second(flow, server.url)
    catch_up(flow)
    log.info("Prefect's UI is at %s", server.url.removesuffix("/api"))
    # Prefect leaves this one behind whenever it is stopped.
    warnings.filterwarnings("ignore", "coroutine 'Runner.astop' was never awaited", RuntimeWarning)
    try:
        flow.serve(NAME, schedule=due, parameters={**NIGHTLY, **wanted}, limit=1, tags=TAGS)
    finally:
        # Python would wait for them at its exit, and Prefect leaves without a word to them.
        stop_workers()


def nightly_at(schedule: Schedule) -> PrefectSchedule:
    """When the nightly run is due. Raises UserError if the cron line can't be read, or is never due."""
    from prefect.server.schemas.schedules import CronSchedule

    try:
        if len(schedule.cron.split()) != 5:  # with a sixth, Prefect would run every second
            raise ValueError(f"found {len(schedule.cron.split())} fields")
        asyncio.run(CronSchedule(cron=schedule.cron, timezone=schedule.timezone).get_dates(1))
        return Cron(schedule.cron, timezone=schedule.timezone)
    except ValueError as error:
        said = first_line(error)
        raise UserError(f"{PARAMS}: schedule.cron: {said}. Give five fields, such as 0 2 * * *.") from None


def refuse_a_second(flow: Flow, url: str) -> None:
    """Raise UserError if a process with another home serves at this server: see `alone`."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import DeploymentStatus
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            found = client.read_deployment_by_name(f"{flow.name}/{NAME}")
        except ObjectNotFound:
            return
    name = f"{flow.name}/{NAME}"
    if found.work_pool_name:
        raise UserError(
            f"--serve: at {url}, {name} belongs to the workers of the pool {found.work_pool_name!r}. "
            f"Leave it to them, or take it from them: prefect deployment delete {name}"
        )
    if found.status == DeploymentStatus.READY and not found.paused:
        raise UserError(
            f"--serve: somebody serves {name} at {url} already, or did a minute ago. "
            "End that one, and wait a minute if it was killed."
        )


def catch_up(flow: Flow) -> None:
    """Of the nights that were missed while nobody served, leave the last alone: the others are history."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    missed = {
        "state": {"type": {"any_": ["SCHEDULED"]}},
        "expected_start_time": {"before_": datetime.now(UTC)},
    }
    passed = 0
    with get_client(sync_client=True) as client:
        while True:
            runs = client.read_flow_runs(
                **_ours(flow),
                flow_run_filter=FlowRunFilter.model_validate(missed),
                sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            )
            over = [run for run in runs if run.auto_scheduled][1:]  # a page of them
            if not over:
                break
            passed += len(over)
            for run in over:
                client.delete_flow_run(run.id)
    if passed:
        log.info("of the nights that were missed, %d are left out, and the last is made up for", passed)


def bury(flow: Flow) -> None:
    """Mark runs as crashed that nobody can be at work on, since nobody else serves and the server is new.

    And stages of runs that are over, which were killed before they could tell it.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed, State

    down: State[Any] = Crashed(message="its machine went down")
    alive = {"type": {"any_": [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]}}
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(
            **_ours(flow),
            flow_run_filter=FlowRunFilter.model_validate({"state": alive}),
        ):
            own = FlowRunFilter.model_validate({"id": {"any_": [run.id]}})
            for step in client.read_task_runs(flow_run_filter=own):
                close_nested(step.id, down)
            close(client, run.id, down)
        nested = {"parent_task_run_id": {"is_null_": False}, "state": alive}
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(nested)):
            assert run.parent_task_run_id is not None
            above = client.read_task_run(run.parent_task_run_id).flow_run_id
            if above and (state := client.read_flow_run(above).state) and state.is_final():
                close(client, run.id, down)


def _ours(flow: Flow) -> dict[str, Any]:
    from prefect.client.schemas.filters import DeploymentFilter, FlowFilter

    return {
        "flow_filter": FlowFilter.model_validate({"name": {"any_": [flow.name]}}),
        "deployment_filter": DeploymentFilter.model_validate({"name": {"any_": [NAME]}}),
    }
