"""Preprocess: give every image one shape, gather duplicates and groups, and split by content."""

from pathlib import Path

from flows.footer import craft, run, stage
from tasks import imaging, splitting
from tasks.layout import RAW, REAL
from tasks.params import Machine, PreprocessParams
from tasks.recipe import recipe, unfinished


@stage
def preprocess(
    params: PreprocessParams, raw: Path = RAW, out: Path = REAL, machine: Machine = Machine()
) -> Path:
    """Bring raw images to `params.size` and `channels`, and deal them to train, calibrate and test."""
    with unfinished(out, recipe("preprocess", {"preprocess": params}, [raw])) as work:
        prepared = craft(imaging.spool)(raw, work.path / "prepared", params, machine.workers)
        return work.seal(**craft(splitting.split)(prepared, work.path, raw, params))


if __name__ == "__main__":
    run(preprocess)
