"""Pipeline: all stages through DVC, nested in one run. `--serve` runs it on `schedule`."""

import argparse
import os
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.context import TaskRunContext
from prefect.schedules import Cron
from prefect.states import Completed, State

from flows.footer import PARENT, connected, plainly
from tasks import dvc
from tasks.layout import PARAMS, ROOT
from tasks.params import check_families, read


@task(task_run_name="{stage}", persist_result=False, cache_policy=NO_CACHE)
def reproduce(stage: str, root: Path) -> State:
    """Bring one stage up to date; its own flow run appears under this task run."""
    if dvc.reproduce(stage, root, environment=calling_run()):
        return Completed(message=f"{stage} ran")
    return Completed(name="Unchanged", message=f"{stage} has not changed")


def calling_run() -> dict[str, str]:
    """What a stage's process needs to join this task run: its id, and the server that knows it."""
    context = TaskRunContext.get()
    if context is None:
        return {}
    with get_client(sync_client=True) as client:
        return {PARENT: str(context.task_run.id), "PREFECT_API_URL": str(client.api_url)}


@flow(name="pipeline", validate_parameters=False, persist_result=False)
def pipeline(root: Path = ROOT) -> None:
    """Bring every stage up to date, in the order of DVC's own graph."""
    check_families(read(root / PARAMS))
    for stage in dvc.stages(root):
        reproduce(stage, root)


def main() -> None:
    """Run the pipeline once, or serve it on the schedule of params.yaml."""
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description=__doc__)
    parser.add_argument("--serve", action="store_true", help="stay, and run at schedule.cron")
    serve = parser.parse_args().serve
    os.chdir(ROOT)
    with plainly("pipeline"), connected() as server:
        params = read(PARAMS)
        check_families(params)
        with server():
            if serve:
                schedule = Cron(params.schedule.cron, timezone=params.schedule.timezone)
                pipeline.serve(name="nightly", schedule=schedule, limit=1)
            else:
                pipeline()


if __name__ == "__main__":
    main()
