"""Filter: score every sample and mark it kept, or dropped with the reason."""

from pathlib import Path

from flows.engine import Engine
from flows.footer import craft, run, show_table, stage
from tasks.layout import REFERENCE, SCORES, SYNTHETIC, TRAIN
from tasks.params import FilterParams, Machine
from tasks.recipe import recipe, unfinished
from tasks.shards import Shards


@stage
def filter(
    params: FilterParams,
    synthetic: Path = SYNTHETIC,
    reference: Path = REFERENCE,
    train: Path = TRAIN,
    out: Path = SCORES,
    machine: Machine = Machine(),
) -> Path:
    """Measure every shard with the judge, then hold each sample against real images of its class."""
    from tasks import device, judging, scoring  # torch: not before it is needed
    from tasks.scoring.limits import MEANINGS, limits

    on = device.prepare(machine, params.precision)
    made_by = recipe("filter", {"filter": params}, [synthetic, reference, train], on.facts)
    with unfinished(out, made_by) as work:
        samples = Shards.open(synthetic)
        limits(params, judging.Reference(reference))  # a class that there is not is told before any work
        paths = {"reference": reference.resolve(), "train": train.resolve(), "folder": work.path.resolve()}
        engine = Engine(machine, on, made_by)
        engine.each(scoring.measure_shard, [shard.resolve() for shard in samples.paths], **paths)
        metrics = craft(scoring.judge_rows)(synthetic, reference, params, on, work.path)
        show_table(
            "filter-reasons", [{"reason": k, "samples": n} for k, n in metrics["rejected"].items() if n]
        )
        scoring.tell_shortage(metrics["shortage"])
        return work.seal(classes=samples.classes, filter=params.model_dump(mode="json"), reasons=MEANINGS)


if __name__ == "__main__":
    run(filter, ahead="tasks.scoring")
