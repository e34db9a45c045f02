"""Published versions: what their tags say of them, listed and compared. No data is fetched for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tasks.errors import UserError
from tasks.git import git
from tasks.keeping import TAGS
from tasks.reading import WRONG

SHOWN = ("kept", "kept_ratio", "accuracy.real.mean", "accuracy.synthetic.mean", "after.frechet_distance")


@dataclass(frozen=True)
class Version:
    """One published version: its tag, and the headline metrics that were written into it."""

    tag: str
    metrics: dict[str, float | None]

    @property
    def short(self) -> str:
        """Name, date and digest, without the folder of tags."""
        return self.tag.removeprefix(f"{TAGS}/")


def versions(root: Path) -> list[Version]:
    """All published versions that the repository knows, the newest first."""
    wanted = "--format=%(refname:lstrip=2)%00%(contents:body)%00"
    newest = ("--sort=-refname", "--sort=-creatordate")
    told = git(root, "for-each-ref", *newest, wanted, f"refs/tags/{TAGS}").split("\0")
    return [Version(tag.strip(), _metrics(body)) for tag, body in zip(told[::2], told[1::2], strict=False)]


def chosen(known: list[Version], wanted: str) -> Version:
    """The one version whose tag, date or digest begins with `wanted`. Raises UserError for none or many."""
    fits = [v for v in known if wanted in (v.tag, v.short)] or [
        v for v in known if any(part.startswith(wanted) for part in (v.short, v.tag, *_parts(v)))
    ]
    if len(fits) != 1:
        found = ", ".join(v.short for v in fits[:4]) or "none"
        raise UserError(f"version {wanted!r}: fits {found}. `python -m flows.versions` lists them all.")
    return fits[0]


def listing(known: list[Version]) -> list[tuple[str, ...]]:
    """A table of all versions: a head, then a row each."""
    rows = [tuple(_number(v.metrics.get(name)) for name in SHOWN) for v in known]
    return [("version", *SHOWN), *((v.short, *row) for v, row in zip(known, rows, strict=True))]


def comparison(old: Version, new: Version) -> list[tuple[str, ...]]:
    """A table of two versions: every metric of either, and by how much it changed."""
    rows = []
    for name in [*old.metrics, *(n for n in new.metrics if n not in old.metrics)]:
        before, after = old.metrics.get(name), new.metrics.get(name)
        change = "" if before is None or after is None else f"{after - before:+.6g}"
        rows.append((name, _number(before), _number(after), change))
    return [("metric", old.short, new.short, "change"), *rows]


def aligned(table: list[tuple[str, ...]]) -> str:
    """A table as text: words to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = []
    for first, *rest in table:
        numbers = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *numbers]).rstrip())
    return "\n".join(lines)


def _parts(version: Version) -> tuple[str, str]:
    """The date and digest, and the digest alone."""
    dated = version.short.rpartition("/")[2]
    return dated, dated.rpartition("-")[2]


def _metrics(body: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(body)
    except WRONG:  # a tag that somebody wrote by hand
        found = None
    told = found.items() if isinstance(found, dict) else ()
    return {name: value for name, value in told if isinstance(name, str) and _plain(value)}


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**63)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.6g}"
