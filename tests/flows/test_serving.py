"""`--serve` alone, with no server but its own: it schedules, is seen on loopback only, and comes back."""

import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from urllib.error import HTTPError

import psutil
import pytest
from prefect.settings import get_current_settings

from benchmarks.machines import free_port, until
from flows import automations, reports, serving
from flows.footer import connected
from flows.pipeline import reproduce
from tasks.errors import UserError
from tasks.params import Schedule
from tests.house import ROOT
from tests.processes import gone


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The process that serves, and a question to its server."""
    port, home = free_port(), tmp_path_factory.mktemp("served")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(home), "PREFECT_SERVER_API_PORT": str(port)}
    command = [sys.executable, "-m", "flows.pipeline", "--serve", "--no-publish"]
    with (home / "said").open("wb") as said:
        process = psutil.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)

    def ask(what):
        data = b"{}" if what.startswith("api/") else None
        headers = {"Content-Type": "application/json", "Accept": "*/*"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/{what}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                found = answer.read()
                return json.loads(found) if data else found.decode()
        except HTTPError as refused:
            return refused.read().decode()
        except OSError:
            return None  # it is not up yet

    yield process, ask
    children = process.children(recursive=True)
    process.send_signal(signal.SIGTERM)
    try:
        assert process.wait(20) == 0
    finally:
        if process.poll() is None:
            process.kill()
    assert all(gone(child.pid) for child in children)


def test_runs_are_scheduled(served):
    _, ask = served
    runs = until(lambda: ask("api/flow_runs/filter"), "its server")
    assert {run["state_type"] for run in runs} == {"SCHEDULED"}
    assert {run["parameters"]["ref"] for run in runs} == {"main"}
    (first, second, *_) = sorted(run["expected_start_time"] for run in runs)
    assert (first[10:16], second[10:16]) == ("T02:00", "T02:00")
    assert first[:10] < second[:10]


def test_dead_runs_will_be_marked_as_crashed(served):
    _, ask = served
    names = {each["name"] for each in until(lambda: ask("api/automations/filter"), "its server")}
    assert names == {each.name for each in automations.crashed()}


def test_there_is_a_page_to_look_at(served):
    _, ask = served
    assert "<title>Prefect" in until(lambda: ask(""), "its server")


def test_reports_are_beside_it(served):
    """There is none of this name, and Prefect's UI would answer to it by its own page."""
    _, ask = served
    until(lambda: ask("api/flow_runs/filter"), "its server")
    assert ask(f"reports/{'0' * 32}") == reports.GONE


