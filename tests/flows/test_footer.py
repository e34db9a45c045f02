"""The footer: typed params to a flow, plain words on failure, no server needed."""

import inspect
import logging
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from flows import footer, server
from flows.footer import arguments_of
from tasks.errors import PassingError, UserError
from tasks.progress import Progress
from tasks.reading import read
from tests.house import PARAMS, ROOT, STAGES


def run(stage, root, **environment):
    return subprocess.run(
        [sys.executable, "-m", f"flows.{stage}"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("stage", STAGES)
def test_arguments_are_the_sections_of_params(stage):
    flow = getattr(__import__(f"flows.{stage}", fromlist=[stage]), stage)
    params = read(ROOT / "params.yaml")
    found = arguments_of(flow, params)
    assert found["params"] is getattr(params, stage)
    sections = {"family": params.family, "gates": params.gates, "machine": params.machine}
    for name, parameter in inspect.signature(flow.fn, eval_str=True).parameters.items():
        assert (name in found) == (parameter.annotation is not Path)
        assert name == "params" or found.get(name) is sections.get(name)


@pytest.mark.parametrize("stage", STAGES)
def test_importing_a_flow_does_not_import_torch(stage):
    code = f"import sys, flows.{stage}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("stage", STAGES)
def test_help_is_given_without_prefect_and_is_the_flows_own(stage):
    """Prefect's import takes over a second, and torch's some more."""
    command = [sys.executable, "-X", "importtime", "-m", f"flows.{stage}", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "flows" in imported
    assert not {"prefect", "torch", "numpy", "pyarrow"} & imported
    flow = getattr(__import__(f"flows.{stage}", fromlist=[stage]), stage)
    assert " ".join(flow.description.split()) in " ".join(done.stdout.split())
    assert "params.yaml" in done.stdout


def test_an_argument_that_there_is_not_is_refused():
    command = [sys.executable, "-m", "flows.ingest", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, "unrecognized arguments: --seed 1" in done.stderr) == (2, True)


WRONG = {
    "an unknown section": ({"trian": {}}, "trian: unknown key; did you mean 'train'?"),
    "an unknown key": ({"train": {**PARAMS["train"], "epochs": 3}}, "train.epochs: unknown key"),
    "a wrong type": (
        {"generate": {**PARAMS["generate"], "num_samples": "many"}},
        "generate.num_samples: found 'many'",
    ),
    "an unknown family": ({"train": {**PARAMS["train"], "family": "gam"}}, "train.family: no family 'gam'"),
    "a family's typo": ({"families": {"diffusion": {"wdith": 3}}}, "families.diffusion.wdith: unknown key"),
    "an impossible value": ({"preprocess": {**PARAMS["preprocess"], "size": 3}}, "preprocess.size: found 3"),
    "a size that the family has not": (
        {"preprocess": {**PARAMS["preprocess"], "size": 30}},
        "preprocess.size 30, channels 1: diffusion makes images whose sides are multiples of 4",
    ),
    "a pattern that is none": (
        {"preprocess": {**PARAMS["preprocess"], "group_by": "("}},
        "preprocess.group_by: found '('. No regular expression",
    ),
    "a bound that nothing breaks": (
        {"gates": {"kept_ratio": {"min": float("nan")}}},
        "gates.kept_ratio.min: found nan. Input should be a finite number",
    ),
    "a bound of nothing": ({"gates": {"kept_ratio": {}}}, "gates.kept_ratio"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_params_are_told_before_any_work(tmp_path, wrong):
    changes, expected = WRONG[wrong]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({**PARAMS, **changes}))
    done = run("ingest", tmp_path)
    assert done.returncode == 1
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 6
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("text", ["", "- a list", "train: [", "\x00"])
def test_a_broken_params_file_is_told(tmp_path, text):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError, match=r"params\.yaml"):
        read(tmp_path / "params.yaml")


def test_a_missing_params_file_is_told(tmp_path):
    done = run("train", tmp_path)
    assert (done.returncode, "params.yaml: not found" in done.stderr) == (1, True)


def test_a_dead_server_is_told_and_done_without(monkeypatch, capsys):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setattr(server.Server, "_start", lambda self: "http://127.0.0.1:1/api")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        found = server.Server()
    assert found.url == "http://127.0.0.1:1/api"
    assert "no server answers at http://127.0.0.1:9/api" in capsys.readouterr().err


@pytest.mark.parametrize("stands", ["nothing of Prefect's", "its pages"])
def test_what_is_no_api_is_told(stands):
    """Another server, or Prefect's own without the /api: any address there has a page."""

    class Stands(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404 if stands.startswith("nothing") else 200)
            self.send_header("Content-Length", "15")
            self.end_headers()
            self.wfile.write(b"<!doctype html>")

        def log_message(self, *words):
            pass

    with HTTPServer(("127.0.0.1", 0), Stands) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{other.server_port}"
        assert server.trouble(url) == (
            f"what answers at {url} is no Prefect API, whose URL ends in /api, or does not let us in."
        )
        other.shutdown()
    for wrong in ("http://127.0.0.1:80000/api", "http://[", "nonsense"):
        assert server.trouble(wrong) == f"no server answers at {wrong}."


def test_prefects_own_api_is_in_order(prefect):
    from prefect.settings import PREFECT_API_URL

    assert server.trouble(PREFECT_API_URL.value()) is None


@pytest.mark.parametrize("end", ["exits", "hangs"])
def test_a_server_that_does_not_come_up_is_told(monkeypatch, end):
    seconds = "60" if end == "hangs" else "0"
    monkeypatch.setattr(server, "START_SECONDS", 0.3)

    def start(self):
        self.child = subprocess.Popen(["sleep", seconds])
        return "http://127.0.0.1:1/api"

    monkeypatch.setattr(server.Server, "_start", start)
    monkeypatch.setattr(server, "answers", lambda url: False)
    with server.Server() as found, pytest.raises(UserError, match="did not start"):
        found.wait()
    assert found.child.poll() is not None


def test_retrying_is_not_worth_it_for_what_the_user_must_mend():
    class State:
        def __init__(self, error):
            self.error = error

        def result(self, raise_on_failure):
            return self.error

    assert not footer.worth_retrying(None, None, State(UserError("mend it")))
    for passing in (PassingError("it broke off"), OSError("came and went")):
        assert footer.worth_retrying(None, None, State(passing))


def test_a_server_that_went_away_does_not_undo_finished_work(monkeypatch):
    from httpx import ConnectError
    from prefect import Flow

    def ends(self, **arguments):
        if "early" not in arguments:
            self.fn(**arguments)
        raise ConnectError("all connection attempts failed")

    monkeypatch.setattr(Flow, "__call__", ends)
    monkeypatch.delenv(footer.PARENT, raising=False)
    done = []

    def work(n, early=False):
        done.append(n)

    stage = footer.stage(work)
    footer.call(stage, {"n": 1})
    assert done == [1]
    with pytest.raises(UserError, match="its server went away before work was finished"):
        footer.call(stage, {"n": 2, "early": True})


def test_a_run_that_was_killed_is_not_running_for_ever(prefect):
    """A nested run that is still running when its task ends gets that task's word for its own end."""
    from prefect import flow, get_client, task
    from prefect.client.schemas.filters import TaskRunFilter
    from prefect.runtime import task_run
    from prefect.states import Completed, Crashed, Running

    @flow
    def killed():
        pass

    @task
    def reproduce():
        with get_client(sync_client=True) as client:
            deadline = time.monotonic() + 20  # a task run comes to the server as an event, a little later
            while not client.read_task_runs(task_run_filter=TaskRunFilter(id={"any_": [task_run.id]})):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            runs = [
                client.create_flow_run(killed, parent_task_run_id=task_run.id, state=state)
                for state in (Running(), Completed())
            ]
            footer.close_nested(task_run.id, Crashed(message="it was killed"))
            return [client.read_flow_run(run.id).state.type.value for run in runs]

    assert flow(lambda: reproduce(), name="calling")() == ["CRASHED", "COMPLETED"]


def test_progress_is_one_artifact_brought_up_to_date(prefect, monkeypatch):
    from prefect import flow
    from prefect.artifacts import Artifact

    monkeypatch.setattr(footer, "SHOWN", {})
    monkeypatch.setattr(footer, "watchers", [footer.show_progress])

    @flow
    def train():
        for done in (10, 40):
            footer.show_progress(Progress("train, on one thread", 80, done))

    train()
    (shown,) = footer.SHOWN.values()
    found = Artifact.get("train-progress")
    assert (found.id, found.type, found.data) == (shown, "progress", 50.0)
    assert footer.watchers


def test_what_could_not_be_brought_up_to_date_is_named(monkeypatch, caplog):
    monkeypatch.setattr(footer, "watchers", [])
    monkeypatch.setattr(footer, "SHOWN", {"train-progress": "an artifact"})
    monkeypatch.setattr(footer, "answers", lambda url: False)
    with caplog.at_level(logging.WARNING, "mintage.stage"):
        footer.show_progress(Progress("train", 80))
    assert caplog.messages == ["no artifact train-progress: the server does not answer"]


def test_a_server_that_can_not_be_told_is_not_asked_again(monkeypatch):
    monkeypatch.setattr(footer, "watchers", [footer.show_progress])
    monkeypatch.setattr(footer, "SHOWN", {})
    monkeypatch.setattr(footer, "_artifact", lambda create, **told: None)
    footer.show_progress(Progress("train", 80))
    assert footer.watchers == []
