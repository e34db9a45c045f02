"""The soul of the house: what prose and YAML promise, held against the code."""

import contextlib
import inspect
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from models.families import load
from tasks import layout
from tasks.params import Params
from tasks.reading import read
from tests.house import NO_DEPS, PARAMS, PUBLISHED, ROOT, SHIPPED, STAGES, closure, families, modules

CODE = (".py", ".j2")
PATHS = {p.as_posix() for p in vars(layout).values() if isinstance(p, Path) and not p.is_absolute()}


def flow_of(stage):
    module = __import__(f"flows.{stage}", fromlist=[stage])
    return getattr(module, stage)


def signature(stage):
    return inspect.signature(flow_of(stage).fn, eval_str=True).parameters


def deps(stage):
    return [d for d in STAGES[stage]["deps"] if not d.startswith("${")]


@pytest.mark.parametrize("stage", STAGES)
def test_stage_is_one_word_everywhere(stage):
    assert flow_of(stage).name == stage
    assert STAGES[stage]["cmd"] == f"python -m flows.{stage}"
    assert stage in PARAMS
    assert stage in Params.model_fields


@pytest.mark.parametrize("stage", STAGES)
def test_params_section_is_the_annotated_type(stage):
    assert signature(stage)["params"].annotation is Params.model_fields[stage].annotation
    assert issubclass(signature(stage)["params"].annotation, BaseModel)
    asked = {n for n, p in signature(stage).items() if p.annotation is not Path} - {"machine"}
    section = {"params": stage, "family": "families.${train.family}", "gates": "gates"}
    assert {section[name] for name in asked} == set(STAGES[stage]["params"])


@pytest.mark.parametrize("stage", STAGES)
def test_default_paths_are_deps_and_outs(stage):
    paths = {n: p.default.as_posix() for n, p in signature(stage).items() if p.annotation is Path}
    assert [paths.pop("out")] == STAGES[stage]["outs"]
    assert sorted(paths.values()) == sorted(d for d in deps(stage) if not d.endswith(CODE))
    assert set(paths.values()) <= PATHS


@pytest.mark.parametrize("stage", STAGES)
def test_modules_that_shape_its_bytes_are_deps(stage):
    needed = closure(f"flows/{stage}.py")
    if "models/families/__init__.py" in needed:
        needed.add("models/families/${train.family}.py")
        for family in families():
            needed |= closure(f"models/families/{family}.py") - {f"models/families/{family}.py"}
    assert sorted(needed) == sorted(d for d in deps(stage) if d.endswith(CODE))


def test_ingest_depends_on_its_source():
    assert "${ingest.source}" in STAGES["ingest"]["deps"]


def test_train_depends_on_its_references():
    assert "${train.references}" in STAGES["train"]["deps"]


def test_only_evaluate_opens_the_test_split():
    readers = [s for s in STAGES if any(d == "data/real/test" or d == "data/real" for d in deps(s))]
    assert readers == ["evaluate"]


def test_readme_names_the_stages_in_order():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first = re.sub(r"^#.*\n", "", text).strip().split("\n\n")[0]
    words = re.findall(r"\*\*(\w+)\*\*", first)
    assert words == list(STAGES)


def test_params_yaml_holds_every_section_and_no_other():
    assert list(PARAMS) == [*STAGES, "families", "gates", "machine", "schedule"]
    read(ROOT / "params.yaml")


def test_params_yaml_spells_every_key_out():
    """A user sees each knob in params.yaml, not only in the code."""
    for section, field in Params.model_fields.items():
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            assert list(PARAMS[section]) == list(field.annotation.model_fields), section


@pytest.mark.parametrize("family", families())
def test_family_has_a_block_that_its_config_accepts(family):
    load(family).Config.model_validate(PARAMS["families"][family])


def test_readme_table_gives_every_param_its_default():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `(\w+\.\w+)` \| (.*?) \|", text, re.M))
    known = {
        f"{section}.{key}": SHIPPED[section][key]
        for section, field in Params.model_fields.items()
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel)
        for key in field.annotation.model_fields
    }
    assert {key: yaml.safe_load(value.strip("`")) for key, value in told.items()} == known


def told_changes():
    """What the README's commands change with -S, a list for each command."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", "")
    told = [shlex.split(line, comments=True) for line in re.findall(r"^dvc exp run .*", text, re.M)]
    return [[line[n + 1] for n, word in enumerate(line) if word == "-S"] for line in told]


@pytest.mark.parametrize("changes", told_changes(), ids=" ".join)
def test_the_readmes_commands_change_params_that_there_are(tmp_path, changes):
    """As DVC reads -S: a key that a block does not spell out needs a +."""
    from dvc.utils.hydra import apply_overrides

    assert changes
    shutil.copy(ROOT / "params.yaml", tmp_path)
    before = read(tmp_path / "params.yaml")
    apply_overrides(tmp_path / "params.yaml", changes)
    after = read(tmp_path / "params.yaml")
    assert after != before
    module = load(after.train.family)
    module.Config(**after.families[after.train.family])


def test_gitignore_covers_every_out():
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    assert {f"/{out}" for stage in STAGES.values() for out in stage["outs"]} <= set(ignored)
    assert "/data/.unfinished" in ignored


def test_no_lock_is_shipped_but_by_publishing():
    """A lock without data behind it makes a fresh pull skip all stages and produce nothing."""
    import subprocess

    command = ["git", "log", "--max-count=1", "--format=%s", "--", "dvc.lock"]
    last = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert last.startswith("Publish ") or not PUBLISHED


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """A copy of the tree whose dvc.lock says that every stage is up to date, with small outs."""
    from dvc.repo import Repo

    root = tmp_path_factory.mktemp("tree")
    for name in ("flows", "tasks", "models", "dvc.yaml", "params.yaml", ".dvcignore"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root / name)
    shutil.copytree(ROOT / "data/sources", root / "data/sources")
    for out in PATHS:
        if out.startswith("data/") and not out.endswith(".yaml"):
            (root / out).mkdir(parents=True, exist_ok=True)
            (root / out / "index.json").write_text(out)
            (root / out / "metrics.json").write_text("{}")
    with contextlib.chdir(root):
        Repo.init(no_scm=True).close()
        with Repo() as repo:
            repo.commit(None, force=True)
            assert repo.status() == {}
    return root


@pytest.mark.parametrize("module", [m for m in modules() if m not in NO_DEPS])
def test_editing_a_module_changes_exactly_its_stages(locked, module):
    from dvc.repo import Repo

    path = locked / module
    before = path.read_text(encoding="utf-8")
    expected = {s for s in STAGES if module in closure(f"flows/{s}.py")}
    name = path.stem
    if module.startswith("models/families/") and name != "__init__":
        chosen = PARAMS["train"]["family"]
        expected = {"train", "generate"} if name == chosen else set()
    elif any(module in closure(f"models/families/{f}.py") for f in families()):
        expected |= {"train", "generate"}
    path.write_text(before + "\n# edited\n", encoding="utf-8")
    try:
        with contextlib.chdir(locked), Repo() as repo:
            assert set(repo.status()) == expected
    finally:
        path.write_text(before, encoding="utf-8")
