"""Finished rows of a benchmark: a JSON file of them by name, each with the digest of what decides it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.shards import write_text


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """The finished rows by name. Raises UserError if the file is broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable ({error}). Remove it to start afresh.") from None


def kept(path: Path, name: str, digest: str, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """The row of this name: the one that is there under this digest, or one made and written now."""
    rows = read_rows(path)
    if rows.get(name, {}).get("digest") != digest:
        rows[name] = {"digest": digest, **make()}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    return rows[name]
