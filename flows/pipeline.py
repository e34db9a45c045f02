"""Pipeline: all stages through DVC, nested in one run. `--serve` runs it on `schedule`."""

import argparse
import logging
import os
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import deployment, flow_run, task_run
from prefect.settings import PREFECT_API_URL
from prefect.states import Completed, Crashed, State

from flows import serving
from flows.footer import (
    PARENT,
    call,
    close_nested,
    connected,
    craft,
    noted,
    show_image,
    show_report,
    show_table,
)
from flows.server import Server
from flows.speaking import plainly, speak
from tasks import delivering, dvc, keeping, overriding, publishing, workspace
from tasks.children import end_with_parent
from tasks.errors import UserError
from tasks.layout import EXPORT, PARAMS, REPORT, ROOT
from tasks.params import Schedule
from tasks.reading import read, section

log = logging.getLogger("mintage.pipeline")
TRIES = 3


@task(task_run_name="{stage}", persist_result=False, cache_policy=NO_CACHE)
def reproduce(stage: str, root: Path) -> State:
    """Bring one stage up to date; its own flow run appears under this task run."""
    calling_run = {PARENT: str(task_run.id), "PREFECT_API_URL": PREFECT_API_URL.value()}
    end: State | None = Crashed(message=f"{stage} was stopped or killed")
    try:
        ran = dvc.reproduce(stage, root, calling_run, sparse=root != ROOT)
        end = Completed(message=f"{stage} ran") if ran else None
    finally:
        if end:
            close_nested(task_run.id, end)
    return end or Completed(name="Unchanged", message=f"{stage} has not changed")


@flow(name="pipeline", persist_result=False)
@noted
def pipeline(
    overrides: dict[str, Any] | None = None,
    fresh: bool = False,
    ref: str | None = None,
    publish: bool = False,
) -> None:
    """Bring every stage up to date, in the order of DVC's own graph, and see that the dataset opens.

    overrides: dotted params and their values, such as train.images: 1000.
    fresh: new images, by a generate.seed that stands for the time for which the run was due.
    ref: a branch, tag or commit to work on, in a clone of its own; without one, in this tree as it is.
    publish: push the data, and a commit and a tag that name it.
    """
    speak()
    if deployment.id:  # then the parent is a worker or `--serve`, not somebody's terminal
        end_with_parent()
    due = flow_run.scheduled_start_time
    changes = overriding.changes(overrides or {}, due if fresh else None)
    if ref is None:
        here(changes, publish)
        return
    with workspace.clone_of(ROOT) as root:
        try:
            there(root, ref, changes, due if publish else None)
        except Exception:
            tidy(root)  # a month of bad nights must not fill the disk
            raise
        tidy(root)


def there(root: Path, ref: str, changes: dict[str, Any], due: Any) -> None:
    """Bring the clone up to date at `ref`, and publish, if it is `due`, as of that time."""
    for _ in range(TRIES):
        craft(workspace.prepare)(root, ROOT, ref, changes)
        if due:
            publishing.ready(root)
        run_stages(root)
        if not due or craft(publishing.publish)(root, ref, due):
            return
    raise UserError(f"publish: others pushed to {ref} first, {TRIES} times in a row. Run again.")


def tidy(root: Path) -> None:
    """Keep the cache level. What goes wrong with it is no fault of tonight's dataset, and only told."""
    try:
        keep = section(root / PARAMS, "schedule").get("keep", Schedule().keep)
        craft(keeping.trim)(root, ROOT, keep)
    except Exception as error:
        log.warning("the cache was not trimmed: %s", error)


def here(changes: dict[str, Any], publish: bool) -> None:
    """Bring this tree up to date as it is. Raises UserError for what only a clone may be changed by."""
    if changes or publish:
        raise UserError("overrides, fresh and publish change files: give `ref` too, for a clone of its own.")
    workspace.check(ROOT)
    run_stages(ROOT)


def run_stages(root: Path) -> None:
    """Bring every stage of a tree up to date, and see that its dataset opens."""
    for stage in dvc.stages(root):
        reproduce(stage, root)
    show(root, craft(delivering.deliver)(root))


def show(root: Path, metrics: dict[str, Any]) -> None:
    """Show in Prefect what came out: the headline metrics, real and synthetic images, the report."""
    show_table("metrics", [{"metric": name, "value": value} for name, value in metrics.items()])
    show_image("samples", root / EXPORT / "preview.png")
    show_report(root / REPORT / "report.html")


def main() -> None:
    """Run the pipeline once, or serve it on the schedule of params.yaml."""
    asked = arguments()
    os.chdir(ROOT)
    with plainly("pipeline"):
        params = read(PARAMS)
        wanted = {name: value for name, value in vars(asked).items() if value is not None and name != "serve"}
        wanted["overrides"] = overriding.parsed(asked.overrides)
        if not asked.serve:
            with Server() as server, connected(server):
                call(pipeline, wanted)
            return
        due = serving.nightly_at(params.schedule)
        if wanted.get("publish", True):
            warn()
        with serving.alone(), Server(stays=True) as server, connected(server, heartbeat=True):
            serving.serve(pipeline, server, due, wanted)


def warn() -> None:
    """Say now what every night would fail of. It may be mended at origin before the first one."""
    try:
        publishing.possible(ROOT)
    except UserError as error:
        log.warning("as it is, nights will fail: %s", error)


def arguments() -> argparse.Namespace:
    """What the command line asks for: the flow's parameters, and whether to stay."""
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description=__doc__)
    yes_or_no = argparse.BooleanOptionalAction
    parser.add_argument("--serve", action="store_true", help="stay, and run at schedule.cron")
    parser.add_argument("--ref", help="a branch, tag or commit, in a clone of its own (served: main)")
    parser.add_argument("--fresh", action=yes_or_no, help="new images by a new seed (served: yes)")
    parser.add_argument("--publish", action=yes_or_no, help="push data, commit and tag (served: yes)")
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="train.images=1000"
    )
    return parser.parse_args()


if __name__ == "__mp_main__":  # a run that --serve starts, before Prefect has anything to do with it
    end_with_parent()
if __name__ == "__main__":
    main()
