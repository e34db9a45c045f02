"""Generate: draw samples from the checkpoint into sealed shards."""

from pathlib import Path

from flows.engine import Engine
from flows.footer import run, stage
from tasks.layout import CHECKPOINT, SYNTHETIC, TRAIN
from tasks.params import GenerateParams, Machine
from tasks.reading import wrapped
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
    from tasks.sampling import planning

    on = device.prepare(machine, params.precision)
    plan = planning.plan(params, checkpoint, real)
    name, inputs = plan.facts["family"], [checkpoint, real]
    others = wrapped(name, plan.facts["config"])
    made_by = recipe("generate", {"generate": params}, inputs, on.facts, name, others)
    engine = Engine(machine, on, made_by)
    with unfinished(out, made_by, resume=True) as work:
        missing, folder = plan.missing(work.path), work.path.resolve()
        work.require(plan.size(missing))
        given = {"plan": plan, "checkpoint": checkpoint.resolve(), "real": real.resolve(), "folder": folder}
        engine.each(sampling.draw_shard, missing, **given)
        return work.seal(**plan.describe(on))


if __name__ == "__main__":
    run(generate, ahead="tasks.sampling")
