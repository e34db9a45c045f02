"""The footer that every stage file shares: load params, join the calling run, fail in plain words."""

import base64
import functools
import inspect
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import UUID

os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

from prefect import Flow, Task
from prefect.cache_policies import NO_CACHE
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    temporary_settings,
)
from prefect.task_runners import ThreadPoolTaskRunner
from rich.console import Console

from flows.help import parser
from flows.reports import address
from flows.server import Server, answers
from flows.speaking import denied, plainly
from tasks.children import end_with_parent
from tasks.errors import PassingError, UserError, first_line
from tasks.layout import PARAMS
from tasks.params import Params
from tasks.progress import Progress, watchers
from tasks.reading import check_families, read

log = logging.getLogger("mintage.stage")
PARENT = "MINTAGE_TASK_RUN"
IMAGE_LIMIT = 100_000
DELIVERY_SECONDS = 3
RETRY_SECONDS = [2.0, 10.0]
FINISHED: set[str] = set()
SHOWN: dict[str, Any] = {}
# A trial has all cores, so a second one beside it would only share them.
ONE_BY_ONE: Any = ThreadPoolTaskRunner(max_workers=1)


def _keep_on(console: Console) -> None:
    console.quiet = True


# Else a pipe that nobody reads any more, since DVC was killed, would end a stage before it has told its end.
Console.on_broken_pipe = _keep_on  # type: ignore


def stage(function: Callable[..., Any]) -> Any:
    """Make a stage's flow of a function, under the function's name. Its params have been checked already."""
    return Flow(
        fn=noted(function),
        name=function.__name__,
        flow_run_name=function.__name__,
        validate_parameters=False,
        persist_result=False,
        task_runner=ONE_BY_ONE,
    )


