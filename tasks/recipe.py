"""Recipes, and the unfinished work that is resumed only under the same one.

A recipe is the digest of all that decides a stage's bytes: its params, the digests in its
inputs' sealed indexes, the code that dvc.yaml lists, and, where floating point decides, the
device kind, torch version and thread count.
"""

import fcntl
import hashlib
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from tasks.errors import UserError
from tasks.layout import ROOT, UNFINISHED
from tasks.shards import INDEX, file_digest, remove_partials, seal, write_text

log = logging.getLogger("mintage.recipe")
KEPT_DAYS = 14
CODE = (".py", ".j2")
ROOMY = 1.1  # of what is needed, for the file system's own needs


@dataclass(frozen=True)
class Recipe:
    """What decides a stage's bytes, part by part."""

    stage: str
    parts: dict[str, str]

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that stand for the whole recipe."""
        text = json.dumps([self.stage, self.parts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def differs_from(self, other: Mapping[str, str]) -> list[str]:
        """The parts that are not the same in the two, in alphabetical order."""
        names = self.parts.keys() | other.keys()
        return sorted(n for n in names if self.parts.get(n) != other.get(n))

    def hold(self) -> None:
        """Raise UserError if this process has other code than the recipe says, as an old worker may."""
        for name, digest in self.parts.items():
            if name.endswith(CODE) and _loaded(name) != digest:
                raise UserError(
                    f"machine.engine: a worker on {platform.node()} has another {name} than this run. "
                    "Bring its copy of the project up to date, and start it again."
                )


@cache
def _loaded(name: str) -> str:
    """The digest of a module as it was when this process first worked, which is what it imported."""
    path = ROOT / name
    return file_digest(path) if path.is_file() else "none"


def recipe(
    stage: str,
    params: Mapping[str, BaseModel | Mapping[str, Any]],
    inputs: Sequence[Path] = (),
    environment: Mapping[str, str] | None = None,
    family: str | None = None,
    wrapped: Sequence[str] = (),
) -> Recipe:
    """Gather a stage's recipe: `params` by section, `inputs` as sealed folders or plain files.

    `wrapped`: families whose code `family` runs beside its own.

    Each part's name says what kind it is, as a section and an input may both be called `train`.
    """
    parts: dict[str, str] = {}
    for section, values in params.items():
        plain = values.model_dump(mode="json") if isinstance(values, BaseModel) else values
        parts[f"params.{section}"] = json.dumps(plain, sort_keys=True)
    for path in inputs:
        sealed = path / INDEX
        if path.is_dir() and not sealed.is_file():
            raise UserError(f"{path}: is not sealed. Run `dvc repro`, which makes it.")
        parts[f"input.{path.name}"] = file_digest(sealed if path.is_dir() else path)
    for name in {name for each in (family, *wrapped) for name in code(stage, each)}:
        parts[name] = file_digest(ROOT / name)
    parts.update(environment or {})
    return Recipe(stage, parts)


def code(stage: str, family: str | None = None) -> list[str]:
    """The project modules and templates that dvc.yaml lists as deps of a stage."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    named = [d.replace("${train.family}", family or "") for d in stages[stage]["deps"]]
    return sorted(d for d in named if d.endswith(CODE) and (ROOT / d).is_file())


@dataclass
class Work:
    """A stage's unfinished work: `path` becomes `out` when it is sealed."""

    path: Path
    out: Path
    recipe: Recipe

    def require(self, size: float) -> None:
        """Raise UserError unless the disk has room for `size` bytes more, so that it is told before work."""
        free = shutil.disk_usage(self.path).free
        if free < size * ROOMY:
            raise UserError(
                f"{self.path}: {size * ROOMY / 1e6:,.1f} MB are needed, and {free / 1e6:,.1f} are free. "
                "Make room, and run the same command again: what is finished is kept."
            )

    def seal(self, **facts: Any) -> Path:
        """Seal the work with `facts` in its index, put it in `out`'s place, and return `out`."""
        (self.path / "recipe.json").unlink(missing_ok=True)
        seal(self.path, recipe=self.recipe.digest, **facts)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        replaced = self.path.with_name(f"{self.path.name}.replaced")
        if self.out.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            os.replace(self.out, replaced)
        os.replace(self.path, self.out)
        shutil.rmtree(replaced, ignore_errors=True)
        return self.out


def place(out: Path, recipe: Recipe) -> Path:
    """Where the unfinished work of a recipe lies."""
    return out.parent / UNFINISHED.name / recipe.stage / recipe.digest


@contextmanager
def unfinished(out: Path, recipe: Recipe, resume: bool = False) -> Iterator[Work]:
    """Hold the unfinished work of one recipe under a lock; with `resume`, keep what is there already.

    Raises UserError if another process holds it, or if the place can't be written to.
    """
    path = place(out, recipe)
    home = path.parent
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / f"{recipe.digest}.lock").open("w")
    except OSError as error:
        raise UserError(f"{home}: can't be written to ({error.strerror}). Make data/ writable.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{path}: another process is at work here. Wait for it, or stop it, then run again."
            ) from None
        try:
            _tell_others(home, recipe)
            if path.exists() and not resume:
                shutil.rmtree(path)
            path.mkdir(exist_ok=True)
            remove_partials(path)
            write_text(path / "recipe.json", json.dumps(recipe.parts, indent=1))
            yield Work(path, out, recipe)
        except OSError as error:
            where = error.filename or path
            raise UserError(
                f"{where}: {error.strerror or error}. "
                "What is finished is kept: mend this and run the same command again."
            ) from error
    if not path.exists():
        (home / f"{recipe.digest}.lock").unlink(missing_ok=True)
        _remove_old(home)


def _tell_others(home: Path, recipe: Recipe) -> None:
    for other in home.glob("*/recipe.json"):
        if other.parent.name != recipe.digest:
            parts = json.loads(other.read_text())
            log.info(
                "unfinished work of another recipe lies in %s; it differs in: %s",
                other.parent, ", ".join(recipe.differs_from(parts)),
            )  # fmt: skip


def _remove_old(home: Path) -> None:
    for other in home.iterdir():
        if time.time() - other.stat().st_mtime > KEPT_DAYS * 86_400:
            shutil.rmtree(other, ignore_errors=True) if other.is_dir() else other.unlink(missing_ok=True)
