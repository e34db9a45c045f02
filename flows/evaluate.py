"""Evaluate: train the probe on every arm, and report what the synthetic images are worth."""

from pathlib import Path

from prefect import unmapped

from flows.footer import craft, run, show_table, stage
from tasks.layout import CALIBRATE, CHECKPOINT, REPORT, SCORES, SYNTHETIC, TEST, TRAIN
from tasks.params import EvaluateParams, Machine
from tasks.recipe import recipe, unfinished


@stage
def evaluate(
    params: EvaluateParams,
    train: Path = TRAIN,
    calibrate: Path = CALIBRATE,
    test: Path = TEST,
    synthetic: Path = SYNTHETIC,
    scores: Path = SCORES,
    checkpoint: Path = CHECKPOINT,
    out: Path = REPORT,
    machine: Machine = Machine(),
) -> Path:
    """Train the probe on every arm and test it on real images that no stage has opened since the split."""
    from tasks import device, probing, reporting  # torch: not before it is needed

    on = device.prepare(machine, params.precision)
    inputs = {path.name: path for path in (train, calibrate, test, synthetic, scores, checkpoint)}
    made_by = recipe("evaluate", {"evaluate": params}, list(inputs.values()), on.facts)
    with unfinished(out, made_by) as work:
        splits = craft(probing.gather)(train, calibrate, test, synthetic, scores)
        trials = probing.trials(params, splits)
        fit = craft(probing.fit)
        outcomes = (
            fit.map(trials, unmapped(splits), unmapped(params), unmapped(on)).result() if trials else []
        )
        metrics = reporting.metrics(params, splits, outcomes, checkpoint)
        craft(reporting.write_numbers)(work.path, metrics, splits, outcomes)
        craft(reporting.write_page)(work.path, metrics, params, splits, outcomes, inputs)
        show_table("accuracy", reporting.table(metrics))
        return work.seal()


if __name__ == "__main__":
    run(evaluate, ahead="tasks.probing")
