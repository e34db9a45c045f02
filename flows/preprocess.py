"""Preprocess: give every image one shape, gather duplicates and groups, and split by content."""

import shutil
from pathlib import Path

from prefect import flow

from flows.footer import craft, run
from tasks import imaging, splitting
from tasks.layout import RAW, REAL
from tasks.params import Machine, PreprocessParams
from tasks.recipe import recipe, unfinished

prepare = craft(imaging.spool)
split = craft(splitting.split)


@flow(name="preprocess", validate_parameters=False, persist_result=False)
def preprocess(
    params: PreprocessParams, raw: Path = RAW, out: Path = REAL, machine: Machine = Machine()
) -> Path:
    """Bring raw images to `params.size` and `channels`, and deal them to train, calibrate and test."""
    with unfinished(out, recipe("preprocess", {"preprocess": params}, [raw])) as work:
        prepared = prepare(raw, work.path / "prepared", params, machine.workers)
        facts = split(prepared, work.path, raw, params)
        shutil.rmtree(prepared)
        return work.seal(**facts)


if __name__ == "__main__":
    run(preprocess)
