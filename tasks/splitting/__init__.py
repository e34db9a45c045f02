"""Duplicates, groups, splits: which prepared image goes where, decided by content alone."""

import hashlib
import logging
import re
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.conditions import described
from tasks.errors import UserError
from tasks.imaging import Spool
from tasks.params import PreprocessParams
from tasks.shards import Shards, image_column, sample_table, seal, shard_name, write_shard
from tasks.splitting.dealing import Groups, deal
from tasks.splitting.twins import near_pairs

log = logging.getLogger("mintage.splitting")
SPLITS = ("train", "calibrate", "test")
SHARD_BYTES = 256 << 20
REJECTS = pa.schema([(name, pa.string()) for name in ("id", "source", "reason", "detail")])


class Decision:
    """Every prepared image's fate: the split that it goes to, or the reason why it goes nowhere."""

    def __init__(self, spool: Spool, params: PreprocessParams, classes: list[str]) -> None:
        self.spool, self.params, self.classes = spool, params, classes
        columns = spool.rows.select(["id", "label", "split", "source", "reason", "detail", "digest"])
        facts = columns.to_pydict()
        self.ids: list[str] = facts["id"]
        self.sources: list[str] = facts["source"]
        self.digests: list[str] = facts["digest"]
        self.labels = [-1 if label is None else label for label in facts["label"]]
        self.given: list[str | None] = facts["split"]
        self.rejects: dict[int, tuple[str, str]] = {}
        self.conflicts: list[tuple[str, str]] = []
        self.groups = Groups(len(self.ids))
        for row, reason in enumerate(facts["reason"]):
            if reason:
                self.rejects[row] = (reason, facts["detail"][row])
            elif classes and self.labels[row] < 0 and self.given[row] != "test":
                self.rejects[row] = ("no_label", "")

    def left(self) -> list[int]:
        """The rows that are not rejected, in order."""
        return [row for row in range(len(self.ids)) if row not in self.rejects]

    def settle_duplicates(self) -> None:
        """Keep one of the images whose pixels are the same; all are one group. A given test is left whole."""
        same: dict[str, list[int]] = defaultdict(list)
        for row in self.left():
            same[self.digests[row]].append(row)
        for rows in same.values():
            for row in rows[1:]:
                self.groups.join(rows[0], row)
            if len(rows) > 1:
                self._settle(rows)

    def _settle(self, rows: list[int]) -> None:
        for split in ("test", "calibrate"):
            held = [row for row in rows if self.given[row] == split]
            if held:
                for row in rows:
                    if self.given[row] != split:
                        self.rejects[row] = (f"duplicate_of_{split}", self.ids[held[0]])
                if split == "test":
                    return
                rows = held
                break
        if len({self.labels[row] for row in rows}) > 1:
            for row in rows:
                other = next(r for r in rows if self.labels[r] != self.labels[row])
                self.rejects[row] = ("conflicting_labels", self.ids[other])
        else:
            for row in rows[1:]:
                self.rejects[row] = ("duplicate", self.ids[rows[0]])

    def gather_twins(self) -> int:
        """Join near-duplicates; reject those of a given test image elsewhere. Returns how many pairs."""
        rows = np.array(self.left(), np.int64)
        if len(rows) < 2:
            return 0
        thumbs = self.spool.rows["thumb"].take(rows).to_pylist()
        grid = np.frombuffer(b"".join(thumbs), np.uint8).reshape(len(rows), -1)
        pairs = rows[near_pairs(grid, lambda chosen: self.spool.pixels(rows[chosen]))]
        for one, other in pairs.tolist():
            self.groups.join(one, other)
            if self.labels[one] != self.labels[other]:
                self.conflicts.append((self.sources[one], self.sources[other]))
            for row, twin in ((one, other), (other, one)):
                for split in ("calibrate", "test"):
                    if self.given[twin] == split and self._yields_to(row, split):
                        self.rejects[row] = (f"duplicate_of_{split}", self.ids[twin])
        if self.conflicts:
            log.warning(
                "%d pairs of images look the same but have different labels; they are kept: %s",
                len(self.conflicts), "; ".join(f"{a} and {b}" for a, b in self.conflicts[:3]),
            )  # fmt: skip
        return len(pairs)

    def _yields_to(self, row: int, split: str) -> bool:
        """Whether a row may be rejected in favour of a given split: test yields to none."""
        return self.given[row] not in (("test",) if split == "test" else ("test", "calibrate"))

    def gather_groups(self) -> None:
        """Join the rows whose source path `preprocess.group_by` maps to the same key.

        Raises UserError if the pattern matches no path.
        """
        pattern = self.params.group_by
        if pattern is None:
            return
        search = re.compile(pattern).search
        first: dict[str, int] = {}
        # Rejected ones too: a duplicate ties the group of its twin to its own.
        for row, source in enumerate(self.sources):
            match = search(source)
            if match:
                key = next((g for g in match.groups() if g is not None), match.group())
                self.groups.join(first.setdefault(key, row), row)
        if not first:
            raise UserError(
                f"preprocess.group_by: {pattern!r} matches no image's path; "
                f"the first is {self.sources[0]!r}. Mend the pattern, or set it to null."
            )

    def defer_to_given(self) -> None:
        """Reject whatever is in one group with a given test (then: calibrate) image but not there itself."""
        for group in self.groups.members(range(len(self.ids))):
            rows = [row for row in group if row not in self.rejects]
            for split in ("test", "calibrate"):
                held = [row for row in rows if self.given[row] == split]
                if held:
                    for row in rows:
                        if self._yields_to(row, split):
                            self.rejects.setdefault(row, (f"group_in_{split}", self.ids[held[0]]))
                    rows = held

    def deal(self) -> dict[str, list[int]]:
        """Rows by split, each in the order of ids. Given splits stay; shares are for the rest.

        Raises UserError if a class has no image in some split.
        """
        rows = self.left()
        order = [self._hash(row) for row in range(len(self.ids))]
        given = {s: [r for r in rows if self.given[r] == s] for s in ("calibrate", "test")}
        fixed = {s: held for s, held in given.items() if held}
        free = [r for r in rows if self.given[r] not in fixed]
        shares = {s: getattr(self.params.split, s) for s in SPLITS if s not in fixed}
        labels = [max(label, 0) for label in self.labels]
        dealt = deal(self.groups.members(free), labels, order, shares) | fixed
        if self.params.train_per_class is not None:
            dealt["train"] = self._cut(dealt["train"], order, self.params.train_per_class)
        self._refuse_empty(dealt)
        return {s: sorted(dealt[s]) for s in SPLITS}

    def _hash(self, row: int) -> str:
        content = self.digests[row] or self.ids[row]
        return hashlib.sha256(f"{self.params.seed} {content}".encode()).hexdigest()

    def _cut(self, rows: list[int], order: list[str], at_most: int) -> list[int]:
        taken: Counter[int] = Counter()
        kept = []
        for row in sorted(rows, key=lambda r: order[r]):
            taken[self.labels[row]] += 1
            if taken[self.labels[row]] <= at_most:
                kept.append(row)
            else:
                self.rejects[row] = ("train_per_class", "")
        return kept

    def _refuse_empty(self, dealt: dict[str, list[int]]) -> None:
        labels = range(len(self.classes)) if self.classes else [-1]
        for split in SPLITS:
            there = {self.labels[row] for row in dealt[split]}
            for label in labels:
                if label not in there:
                    what = f"class {self.classes[label]!r}" if self.classes else "the set"
                    left = [row for row in self.left() if self.labels[row] == label]
                    groups = len(self.groups.members(left))
                    told = ""
                    if lost := [self.rejects[r] for r in sorted(self.rejects) if self.labels[r] == label]:
                        why = ": ".join(filter(None, lost[0]))
                        told = f"{len(lost)} more were rejected, the first as {why}. "
                    raise UserError(
                        f"preprocess.split: {what} has no image in {split}: "
                        f"{len(left)} images in {groups} groups are too few for three splits.\n{told}"
                        "Add images or groups of it, or remove the class. data/raw/rejects.parquet and "
                        "preprocess.group_by may say why there are so few."
                    )


