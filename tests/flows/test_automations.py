"""The server is told once what to do with dead runs and whom to tell, and then does it."""

import http.server
import json
import os
import queue
import subprocess
import sys
import threading
from datetime import timedelta

import pytest

from flows import automations
from tests.house import ROOT


@pytest.fixture
def run(prefect, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["flows.automations", *arguments])
        automations.main()
        return capsys.readouterr().out.splitlines()

    return run


@pytest.fixture
def hook():
    """A webhook's URL on loopback, and what was sent to it."""
    sent = queue.Queue()

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            sent.put(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", sent
        server.shutdown()


@pytest.fixture
def known():
    """The automations that the server knows; afterwards, none."""
    from prefect import get_client

    with get_client(sync_client=True) as client:
        listed = lambda: client._client.post("/automations/filter", json={}).json()  # noqa: E731
        yield lambda: sorted(each["name"] for each in listed())
        for each in listed():
            client._client.delete(f"/automations/{each['id']}")


def test_what_was_written_by_another_process_is_known_again():
    """In each, a set has an order of its own."""
    code = "from flows.automations import *; print([digest(each) for each in crashed()])"
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(told) == 1
    first, second = automations.crashed()
    assert automations.digest(first) != automations.digest(second)


def test_they_are_written_once_and_the_end_of_a_run_is_told(run, known, hook):
    from prefect import flow
    from prefect.blocks.webhook import Webhook

    url, sent = hook
    Webhook(url=url, allow_private_urls=True).save("mintage")
    for _ in range(2):
        told = run("--webhook", "mintage")
        assert known() == sorted(told)
    assert len(told) == 4
    flow(lambda: None, name="another")()
    flow(lambda: None, name="pipeline", flow_run_name="tonight")()
    text = json.loads(sent.get(timeout=30))["text"]
    assert text.startswith("pipeline: tonight is Completed.")
    # At least once: what fails in a busy SQLite database, Prefect does again. Of others, nothing.
    assert {json.loads(each)["text"] for each in sent.queue} <= {text}


def test_that_a_run_does_not_begin_is_told(run, known, hook, monkeypatch):
    """As there is no worker, or the one before hangs."""
    from prefect import flow, get_client
    from prefect.blocks.webhook import Webhook
    from prefect.states import Late, Scheduled

    url, sent = hook
    monkeypatch.setattr(automations, "LATE", timedelta(seconds=10))
    Webhook(url=url, allow_private_urls=True).save("late")
    run("--webhook", "late")
    with get_client(sync_client=True) as client:
        pipeline = flow(lambda: None, name="pipeline")
        due = client.create_flow_run(pipeline, name="tonight", state=Scheduled())
        client.set_flow_run_state(due.id, Late())
    assert json.loads(sent.get(timeout=60))["text"].startswith("pipeline: tonight is Late.")


def test_a_block_that_is_not_there_is_told(run, capsys):
    with pytest.raises(SystemExit):
        run("--webhook", "mintag")
    assert "no Webhook block 'mintag'" in capsys.readouterr().err


def test_without_a_server_there_is_nothing_to_write_to(monkeypatch, capsys):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setattr("sys.argv", ["flows.automations"])
    with temporary_settings(restore_defaults={PREFECT_API_URL}), pytest.raises(SystemExit):
        automations.main()
    assert "PREFECT_API_URL: not set" in capsys.readouterr().err
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}), pytest.raises(SystemExit):
        automations.main()
    assert "no server answers at http://127.0.0.1:9/api" in capsys.readouterr().err
