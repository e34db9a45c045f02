"""The footer that every stage file shares: load params, join the calling run, fail in plain words."""

import argparse
import inspect
import logging
import os
import sys
from contextlib import ExitStack
from typing import Any, NoReturn
from urllib.parse import urlsplit
from uuid import UUID

os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

from prefect import Flow
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_LOGGING_LEVEL,
    get_current_settings,
    temporary_settings,
)

from tasks.errors import UserError
from tasks.layout import PARAMS
from tasks.params import Params, check_families, read

PARENT = "MINTAGE_TASK_RUN"


def run(stage: Flow) -> None:
    """Run a stage flow as a command, with its section's params. Exits 0; 1 on failure; 130 if stopped."""
    argparse.ArgumentParser(
        prog=f"python -m flows.{stage.name}",
        description=stage.description,
        epilog="Its params are read from params.yaml; `dvc repro` runs it with its deps.",
    ).parse_args()
    try:
        arguments = arguments_of(stage, read(PARAMS))
    except UserError as error:
        _fail(stage.name, error)
    hush()
    with ExitStack() as stack:
        stack.enter_context(temporary_settings(settings()))
        try:
            call(stage, arguments)
        except UserError as error:
            _fail(stage.name, error)
        except KeyboardInterrupt:
            sys.stderr.write(f"\n{stage.name}: stopped. Run the same command again to go on.\n")
            sys.exit(130)


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
    """Call the flow, as a child of the task run that the environment names, if it names one."""
    parent = os.environ.pop(PARENT, None)
    if parent is None:
        stage(**arguments)
        return
    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow
    from prefect.states import Pending

    with get_client(sync_client=True) as client:
        flow_run = client.create_flow_run(
            stage, name=stage.name, parent_task_run_id=UUID(parent), state=Pending()
        )
    run_flow(stage, flow_run=flow_run, parameters=arguments)


def settings() -> dict[Any, Any]:
    """Prefect's settings for one stage: no heartbeat thread to wait for, and no server that is dead."""
    chosen: dict[Any, Any] = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}
    if "PREFECT_LOGGING_LEVEL" not in os.environ:
        chosen[PREFECT_LOGGING_LEVEL] = "INFO"
    url = get_current_settings().api.url
    if url and not answers(url):
        sys.stderr.write(f"PREFECT_API_URL: no server answers at {url}; going on without it.\n")
        chosen[PREFECT_API_URL] = None
    return chosen


def answers(url: str) -> bool:
    """Whether something accepts connections at a server's URL, within two seconds."""
    import socket

    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=2):
            return True
    except OSError:
        return False


class _PlainErrors(logging.Filter):
    """Keeps Prefect from logging a traceback, twice, for an error that we say in plain words."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, UserError)


def hush() -> None:
    """Put the filter on the loggers that report a failed flow or task."""
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logging.getLogger(name).addFilter(_PlainErrors())


def _fail(stage: str, error: UserError) -> NoReturn:
    sys.stderr.write(f"{stage}: {error}\n")
    sys.exit(1)