def split(prepared: Path, out: Path, raw: Path, params: PreprocessParams) -> dict[str, Any]:
    """Write prepared images to sealed `train`, `calibrate` and `test` in `out`, and why others are not there.

    Removes the spool, and returns the facts of the outer index. Raises UserError as Decision's parts do.
    """
    spool = Spool(prepared)
    index = Shards.open(raw).index
    decision = Decision(spool, params, index["classes"])
    decision.settle_duplicates()
    pairs = decision.gather_twins() if params.near_duplicates else 0
    decision.gather_groups()
    decision.defer_to_given()
    dealt = decision.deal()
    facts = {
        "classes": index["classes"],
        "channels": params.channels,
        "size": params.size,
        "synthetic": index["synthetic"],
    }
    if condition := described(params):
        facts["condition"] = condition
    counts = {}
    for name, chosen in dealt.items():
        found = Counter(decision.labels[row] for row in chosen)
        counts[name] = {c: found[n] for n, c in enumerate(index["classes"])}
        _write(out / name, spool, chosen, name, params.shard_size)
        seal(out / name, **facts, class_counts=counts[name])
    reasons = decision.rejects
    rejected = [(decision.ids[r], decision.sources[r], *reasons[r]) for r in sorted(reasons)]
    rows = [dict(zip(REJECTS.names, reject, strict=True)) for reject in rejected]
    write_shard(out / "rejects.parquet", pa.Table.from_pylist(rows, REJECTS))
    shutil.rmtree(prepared)
    return {
        "channels": params.channels,
        "size": params.size,
        "synthetic": index["synthetic"],
        "class_names": index["classes"],
        "class_counts": counts,
        "images": {name: len(chosen) for name, chosen in dealt.items()},
        "rejected": dict(sorted(Counter(reason for reason, _ in reasons.values()).items())),
        "near_pairs": pairs,
        "near_pairs_of_two_classes": len(decision.conflicts),
    }


def _write(folder: Path, spool: Spool, rows: list[int], split: str, shard_size: int) -> None:
    """Write rows, in order, as shards of at most `shard_size` images and SHARD_BYTES."""
    folder.mkdir()
    start = size = number = 0
    for n, row in enumerate([*rows, None]):
        length = 0 if row is None else int(spool.sizes[row] + spool.condition_sizes[row])
        if n > start and (row is None or n - start == shard_size or size + length > SHARD_BYTES):
            _write_shard(folder / shard_name(number), spool, rows[start:n], split)
            start, size, number = n, 0, number + 1
        size += length


def _write_shard(path: Path, spool: Spool, rows: list[int], split: str) -> None:
    encoded, conditions = [spool.png(row) for row in rows], [spool.condition(row) for row in rows]
    facts = spool.rows.select(["id", "label", "source"]).take(rows)
    names = [f"{name}.png" for name in facts["id"].to_pylist()]
    write_shard(
        path,
        sample_table(
            len(rows),
            id=facts["id"].combine_chunks(),
            image=image_column(encoded, names),
            condition=image_column(conditions, names),
            label=facts["label"].combine_chunks(),
            sha256=[hashlib.sha256(data).hexdigest() for data in encoded],
            source=facts["source"].combine_chunks(),
            split=[split] * len(rows),
        ),
    )
