"""`--serve` alone, with no server but its own: it schedules, is seen on loopback only, and comes back."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import psutil
import pytest

from flows import automations
from tests.house import ROOT
from tests.processes import gone

PATIENCE = 180


def until(happens):
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if found := happens():
                return found
        except OSError as error:
            found = error
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The process that serves, and a question to its server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("served")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(home), "PREFECT_SERVER_API_PORT": str(port)}
    command = [sys.executable, "-m", "flows.pipeline", "--serve", "--no-publish"]
    with (home / "said").open("wb") as said:
        process = psutil.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)

    def ask(what, **body):
        data = json.dumps(body).encode() if what.startswith("api/") else None
        headers = {"Content-Type": "application/json", "Accept": "*/*"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/{what}", data, headers)
        with urllib.request.urlopen(request, timeout=5) as answer:
            found = answer.read()
        return json.loads(found) if data else found.decode()

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
    runs = until(lambda: ask("api/flow_runs/filter"))
    assert {run["state_type"] for run in runs} == {"SCHEDULED"}
    assert {run["parameters"]["ref"] for run in runs} == {"main"}
    (first, second, *_) = sorted(run["expected_start_time"] for run in runs)
    assert (first[10:16], second[10:16]) == ("T02:00", "T02:00")
    assert first[:10] < second[:10]


def test_dead_runs_will_be_marked_as_crashed(served):
    _, ask = served
    names = {each["name"] for each in until(lambda: ask("api/automations/filter"))}
    assert names == {each.name for each in automations.crashed()}


def test_there_is_a_page_to_look_at(served):
    _, ask = served
    assert "<title>Prefect" in until(lambda: ask(""))


def test_it_listens_on_loopback_alone(served):
    process, ask = served
    until(lambda: ask("api/flow_runs/filter"))
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
    until(lambda: ask("api/flow_runs/filter"))
    (server,) = [each for each in process.children() if "uvicorn" in each.cmdline()]
    server.kill()
    assert gone(server.pid)
    assert until(lambda: ask("api/flow_runs/filter"))
    assert process.poll() is None


def test_a_second_one_is_told_that_the_port_is_taken(served):
    process, ask = served
    until(lambda: ask("api/flow_runs/filter"))
    done = subprocess.run(process.cmdline(), cwd=ROOT, env=process.environ(), capture_output=True, text=True)
    assert done.returncode == 1
    assert "is in use" in done.stderr
    assert "Traceback" not in done.stderr
