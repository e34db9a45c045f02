"""Read params.yaml and hold it against its mirror, as a whole and before any work.

What is wrong is told in one line a key: its name, what was found, and the mend.
"""

import contextlib
import difflib
import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from tasks.conditions import described
from tasks.errors import UserError
from tasks.layout import NO_REFERENCES, PARAMS, ROOT, UNFINISHED
from tasks.params import Bound, Params
from tasks.references import files
from tasks.secrets import hidden

T = TypeVar("T", bound=BaseModel)
# What YAML's loaders raise, also for values that no date or number can have, and for too many brackets.
WRONG = (yaml.YAMLError, ValueError, AttributeError, TypeError, RecursionError)


def read(path: Path) -> Params:
    """Read and check params.yaml as a whole, so that a late stage's typo is found before any work.

    Raises UserError that names the key, what was found and the mend.
    """
    if not path.is_file():
        raise UserError(f"{path}: not found. Run this from the project's root, where params.yaml lies.")
    params = parse(Params, mapping(path, "sections such as `ingest:`"), str(path))
    if params.train.family not in params.families:
        raise UserError(
            f"{path}: train.family: no family {params.train.family!r}. "
            f"Choose one of the blocks under families: {', '.join(sorted(params.families))}."
        )
    return params


def mapping(path: Path, wanted: str) -> dict[str, Any]:
    """The keys of a YAML file. Raises UserError if it can't be read, or is something else than `wanted`."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found.") from None
    except WRONG as error:
        raise UserError(f"{path}: not readable as YAML.\n{short(str(error))}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected {wanted}, found {type(found).__name__}.")
    return found


def section(path: Path, name: str) -> dict[str, Any]:
    """One section of a params.yaml that may be another commit's, so that no key of it is refused."""
    return mapping(path, "sections such as `ingest:`").get(name) or {}


def parse(model: type[T], found: dict[str, Any], where: str, prefix: str = "") -> T:
    """Build `model` from plain values. Raises UserError naming each bad key, three at most."""
    try:
        return model.model_validate(found)
    except ValidationError as error:
        errors = error.errors()
        lines = [f"{where}: {_explain(model, e, prefix)}" for e in errors[:3]]
        if len(errors) > 3:
            lines.append(f"... and {len(errors) - 3} more")
        raise UserError("\n".join(lines)) from None


def _explain(model: type[BaseModel], error: Any, prefix: str) -> str:
    location = [str(part) for part in error["loc"]]
    key = prefix + ".".join(location)
    if error["type"] == "extra_forbidden":
        known = _keys(model, location[:-1])
        near = difflib.get_close_matches(location[-1], known, 1)
        mend = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}."
        return f"{key}: unknown key; {mend}"
    if error["type"] == "missing":
        return f"{key}: missing; add it, as in the README's table of params."
    said = error["msg"].removeprefix("Value error, ")
    if isinstance(error["input"], dict) and error["type"] == "value_error":  # of keys that contradict
        return f"{key}: {said}." if key else f"{said}."
    return f"{key}: found {hidden(repr(error['input']))}. {said}."


def _keys(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys that a block of params.yaml knows, following `path` from `model`."""
    for part in path:
        field = model.model_fields.get(part)
        inner = _plain(field.annotation) if field else None
        model = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else Bound
    return sorted(model.model_fields)


def _plain(kind: Any) -> Any:
    """A type without its `| None`."""
    kinds = [k for k in get_args(kind) if k is not type(None)]
    return kinds[0] if len(kinds) == 1 else kind


def wrapped(name: str, block: Mapping[str, Any]) -> list[str]:
    """The families whose code a family of this block runs beside its own, as its module's `wraps` says."""
    from models.families import load

    module = load(name)
    return module.wraps(module.Config(**block)) if hasattr(module, "wraps") else []


def short(text: str) -> str:
    """The first lines of a long error."""
    return "\n".join(text.splitlines()[:4])


def check_families(params: Params, sound: Path = UNFINISHED / "families") -> None:
    """Hold every block under `families:` against its family's Config, and the size against train.family.

    And look for the folder of references.

    A Config lies beside its networks, so asking it imports torch, which takes seconds. So the digest
    of what was found right is kept in `sound`, and not asked about again. Raises UserError naming the key.
    """
    condition = described(params.preprocess)
    images = (params.train.family, params.preprocess.channels, params.preprocess.size, condition)
    references = Path(params.train.references)
    files(references)  # no early stage would look for them
    told = [params.families, images, references.as_posix()]
    asked = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for file in sorted((ROOT / "models/families").glob("*.py")):
        asked.update(file.name.encode() + file.read_bytes())
    with contextlib.suppress(OSError):
        if sound.read_text() == asked.hexdigest():
            return
    from models.families import Spec, class_of, load, names

    for name, block in params.families.items():
        if name not in names():
            near = difflib.get_close_matches(name, names(), 1)
            mend = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names())}."
            raise UserError(f"{PARAMS}: families.{name}: no such family; {mend}")
        parse(load(name).Config, block, str(PARAMS), f"families.{name}.")
    name, channels, size, _ = images
    if references != NO_REFERENCES and not hasattr(class_of(name), "refer"):
        raise UserError(
            f"{PARAMS}: train.references: the family {name!r} takes none; set it to {NO_REFERENCES}."
        )
    family = load(name)
    try:
        family.build(family.Config(**params.family), Spec.of((channels, size, size), 0, condition))
    except ValueError as error:
        raise UserError(
            f"{PARAMS}: families.{name} with preprocess.size {size}, channels {channels}: {error}."
        ) from None
    with contextlib.suppress(OSError):
        sound.parent.mkdir(parents=True, exist_ok=True)
        sound.write_text(asked.hexdigest())


if __name__ == "__main__":  # the project's own code checks its own params.yaml, whoever asks
    try:
        check_families(read(PARAMS))
    except UserError as told:
        sys.exit(str(told))
