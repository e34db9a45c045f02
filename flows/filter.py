"""Filter: score every sample and mark it kept, or dropped with the reason."""

from pathlib import Path

from prefect import unmapped

from flows.footer import craft, run, show_table, stage
from tasks.layout import REFERENCE, SCORES, SYNTHETIC
from tasks.params import FilterParams, Machine
from tasks.recipe import recipe, unfinished
from tasks.shards import Shards


@stage
def filter(
    params: FilterParams,
    synthetic: Path = SYNTHETIC,
    reference: Path = REFERENCE,
    out: Path = SCORES,
    machine: Machine = Machine(),
) -> Path:
    """Measure every shard with the judge, then hold each sample against real images of its class."""
    from tasks import device, scoring  # torch: not before it is needed

    on = device.prepare(machine, params.precision)
    with unfinished(out, recipe("filter", {"filter": params}, [synthetic, reference], on.facts)) as work:
        samples = Shards.open(synthetic)
        measure_shard = craft(scoring.measure_shard, machine.max_retries)
        measure_shard.map(samples.paths, unmapped(reference), unmapped(on), unmapped(work.path)).result()
        limits = scoring.bounds(params, reference)
        metrics = craft(scoring.judge_rows)(synthetic, reference, limits, work.path)
        show_table("filter-reasons", [{"reason": k, "samples": n} for k, n in metrics["rejected"].items()])
        return work.seal(
            classes=samples.classes, filter=params.model_dump(mode="json"), reasons=scoring.REASONS
        )


if __name__ == "__main__":
    run(filter, ahead="tasks.scoring")