def test_it_listens_on_loopback_alone(served):
    process, ask = served
    until(lambda: ask("api/flow_runs/filter"), "its server")
    everyone = [process, *process.children(recursive=True)]
    listening = {
        each.laddr.ip
        for one in everyone
        for each in one.net_connections(kind="inet")
        if each.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_its_server_comes_back(served):
    process, ask = served
    until(lambda: ask("api/flow_runs/filter"), "its server")
    (server,) = [each for each in process.children() if "uvicorn" in each.cmdline()]
    server.kill()
    assert gone(server.pid)
    assert until(lambda: ask("api/flow_runs/filter"), "its server")
    assert process.poll() is None


@pytest.mark.parametrize("home", ["the same", "another", "another, at its server"])
def test_a_second_one_is_refused(served, tmp_path, home):
    """Also at the first one's server: they would share a deployment, and who ends first pauses it."""
    process, ask = served
    until(lambda: ask("api/flow_runs/filter"), "its server")
    port, environment = process.environ()["PREFECT_SERVER_API_PORT"], process.environ()
    if home == "the same":
        environment["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
        words = f"--serve: process {process.pid} in {ROOT} serves already. End it, or give this one"
    else:
        environment["PREFECT_HOME"] = str(tmp_path)
        words = f"port {port} is in use"
    if home == "another, at its server":
        environment["PREFECT_API_URL"] = url = f"http://127.0.0.1:{port}/api"
        words = f"somebody serves pipeline/nightly at {url} already"
        # Its server knows it from when it has first asked for runs.
        until(lambda: ask("api/deployments/filter")[0]["status"] == "READY", "the first one")
    done = subprocess.run(process.cmdline(), cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


class Served:
    """Stands in for Prefect's serving flow: it is at work on a run when it is told to end."""

    name = "pipeline"

    def serve(self, name, **wanted):
        self.beat = get_current_settings().flows.heartbeat_frequency
        self.run = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
        self.run.start()
        sys.exit(0)


def test_its_runs_give_signs_of_life_and_end_with_it(monkeypatch):
    flow, named = Served(), SimpleNamespace(child=None, url="http://127.0.0.1:1/api")
    named.wait = lambda: named.url
    for asked in ("refuse_a_second", "catch_up"):
        monkeypatch.setattr(serving, asked, lambda *told: None)
    monkeypatch.setattr(multiprocessing, "active_children", lambda: [flow.run])  # and not the suite's own
    with pytest.raises(SystemExit), connected(named, heartbeat=True):
        serving.serve(flow, named, serving.nightly_at(Schedule()), {})
    assert flow.beat == 180
    assert not flow.run.is_alive()


@pytest.mark.parametrize(
    "cron", ["nonsense", "nightly at two", "* * * * * *", "0 25 * * *", "0 0 31 2 *", "@daily", ""]
)
def test_a_time_that_never_comes_or_all_the_time_is_told(cron):
    with pytest.raises(UserError, match=r"schedule\.cron: .*Give five fields"):
        serving.nightly_at(Schedule(cron=cron))
    assert serving.nightly_at(Schedule()).cron == "0 2 * * *"


def test_a_deployment_of_workers_is_left_to_them(prefect):
    from prefect import flow, get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    ours = flow(lambda: None, name="pipeline")
    with get_client(sync_client=True) as client:
        serving.refuse_a_second(ours, "http://here/api")
        client.create_work_pool(WorkPoolCreate(name="mintage", type="process"))
        made = client.create_deployment(client.create_flow(ours), serving.NAME, work_pool_name="mintage")
        try:
            with pytest.raises(UserError, match="belongs to the workers of the pool 'mintage'"):
                serving.refuse_a_second(ours, "http://here/api")
        finally:
            client.delete_deployment(made)


def test_of_the_nights_that_were_missed_the_last_is_made_up_for(prefect):
    from prefect import flow, get_client
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
    from prefect.states import Scheduled

    ours = flow(lambda: None, name="pipeline")
    with get_client(sync_client=True) as client:
        made = client.create_deployment(client.create_flow(ours), serving.NAME)

        def due(days):
            when = datetime.now(UTC) + timedelta(days=days)
            return client.create_flow_run_from_deployment(made, state=Scheduled(scheduled_time=when)).id

        asked, *missed, next_night = [due(days) for days in (-9, -3, -1, -2, 1)]
        # Only its scheduler can say so of a run.
        with sqlite3.connect(PREFECT_API_DATABASE_CONNECTION_URL.value().partition("///")[2]) as database:
            for run in (*missed, next_night):
                database.execute("update flow_run set auto_scheduled = 1 where id = ?", [str(run)])
        for _ in range(2):
            serving.catch_up(ours)
            left = {run.id for run in client.read_flow_runs() if run.deployment_id == made}
            assert left == {asked, missed[1], next_night}
        client.delete_deployment(made)


def test_runs_of_a_machine_that_went_down_have_crashed(prefect):
    """With the stages under them, and what these were at work on; those of others are left alone."""
    from prefect import flow, get_client
    from prefect.states import Crashed, Running

    ours, stage = flow(lambda: None, name="pipeline"), flow(lambda: None, name="train")
    with get_client(sync_client=True) as client:
        deployed = client.create_deployment(client.create_flow(ours), serving.NAME)
        ran = client.create_flow_run_from_deployment(deployed, state=Running())
        step = client.create_task_run(reproduce, ran.id, "train", state=Running())
        nested = client.create_flow_run(stage, parent_task_run_id=step.id, state=Running())
        shard = client.create_task_run(reproduce, nested.id, "shard", state=Running())
        over = client.create_flow_run(ours, state=Crashed())
        above = client.create_task_run(reproduce, over.id, "train", state=Crashed())
        silent = client.create_flow_run(stage, parent_task_run_id=above.id, state=Running())
        another = client.create_flow_run(ours, state=Running())
        its = client.create_task_run(reproduce, another.id, "train", state=Running())
        living = client.create_flow_run(stage, parent_task_run_id=its.id, state=Running())
        for _ in range(2):
            serving.bury(ours)
            runs = (ran, nested, silent, another, living)
            ends = [client.read_flow_run(run.id).state.type.value for run in runs]
            assert ends == ["CRASHED", "CRASHED", "CRASHED", "RUNNING", "RUNNING"]
            assert client.read_task_run(shard.id).state.type.value == "CRASHED"
