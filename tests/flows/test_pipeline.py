"""The whole pipeline as its users run it: tiny params, two ways in, one result, and nothing phones home."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from tests.house import PARAMS, ROOT, STAGES

TINY = {
    "ingest": {"source": "data/sources/digits.yaml"},
    "preprocess": {"size": 8},
    "calibrate": {"images": 12_000},
    "train": {"images": 6_000, "checkpoint_every": 2_000, "grid_every": 4_000},
    "generate": {"num_samples": 120, "batch": 60, "shard_size": 50, "steps": 4},
    "filter": {"unlike_label": 0.0, "outlier": None, "blurred": None, "noisy": None, "flat": None},
    "evaluate": {"images": 2_000, "seeds": 2},
    "machine": {"threads": 1, "workers": 1},
}


class Project:
    """A copy of the tree in a repository of its own, with tiny params and a guarded network."""

    def __init__(self, root: Path) -> None:
        self.root = root
        names = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
            text=True,
        ).stdout.split("\n")
        for name in filter(None, names):
            if not name.startswith(("tests/", "docs/")) and (ROOT / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes((ROOT / name).read_bytes())
        params = {k: {**v, **TINY.get(k, {})} for k, v in PARAMS.items()}
        (root / "params.yaml").write_text(yaml.safe_dump({**params, "gates": {}}, sort_keys=False))
        self.calls = root / "calls.log"
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "tests/guard"),
            "SOCKET_LOG": str(self.calls),
            "PREFECT_HOME": str(root / ".prefect"),
            "DVC_GLOBAL_CONFIG_DIR": str(root / ".config"),
            "HOME": str(root),
        }
        self.run("git", "init", "-q")

    def run(self, *command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True)
        assert done.returncode == code, f"{' '.join(command)}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    def lock(self) -> dict:
        return yaml.safe_load((self.root / "dvc.lock").read_text())["stages"]


@pytest.fixture(scope="module")
def by_dvc(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("by_dvc"))
    project.run("dvc", "repro")
    return project


@pytest.fixture(scope="module")
def by_flow(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("another folder"))
    project.printed = project.run(sys.executable, "-m", "flows.pipeline").stderr
    return project


def test_every_stage_has_its_out(by_dvc):
    assert set(by_dvc.lock()) == set(STAGES)
    for stage in STAGES.values():
        assert (by_dvc.root / stage["outs"][0] / "index.json").is_file()
    assert list((by_dvc.root / "data/.unfinished").glob("*/*")) == []


def test_the_deliverable_says_where_each_image_came_from(by_dvc):
    export = by_dvc.root / "data/export"
    manifest = pq.read_table(export / "manifest.parquet").to_pandas()
    metrics = json.loads((by_dvc.root / "data/scores/metrics.json").read_text())
    assert len(manifest) == 120
    assert manifest["kept"].sum() == metrics["kept"]
    images = [pq.read_table(p) for p in sorted((export / "images").glob("*.parquet"))]
    assert sum(map(len, images)) == metrics["kept"]
    assert manifest["id"].is_unique


def test_both_ways_give_the_same_bytes(by_dvc, by_flow):
    """In two folders, by `dvc repro` and by the pipeline flow: the same digests for every stage."""
    assert by_dvc.lock() == by_flow.lock()


def test_nothing_changed_runs_nothing(by_dvc):
    before = by_dvc.lock()
    assert "Data and pipelines are up to date" in by_dvc.run("dvc", "repro").stdout
    assert by_dvc.lock() == before


def test_stage_runs_are_nested_under_the_pipeline(by_flow):
    with sqlite3.connect(by_flow.root / ".prefect/prefect.db") as database:
        rows = database.execute(
            "select f.name, r.state_type, r.parent_task_run_id is not null from flow_run r "
            "join flow f on f.id = r.flow_id"
        ).fetchall()
    assert sorted(rows) == sorted(
        [("pipeline", "COMPLETED", 0), *((stage, "COMPLETED", 1) for stage in STAGES)]
    )


def test_a_second_pipeline_marks_stages_unchanged(by_flow):
    by_flow.run(sys.executable, "-m", "flows.pipeline")
    with sqlite3.connect(by_flow.root / ".prefect/prefect.db") as database:
        names = database.execute("select name from task_run where state_name = 'Unchanged'").fetchall()
    assert sorted(n for (n,) in names) == sorted(STAGES)


def test_a_later_typo_is_found_before_any_work(by_flow):
    path = by_flow.root / "params.yaml"
    sound = path.read_text()
    path.write_text(sound.replace("license:", "licence:"))
    try:
        said = by_flow.run(sys.executable, "-m", "flows.ingest", code=1).stderr
    finally:
        path.write_text(sound)
    assert "export.licence: unknown key; did you mean 'license'?" in said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) <= 6


def test_only_evaluate_reads_the_test_split(by_dvc):
    """With it taken away, every later stage but evaluate runs, and gives the same bytes again."""
    test, aside = by_dvc.root / "data/real/test", by_dvc.root.parent / "taken away"
    test.rename(aside)
    try:
        for stage in [s for s in STAGES if s not in ("ingest", "preprocess", "evaluate")]:
            index = by_dvc.root / STAGES[stage]["outs"][0] / "index.json"
            before = index.read_bytes()
            by_dvc.run(sys.executable, "-m", f"flows.{stage}")
            assert index.read_bytes() == before, stage
        assert "data/real/test" in by_dvc.run(sys.executable, "-m", "flows.evaluate", code=1).stderr
    finally:
        aside.rename(test)


def ended_at_work(project, stage, begun, wish):
    """Run a stage, and signal all of its processes once `begun` lies in its unfinished work.

    Returns what lies there, its exit code and what it said.
    """
    running = subprocess.Popen(
        [sys.executable, "-m", f"flows.{stage}"],
        cwd=project.root,
        env=project.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    folder = project.root / "data/.unfinished" / stage
    while running.poll() is None and not list(folder.glob(f"*/{begun}")):
        time.sleep(0.005)
    os.killpg(running.pid, wish)
    said = running.communicate(timeout=60)[1]
    return list(folder.glob(f"*/{begun}")), running.returncode, said


def test_ctrl_c_ends_a_stage_at_once(by_dvc):
    """A terminal sends it to all of them; the stage tells its end to its own server, which stays for it."""
    found, code, said = ended_at_work(by_dvc, "train", "state.safetensors", signal.SIGINT)
    assert found
    assert (code, "Traceback" in said) == (130, False)
    assert "train: stopped. Run the same command again to go on." in said
    assert "Error" not in said
    shutil.rmtree(found[0].parent)


@pytest.mark.parametrize(
    ("stage", "begun"), [("train", "state.safetensors"), ("generate", "shard-*.parquet")]
)
def test_a_killed_stage_goes_on_to_the_same_bytes(by_dvc, stage, begun):
    """The samples by two processes, where one drew them before: who draws them changes nothing."""
    path, index = by_dvc.root / "params.yaml", by_dvc.root / STAGES[stage]["outs"][0] / "index.json"
    before, params = index.read_bytes(), path.read_text()
    assert ended_at_work(by_dvc, stage, begun, signal.SIGKILL)[0]
    path.write_text(params.replace("workers: 1", "workers: 2"))
    try:
        said = by_dvc.run(sys.executable, "-m", f"flows.{stage}").stderr
    finally:
        path.write_text(params)
    assert index.read_bytes() == before
    assert list((by_dvc.root / "data/.unfinished").glob("*/*")) == []
    assert "going on from" in said or stage == "generate"


def test_nothing_phones_home(by_dvc, by_flow):
    for project in (by_dvc, by_flow):
        assert not project.calls.exists(), project.calls.read_text()
