"""Evaluate: train the probe on every arm, and report what the synthetic images are worth."""

from pathlib import Path

from prefect import flow, unmapped
from prefect.task_runners import ThreadPoolTaskRunner

from flows.footer import craft, run, show_table
from tasks import device, probing, reporting
from tasks.layout import CALIBRATE, CHECKPOINT, REPORT, SCORES, SYNTHETIC, TEST, TRAIN
from tasks.params import EvaluateParams, Machine
from tasks.recipe import recipe, unfinished

gather = craft(probing.gather)
fit_probe = craft(probing.fit)
write_numbers = craft(reporting.write_numbers)
write_page = craft(reporting.write_page)


@flow(
    name="evaluate",
    validate_parameters=False,
    persist_result=False,
    task_runner=ThreadPoolTaskRunner(max_workers=1),  # a probe has all cores
)
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
    """Train the probe on every arm and test it on real images that no other stage has opened."""
    on = device.prepare(machine, params.precision)
    inputs = {path.name: path for path in (train, calibrate, test, synthetic, scores, checkpoint)}
    made_by = recipe("evaluate", {"evaluate": params}, list(inputs.values()), on.facts)
    with unfinished(out, made_by) as work:
        splits = gather(train, calibrate, test, synthetic, scores)
        trials = probing.trials(params, splits)
        fitted = fit_probe.map(trials, unmapped(splits), unmapped(params), unmapped(on))
        outcomes = fitted.result() if trials else []
        metrics = reporting.metrics(params, splits, outcomes)
        write_numbers(work.path, metrics, splits, outcomes)
        write_page(work.path, metrics, params, splits, outcomes, inputs)
        show_table("accuracy", reporting.table(metrics))
        return work.seal()


if __name__ == "__main__":
    run(evaluate)
