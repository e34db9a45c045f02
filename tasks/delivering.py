"""Delivering: what a run ends with is a dataset that is there and opens, and its headline metrics."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks import dvc
from tasks.errors import UserError
from tasks.gates import measured
from tasks.layout import EXPORT, REPORT, SCORES
from tasks.shards import read_index

WANTED = (EXPORT, REPORT, SCORES / "metrics.json")
COUNTS = ("samples", "kept")
HEADLINE = re.compile(
    r"samples|kept|kept_ratio|accuracy\.(?:[^.]|\.\d)+\.mean|recommendation\.ratio"
    r"|after\.(?:frechet_distance|precision|recall|density|coverage)"
)


def deliver(root: Path) -> dict[str, float | None]:
    """See that data/export is in the tree and opens, whatever DVC said; return its headline metrics.

    What other machines made is fetched first. Raises UserError if anything is missing or broken.
    """
    if lacking := [path.as_posix() for path in WANTED if not (root / path).exists()]:
        dvc.fetch(lacking, root)
    index = read_index(root / EXPORT)
    rows = sum(_rows(root / EXPORT / name) for name in index["files"] if name.startswith("images/"))
    if rows != index["kept"]:
        raise UserError(f"{EXPORT}: holds {rows:,} images of {index['kept']:,}. Remove it and run again.")
    return headline(root)


def headline(root: Path) -> dict[str, float | None]:
    """The few of all metrics that tell versions of a dataset apart, by dotted name."""
    numbers = measured(root / SCORES, root / REPORT)
    found = {name: value for name, value in numbers.items() if HEADLINE.fullmatch(name)}
    return {**found, **{name: int(found[name] or 0) for name in COUNTS if name in found}}


def _rows(path: Path) -> int:
    try:
        return pq.read_metadata(path).num_rows
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: not readable ({error}). Remove {EXPORT} and run again.") from None
