"""Stages run as plain scripts, with stand-ins where they would import Prefect."""

import inspect
import subprocess
import sys

from benchmarks import plain
from flows.engine import Engine
from tests.house import ROOT, STAGES


def test_every_stage_is_imported_without_prefect():
    code = (
        "import sys; from importlib import import_module; from benchmarks.plain import stand_ins; "
        "stand_ins(); "
        f"[import_module(f'flows.{{stage}}') for stage in {list(STAGES)}]; "
        "sys.exit('prefect.futures' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_engines_stand_in_is_asked_as_the_engine_is():
    for own, real in ((plain.Engine, Engine), (plain.Engine.each, Engine.each)):
        assert list(inspect.signature(own).parameters) == list(inspect.signature(real).parameters)
    done = []
    work = lambda shard, folder, device: done.append((shard, folder, device))  # noqa: E731
    plain.Engine(None, "cpu", None).each(work, [0, 1], folder="x")
    assert done == [(0, "x", "cpu"), (1, "x", "cpu")]
