"""Overrides: what a run wants otherwise than params.yaml, written into it before any work."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString
from yaml import SafeLoader, ScalarNode, safe_dump

from tasks.errors import UserError
from tasks.reading import WRONG, mapping, short
from tasks.shards import whole

SEED = "generate.seed"
TEXT = "tag:yaml.org,2002:str"
# Of whatever else, such as `?0` in a flow or a next line (U+0085), the two think differently.
PLAIN = re.compile(r"[A-Za-z][\w./-]*", re.ASCII)


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
        except (YAMLError, *WRONG):
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
    mapping(path, "sections such as `ingest:`")  # else an empty file or a list is told in ruamel's words
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 10_000
    yaml.representer.add_representer(type(None), _null)
    yaml.representer.add_representer(float, _number)
    try:
        document = yaml.load(path)
    except YAMLError as error:  # a key that is given twice: PyYAML takes the last
        raise UserError(f"{path}: not readable as YAML.\n{short(str(error))}") from None
    for name, value in changes.items():
        put(document, name, _written(value))
    with whole(path) as file:
        yaml.dump(document, file)


def _written(value: Any) -> Any:
    """A value that is read again as what it is by PyYAML, to which `no` and 12:30 are no texts."""
    if isinstance(value, dict):
        return {_written(key): _written(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_written(each) for each in value]
    if not isinstance(value, str):
        return value
    plain = SafeLoader("").resolve(ScalarNode, value, (True, False)) == TEXT and PLAIN.fullmatch(value)
    return value if plain else DoubleQuotedScalarString(value)


def _number(representer: Any, value: float) -> Any:
    # Its own words for 1e-05 are a text to PyYAML.
    return representer.represent_scalar("tag:yaml.org,2002:float", safe_dump(value).split("\n")[0])


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
    # Of its own: by an anchor, others may have the same one.
    block[key] = deepcopy(block[key])
    _put(block[key], parts[length:], value, name)
