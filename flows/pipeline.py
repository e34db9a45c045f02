"""Pipeline: all stages through DVC, nested in one run. `--serve` runs it on `schedule`."""

import argparse
import os

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run
from prefect.schedules import Cron
from prefect.settings import PREFECT_API_URL
from prefect.states import Completed, State

from flows.footer import PARENT, connected, plainly
from flows.server import Server
from tasks import dvc
from tasks.layout import PARAMS, ROOT
from tasks.reading import check_families, read


@task(task_run_name="{stage}", persist_result=False, cache_policy=NO_CACHE)
def reproduce(stage: str) -> State:
    """Bring one stage up to date; its own flow run appears under this task run."""
    calling_run = {PARENT: str(task_run.id), "PREFECT_API_URL": PREFECT_API_URL.value()}
    if dvc.reproduce(stage, ROOT, environment=calling_run):
        return Completed(message=f"{stage} ran")
    return Completed(name="Unchanged", message=f"{stage} has not changed")


@flow(name="pipeline", persist_result=False)
def pipeline() -> None:
    """Bring every stage up to date, in the order of DVC's own graph."""
    check_families(read(ROOT / PARAMS))
    for stage in dvc.stages(ROOT):
        reproduce(stage)


def main() -> None:
    """Run the pipeline once, or serve it on the schedule of params.yaml."""
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description=__doc__)
    parser.add_argument("--serve", action="store_true", help="stay, and run at schedule.cron")
    serve = parser.parse_args().serve
    os.chdir(ROOT)
    with plainly("pipeline"), Server() as server:
        params = read(PARAMS)
        with connected(server):
            if serve:
                schedule = Cron(params.schedule.cron, timezone=params.schedule.timezone)
                pipeline.serve(name="nightly", schedule=schedule, limit=1)
            else:
                pipeline()


if __name__ == "__main__":
    main()
