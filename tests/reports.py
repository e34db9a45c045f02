"""Reports of small made-up stages, and what a browser would find in one."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks import reporting
from tasks.params import EvaluateParams
from tasks.probing import Outcome, Splits, gather, trials
from tasks.shards import Shards, read_index, read_shard, seal, write_shard

PARAMS = EvaluateParams(arms=["real", "synthetic", "random_drop", "real_synthetic"], seeds=2)
WRONG = {"real": [9, 18], "synthetic": [9, 9], "random_drop": [10, 12], "real_synthetic": [0, 3]}
VOID = {"meta", "img", "link", "br", "line", "polyline"}


class Page(HTMLParser):
    """What a browser would find: every address, id and word, and whether the tags are balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.ids, self.words, self.images = [], [], set(), [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "action", "srcset")]
        self.ids.add(found.get("id"))
        self.images += tag == "img"
        assert tag != "img" or "alt" in found
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["script"]:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def guesses(splits: Splits, params: EvaluateParams, wrong: dict[str, list[int]]) -> list[Outcome]:
    """Outcomes whose predictions miss the first `wrong[arm][seed]` test images."""
    truth = splits.test.y
    return [
        Outcome(
            trial,
            48,
            np.where(np.arange(len(truth)) < wrong[trial.arm][trial.seed], (truth + 1) % 3, truth),
            [{"images": 40.0, "loss": 1.0, "accuracy": 0.5}, {"images": 80.0, "loss": 0.5, "accuracy": 1.0}],
        )
        for trial in trials(params, splits)
    ]


def inputs_of(data: Path) -> dict[str, Path]:
    real = {name: data / "real" / name for name in ("train", "calibrate", "test")}
    return real | {name: data / name for name in ("synthetic", "scores", "checkpoint")}


def gathered(data: Path) -> Splits:
    return gather(*list(inputs_of(data).values())[:5])


def report(data: Path, folder: Path, wrong=WRONG, params=PARAMS, splits=None, more=None) -> Path:
    """Write evaluate's out; `more` changes the metrics before they are written."""
    folder.mkdir()
    splits = splits or gathered(data)
    outcomes = guesses(splits, params, wrong)
    metrics = reporting.metrics(params, splits, outcomes, data / "checkpoint")
    if more:
        more(metrics)
    reporting.write_numbers(folder, metrics, splits, outcomes)
    reporting.write_page(folder, metrics, params, splits, outcomes, inputs_of(data))
    return folder


def rescore(scores: Path, **columns: pa.Array) -> Path:
    """Give the scores further columns, one value a sample, or others instead of those that they have."""
    index, at = read_index(scores), 0
    for path in Shards.open(scores).paths:
        table = read_shard(path)
        for name, values in columns.items():
            part = values.slice(at, len(table))
            if name in table.column_names:
                table = table.set_column(table.column_names.index(name), name, part)
            else:
                table = table.append_column(name, part)
        at += len(table)
        write_shard(path, table)
    return seal(scores, **{k: v for k, v in index.items() if k not in ("shards", "rows", "files")})
