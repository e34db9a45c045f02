"""README and docs hold the kept rows."""

import json

import pytest

from benchmarks import (
    asked,
    database,
    families,
    faults,
    filtering,
    fortnight,
    generation,
    ingest,
    kills,
    low_data,
    memory,
    million,
    options,
    orchestration,
    painting,
    pix2pix,
    restore,
    shares,
    training,
)
from tests.house import ROOT


@pytest.mark.parametrize(
    ("table", "name"),
    [
        (asked.markdown, "asked"),
        (generation.markdown, "generation"),
        (low_data.table, "low_data"),
        (options.markdown, "options"),
        (painting.markdown, "painting"),
        (pix2pix.markdown, "pix2pix-cifar10-5k"),
        (restore.table, "restore-cifar10-5k"),
        (training.markdown, "training"),
    ],
)
def test_the_docs_hold_what_was_measured_of_families(table, name):
    kept = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())
    assert table(kept) in (ROOT / "docs/families.md").read_text(encoding="utf-8")


def test_the_readme_holds_what_the_filter_is_worth():
    kept = json.loads((ROOT / "benchmarks/results/filtering.json").read_text())
    assert filtering.markdown(kept) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_tells_the_planted_faults_as_they_were_found():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    kept = {n: json.loads((ROOT / f"benchmarks/results/faults-{n}.json").read_text()) for n in faults.SHOWN}
    assert faults.markdown(kept) in readme


@pytest.mark.parametrize("name", ["mnist5k-3min", "cifar10-5k-5min"])
def test_the_readmes_tables_are_the_kept_rows(name):
    kept = json.loads((ROOT / f"benchmarks/results/families-{name}.json").read_text())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert families.markdown(kept) in readme
    for contestant in kept:
        grid = f"benchmarks/results/grids/{name.rpartition('-')[0]}-{contestant}.png"
        assert grid in readme
        assert (ROOT / grid).is_file()


@pytest.mark.parametrize(
    ("table", "name"),
    [
        (ingest.markdown, "ingest"),
        (kills.table, "kills"),
        (memory.markdown, "memory"),
        (shares.markdown, "shares"),
        (million.markdown, "million"),
    ],
)
def test_the_docs_hold_what_was_measured_of_scale(table, name):
    kept = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())
    assert table(kept) in (ROOT / "docs/scale.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("benchmark", [database, fortnight, orchestration])
def test_the_docs_hold_the_kept_nights(benchmark):
    kept = json.loads(benchmark.RESULTS.read_text(encoding="utf-8"))
    assert benchmark.markdown(kept) in (ROOT / "docs/nights.md").read_text(encoding="utf-8")
