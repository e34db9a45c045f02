"""Overrides: what a run wants otherwise than params.yaml, written into it before any work."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tasks.errors import UserError
from tasks.reading import mapping
from tasks.shards import whole

SEED = "generate.seed"


def changes(overrides: Mapping[str, Any], fresh: datetime | None) -> dict[str, Any]:
    """The overrides, and with `fresh` a generate.seed that stands for that time.

    The seed is the same for every try of a run that was due then. Raises UserError if both give one.
    """
    if fresh is None:
        return dict(overrides)
    if SEED in overrides:
        raise UserError(f"overrides: {SEED} and fresh both give a seed; leave one of them out.")
    return {**overrides, SEED: seed(fresh)}


def seed(due: datetime) -> int:
    """A seed in [0, 2^31) that stands for a time, to the second."""
    moment = due.astimezone(UTC).replace(microsecond=0).isoformat()
    return int.from_bytes(hashlib.sha256(moment.encode()).digest()[:4], "big") >> 1


def parsed(pairs: Sequence[str]) -> dict[str, Any]:
    """Overrides from a command line's KEY=VALUE pairs, values in YAML. Raises UserError naming a bad one."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        try:
            found[name] = YAML(typ="safe").load(value)
        except YAMLError:
            equals = ""
        if not equals:
            raise UserError(f"--set {pair}: give KEY=VALUE, the value in YAML, such as train.images=1000.")
    return found


def override(path: Path, changes: Mapping[str, Any]) -> None:
    """Set dotted keys in a YAML file, whose comments stay. Values are data: nothing runs or expands them.

    Raises UserError for a key that leads through a value, or a file that can't be read. Whether the
    result is sound is for tasks/reading.py to say.
    """
    if not changes:
        return
    mapping(path, "sections such as `ingest:`")  # else ruamel's own errors, in its own words
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 10_000
    yaml.representer.add_representer(type(None), _null)
    document = yaml.load(path)
    for name, value in changes.items():
        put(document, name, value)
    with whole(path) as file:
        yaml.dump(document, file)


def _null(representer: Any, value: None) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def put(params: Any, name: str, value: Any) -> None:
    """Set a dotted key in params. Raises UserError if it leads through a value."""
    _put(params, name.split("."), value, name)


def _put(block: Any, parts: list[str], value: Any, name: str) -> None:
    # A metric under `gates` has dots in its own name, so the longest key that there is comes first.
    for length in range(len(parts), 0, -1):
        key = ".".join(parts[:length])
        if key in block:
            break
    if length == len(parts):
        block[key] = value
        return
    if block.get(key) is None:
        block[key] = {}
    if not isinstance(block[key], dict):
        raise UserError(f"overrides.{name}: {key} holds {block[key]!r}, not a section.")
    _put(block[key], parts[length:], value, name)