def noted(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, of which `call` knows whether it came to its end."""

    @functools.wraps(function)
    def noting(*values: Any, **named: Any) -> Any:
        out = function(*values, **named)
        FINISHED.add(function.__name__)
        return out

    return noting


def craft(function: Callable[..., Any], retries: int = 0, **options: Any) -> Any:
    """Make a task of a plain function of tasks/. DVC owns the caches, so its results are not kept."""
    return Task(
        fn=function,
        **options,
        persist_result=False,
        cache_policy=NO_CACHE,
        retries=retries,
        retry_delay_seconds=RETRY_SECONDS,
        retry_condition_fn=worth_retrying,
    )


def worth_retrying(task: Any, task_run: Any, state: Any) -> bool:
    """Whether to try a failed task again: what the user must mend would only fail again."""
    return not final(state.result(raise_on_failure=False))


def final(error: object) -> bool:
    """Whether an error stays until the user mends something, so that another try is in vain."""
    return denied(error) or (isinstance(error, UserError) and not isinstance(error, PassingError))


def show_image(key: str, path: Path) -> None:
    """Show a PNG in Prefect as an artifact of the run, if it is there, and small enough for a data URI."""
    from prefect.artifacts import create_image_artifact

    if path.is_file() and path.stat().st_size < IMAGE_LIMIT:
        url = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
        _artifact(create_image_artifact, key=key, image_url=url)


def show_table(key: str, rows: list[dict[str, Any]]) -> None:
    """Show rows in Prefect as a table artifact of the run."""
    from prefect.artifacts import create_table_artifact

    _artifact(create_table_artifact, key=key, table=rows)


def show_report(path: Path) -> None:
    """Show in Prefect where the run's report is: at its server if that has reports, else on this machine."""
    from prefect.artifacts import create_link_artifact

    if not path.is_file():
        return
    lies, place = path.resolve(), address(path)
    # A path is to be copied: browsers open no file from a page of the web.
    link, text = (place, "Open the report") if place else (lies.as_uri(), str(lies))
    told = f"On the run's machine it is {lies} until the next run. `dvc get` has it anywhere."
    _artifact(create_link_artifact, key="report", link=link, link_text=text, description=told)


def show_progress(progress: Progress) -> None:
    """Show in Prefect how far long work of the run has come, until the server can't be told."""
    from prefect.artifacts import create_progress_artifact, update_progress_artifact

    percent = min(100.0, 100 * progress.done / max(progress.total, 1))
    told: dict[str, Any] = {"progress": percent, "description": progress.line()}
    key = progress.doing.split(",")[0].replace("_", "-") + "-progress"
    if key in SHOWN:
        told_it = _artifact(lambda key, **told: update_progress_artifact(SHOWN[key], **told), key=key, **told)
    else:
        told_it = SHOWN[key] = _artifact(create_progress_artifact, key=key, **told)
    if told_it is None:
        watchers.clear()


def _artifact(create: Callable[..., Any], **values: Any) -> Any:
    # An artifact is a courtesy: a server that went away must not fail good work, nor hold it up.
    try:
        if not answers(PREFECT_API_URL.value() or ""):
            raise ConnectionError("the server does not answer")
        return create(**values)
    except Exception as error:
        log.warning("no artifact %s: %s", values.get("key", ""), error)
        return None


def run(stage: Flow, ahead: str | None = None) -> None:
    """Run a stage flow as a command, with its section's params. Exits 0; 1 on failure; 130 if stopped.

    `ahead` names the module whose slow imports may as well happen while the server comes up.
    """
    parser(stage.name, stage.description).parse_args()
    nested = PARENT in os.environ
    if nested:
        end_with_parent()
    with plainly(stage.name), Server(known=nested) as server:
        arguments = arguments_of(stage, read(PARAMS))
        if ahead:
            import_module(ahead)
        if server.child:  # one of our own knows nothing of a calling run
            os.environ.pop(PARENT, None)
        watchers.append(show_progress)
        with connected(server):
            call(stage, arguments)


@contextmanager
def connected(server: Server, heartbeat: bool = False) -> Iterator[None]:
    """Talk to the server, once it is up, and deliver to it what there is to say before it goes.

    Flows give no `heartbeat` to automations here: its thread would be waited for, a second a flow.
    """
    settings: dict[Any, Any] = {} if heartbeat else {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    with temporary_settings({PREFECT_API_URL: server.wait(), **settings}):
        try:
            yield
        finally:
            for worker in (APILogWorker, EventsWorker):
                worker.drain_all(timeout=DELIVERY_SECONDS)


def arguments_of(stage: Flow, params: Params) -> dict[str, Any]:
    """Match a flow's annotated parameters with sections of params.yaml; paths keep their defaults."""
    check_families(params)
    found: dict[str, Any] = {}
    for name in inspect.signature(stage.fn).parameters:
        if name == "params":
            found[name] = getattr(params, stage.name)
        elif name in ("family", "gates", "machine"):
            found[name] = getattr(params, name)
    return found


def call(stage: Flow, arguments: dict[str, Any]) -> None:
    """Call the flow, as a child of the task run that the environment names, if it names one.

    A server that went away while the stage was at work can't be told its end. The work is done and counts.
    """
    from httpx import TransportError

    parent = os.environ.pop(PARENT, None)
    FINISHED.discard(stage.name)
    try:
        _call(stage, arguments, parent)
    except TransportError as error:
        if stage.name not in FINISHED:
            raise UserError(
                f"prefect: its server went away before {stage.name} was finished ({first_line(error)}). "
                "Run the same command again to go on."
            ) from None
        log.warning("the server could not be told that %s is finished: %s", stage.name, error)


def _call(stage: Flow, arguments: dict[str, Any], parent: str | None) -> None:
    if parent is None:
        stage(**arguments)
        return
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.flow_engine import run_flow
    from prefect.states import Pending

    with get_client(sync_client=True) as client:
        create = functools.partial(client.create_flow_run, stage, name=stage.name, state=Pending())
        try:
            flow_run = create(parent_task_run_id=UUID(parent))
        except PrefectHTTPStatusError:  # a server that was away has missed the task run
            flow_run = create()
    run_flow(stage, flow_run=flow_run, parameters=arguments)


def close(client: Any, run: UUID, state: Any) -> None:
    """Give `state` to a run, and to its tasks that are at work, as shards are when it is killed."""
    from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter

    client.set_flow_run_state(run, state, force=True)
    own = FlowRunFilter.model_validate({"id": {"any_": [run]}})
    working = TaskRunFilter.model_validate({"state": {"type": {"any_": ["PENDING", "RUNNING"]}}})
    for step in client.read_task_runs(flow_run_filter=own, task_run_filter=working):
        client.set_task_run_state(step.id, state, force=True)


def close_nested(parent: UUID, state: Any) -> None:
    """Give `state` to the stage's run under a task run if it did not tell its own end, having been killed."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.objects import StateType

    unfinished = {"type": {"any_": [StateType.PENDING, StateType.RUNNING]}}
    nested = FlowRunFilter.model_validate({"parent_task_run_id": {"any_": [parent]}, "state": unfinished})
    try:
        if not answers(PREFECT_API_URL.value() or ""):
            raise ConnectionError("it does not answer")
        with get_client(sync_client=True) as client:
            for run in client.read_flow_runs(flow_run_filter=nested):
                close(client, run.id, state)
    except Exception as error:
        log.warning("the server could not be told how a stage ended: %s", error)
