"""Calibrate: fit the judge on the real train split and measure the calibrate split with it."""

from pathlib import Path

from flows.footer import craft, run, stage
from tasks.layout import CALIBRATE, REFERENCE, TRAIN
from tasks.params import CalibrateParams, Machine
from tasks.recipe import recipe, unfinished


@stage
def calibrate(
    params: CalibrateParams,
    train: Path = TRAIN,
    calibrate: Path = CALIBRATE,
    out: Path = REFERENCE,
    machine: Machine = Machine(),
) -> Path:
    """Fit the judge, and keep with it the features and measures of real images it never saw."""
    from tasks import device, extracting, judging, originals  # torch: not before it is needed

    on = device.prepare(machine, params.precision)
    made_by = recipe("calibrate", {"calibrate": params}, [train, calibrate], on.facts)
    with unfinished(out, made_by) as work:
        craft(judging.fit_judge)(train, params, on, work.path)
        craft(originals.measure_real)(train, calibrate, on, work.path)
        craft(extracting.measure_extractors)(train, calibrate, params, on, work.path)
        return work.seal()


if __name__ == "__main__":
    run(calibrate, ahead="tasks.judging")
