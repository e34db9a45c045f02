"""What the tests know of the house: its modules, what each imports, and what dvc.yaml says."""

import ast
import subprocess
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("flows", "tasks", "models")
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()


# A project that has published has a lock, and params of a night: by hand were written those before.
PUBLISHED = bool(_git("ls-files", "dvc.lock"))
_BY_HAND = _git("log", "-1", "--format=%H", "--invert-grep", "--grep=^Publish ", "--", "params.yaml")
SHIPPED = yaml.safe_load(_git("show", f"{_BY_HAND}:params.yaml")) if PUBLISHED and _BY_HAND else PARAMS
# They only say or carry what params and paths decide already; as deps, a new field for export
# would retrain the generator.
NO_DEPS = {
    "flows/__init__.py",
    "flows/engine.py",
    "flows/footer.py",
    "flows/help.py",
    "flows/reports.py",
    "flows/server.py",
    "flows/speaking.py",
    "tasks/children.py",
    "tasks/errors.py",
    "tasks/layout.py",
    "tasks/params/__init__.py",
    "tasks/params/values.py",
    "tasks/reading.py",
    "tasks/progress.py",
}


def modules() -> list[str]:
    """Every module of the three rooms that holds code, as a path relative to the root."""
    files = [p for room in ROOMS for p in (ROOT / room).rglob("*.py")]
    return sorted(p.relative_to(ROOT).as_posix() for p in files if p.read_text(encoding="utf-8").strip())


def families() -> list[str]:
    return sorted(p.stem for p in (ROOT / "models/families").glob("*.py") if p.stem != "__init__")


@cache
def imported(module: str) -> frozenset[str]:
    """All dotted names that a module imports, anywhere in it; `from a import b` gives a and a.b."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def edges(module: str) -> set[str]:
    """The modules of the house that a module imports."""
    paths = {name.replace(".", "/") for name in imported(module)}
    return {p for p in modules() if p.removesuffix(".py").removesuffix("/__init__") in paths}


def closure(module: str) -> set[str]:
    """A module, what it imports, directly or not, and the templates beside: all that decides bytes."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        here = waiting.pop()
        if here not in seen and here not in NO_DEPS:
            seen.add(here)
            waiting += edges(here)
    templates = {t for m in seen for t in (ROOT / m).parent.glob("*.j2")}
    return seen | {t.relative_to(ROOT).as_posix() for t in templates}
