"""Generate: draw samples from the checkpoint into sealed shards."""

from pathlib import Path

from prefect import unmapped

from flows.footer import craft, run, stage
from tasks.layout import CHECKPOINT, SYNTHETIC, TRAIN
from tasks.params import GenerateParams, Machine
from tasks.recipe import recipe, unfinished


@stage
def generate(
    params: GenerateParams,
    checkpoint: Path = CHECKPOINT,
    real: Path = TRAIN,
    out: Path = SYNTHETIC,
    machine: Machine = Machine(),
) -> Path:
    """Draw the samples that are asked for, making only the shards that are missing."""
    from tasks import device, sampling  # torch: not before it is needed

    on = device.prepare(machine, params.precision)
    plan = sampling.plan(params, checkpoint, real)
    made_by = recipe("generate", {"generate": params}, [checkpoint, real], on.facts, plan.facts["family"])
    with unfinished(out, made_by, resume=True) as work:
        draw_shard = craft(sampling.draw_shard, machine.max_retries)
        draw_shard.map(
            plan.missing(work.path), unmapped(plan), unmapped(checkpoint), unmapped(work.path), unmapped(on)
        ).result()
        return work.seal(**plan.describe(on))


if __name__ == "__main__":
    run(generate, ahead="tasks.sampling")
