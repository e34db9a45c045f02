"""Two ways to schedule, `--serve` and prefect.yaml, that promise the same."""

import contextlib
import inspect
import re
import sys

import pytest
import yaml

from flows import pipeline as nightly
from flows import serving
from tasks import dvc, publishing, workspace
from tests.house import ROOT, SHIPPED

README = (ROOT / "README.md").read_text(encoding="utf-8")
PREFECT = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
DEPLOYMENTS = {each["name"]: each for each in PREFECT["deployments"]}


def test_there_is_one_for_each_night_and_one_for_now():
    assert list(DEPLOYMENTS) == ["nightly", "on-demand"]
    assert DEPLOYMENTS["nightly"]["schedules"] == [{k: SHIPPED["schedule"][k] for k in ("cron", "timezone")}]
    assert DEPLOYMENTS["on-demand"]["schedules"] == []


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_it_queues_and_its_parameters_are_the_flows(name):
    deployment = DEPLOYMENTS[name]
    assert "concurrency_limit" not in deployment  # whose lease a server that was away lets a run die of
    assert (
        re.findall("prefect worker start .*", README) == ["prefect worker start --pool mintage --limit 1"] * 2
    )
    assert deployment["parameters"].keys() <= inspect.signature(nightly.pipeline.fn).parameters.keys()
    assert deployment["parameters"]["ref"]  # without one it would work in the tree it was started from
    assert name in deployment["tags"]


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_its_entrypoint_loads_from_another_folder(name, tmp_path, monkeypatch):
    from prefect.deployments.steps.pull import set_working_directory
    from prefect.flows import load_flow_from_entrypoint

    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", ".", str(ROOT))])
    for module in [m for m in sys.modules if m.split(".")[0] in ("flows", "tasks", "models")]:
        monkeypatch.delitem(sys.modules, module)
    with contextlib.chdir(tmp_path):
        set_working_directory(str(ROOT))  # the step that `prefect deploy` writes for a worker
        flow = load_flow_from_entrypoint(DEPLOYMENTS[name]["entrypoint"], use_placeholder_flow=False)
    assert flow.name == "pipeline"
    flow.validate_parameters(DEPLOYMENTS[name]["parameters"])


def served(monkeypatch, *given):
    """What `python -m flows.pipeline --serve` asks of Prefect."""
    asked = {}
    monkeypatch.setattr("sys.argv", ["flows.pipeline", "--serve", *given])
    monkeypatch.setattr(nightly.Server, "_stay", lambda self: "http://127.0.0.1:1/api")
    monkeypatch.setattr(nightly.Server, "wait", lambda self: self.url)
    monkeypatch.setattr(serving, "alone", contextlib.nullcontext)  # somebody may serve on this machine
    monkeypatch.setattr(serving, "stop_workers", lambda: None)  # the suite's own, here
    for question in ("refuse_a_second", "catch_up"):  # of a server that there is none of
        monkeypatch.setattr(serving, question, lambda *asked: None)
    monkeypatch.setattr(
        type(nightly.pipeline), "serve", lambda self, name, **wanted: asked.update(wanted, name=name)
    )
    nightly.main()
    return asked


def test_serving_is_the_nightly_deployment(monkeypatch):
    asked, nightly_one = served(monkeypatch), DEPLOYMENTS["nightly"]
    assert asked["name"] == "nightly"
    assert asked["parameters"] == {**nightly_one["parameters"], "overrides": {}}
    assert asked["limit"] == 1
    assert asked["tags"] == nightly_one["tags"]
    (schedule,) = nightly_one["schedules"]
    assert (asked["schedule"].cron, asked["schedule"].timezone) == (schedule["cron"], schedule["timezone"])


def test_serving_takes_the_flows_parameters(monkeypatch):
    asked = served(monkeypatch, "--no-publish", "--ref=v1", "--set", "train.images=9")
    assert asked["parameters"] == {
        "fresh": True, "ref": "v1", "publish": False, "overrides": {"train.images": 9},
    }  # fmt: skip


def test_the_readmes_lines_are_all_that_a_night_needs(tmp_path, monkeypatch):
    """In a clone of the project, with an origin and a store that are folders."""
    from tests import publishing as tiny

    tiny.settle(monkeypatch, tmp_path)
    monkeypatch.setattr(workspace, "check", lambda root: None)
    (block,) = re.findall(r"A dataset a night, in one line:\n\n```sh\n(.*?)```", README, re.S)
    *lines, last = block.strip().splitlines()
    assert last.startswith("python -m flows.pipeline --serve")
    home, origin = tmp_path / "home", tmp_path / "origin.git"
    tiny.run(tmp_path, "git", "clone", "--quiet", str(ROOT), "home")
    tiny.run(tmp_path, "git", "init", "--quiet", "--bare", "--initial-branch=main", "origin.git")
    for line in lines:
        line = line.replace("git@host:team/digits.git", str(origin))
        tiny.run(home, "sh", "-ec", line.replace("s3://bucket/digits", str(tmp_path / "store")))
    with workspace.clone_of(home) as root:
        workspace.prepare(root, home, serving.NIGHTLY["ref"], {"generate.seed": 7})
        publishing.ready(root)
        assert dvc.remote(root) == "store"
