"""Imports run flows -> tasks -> models, never back, never sideways between stage flows."""

import subprocess
import sys

import pytest

from tests.house import ROOT, STAGES, edges, families, imported, modules

FORBIDDEN = {
    "flows": {"torch", "pyarrow", "yaml", "pandas", "models"},
    "tasks": {"prefect", "flows"},
    "models": {"prefect", "yaml", "pathlib", "pyarrow", "tasks", "flows", "os"},
}
# The registry finds families by their files: the one path in models.
ALLOWED = {("models/families/__init__.py", "pathlib")}


@pytest.mark.parametrize("module", modules())
def test_room_imports_only_what_it_may(module):
    tops = {name.split(".")[0] for name in imported(module)}
    found = {t for t in tops & FORBIDDEN[module.split("/")[0]] if (module, t) not in ALLOWED}
    assert not found, f"{module} imports {sorted(found)}"


@pytest.mark.parametrize("stage", STAGES)
def test_stage_flows_do_not_import_each_other(stage):
    others = {f"flows/{other}.py" for other in STAGES if other != stage}
    assert not edges(f"flows/{stage}.py") & (others | {"flows/pipeline.py"})


@pytest.mark.parametrize("family", families())
def test_families_do_not_import_each_other(family):
    others = {f"models/families/{other}.py" for other in families() if other != family}
    assert not edges(f"models/families/{family}.py") & others


def test_no_module_is_an_orphan():
    """Dead code has no room: each module is imported by another, or is run by a name of its own."""
    used = set().union(*(edges(m) for m in modules()))
    run = {f"flows/{name}.py" for name in (*STAGES, "pipeline", "versions", "automations", "__init__")}
    run |= {f"models/families/{f}.py" for f in families()}
    assert set(modules()) <= used | run


def test_models_import_without_the_rest():
    """`models` can be taken out of the house and used alone."""
    code = (
        "import sys; from models.families import load, names; [load(n) for n in names()]; "
        "print([m for m in ('prefect', 'dvc', 'yaml', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
