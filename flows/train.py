"""Train: fit the generator family that `train.family` names on the real train split."""

from pathlib import Path
from typing import Any

from flows.footer import craft, run, show_image, stage
from tasks.layout import CALIBRATE, CHECKPOINT, REFERENCE, TRAIN
from tasks.params import Machine, TrainParams
from tasks.reading import wrapped
from tasks.recipe import place, recipe, unfinished


@stage
def train(
    params: TrainParams,
    family: dict[str, Any],
    real: Path = TRAIN,
    calibrate: Path = CALIBRATE,
    reference: Path = REFERENCE,
    out: Path = CHECKPOINT,
    machine: Machine = Machine(),
) -> Path:
    """Fit the family on `params.images` real images; go on from the last state if the work was cut off."""
    from tasks import device, fitting, references  # torch: not before it is needed

    on = device.prepare(machine, params.precision, trains=True)
    name, inputs = params.family, [real, calibrate, reference]
    family = fitting.training.decided(name, family)
    decides = on.facts | references.part(Path(params.references))
    others = wrapped(name, family)
    made_by = recipe("train", {"train": params, "family": family}, inputs, decides, name, others)
    if fitting.together.joins(on):  # the first machine holds the work, and seals it
        craft(fitting.fit)(place(out, made_by), real, calibrate, reference, params, family, on)
        return out
    with unfinished(out, made_by, resume=True) as work:
        craft(fitting.fit)(work.path, real, calibrate, reference, params, family, on)
        for grid in sorted((work.path / "grids").iterdir())[-1:]:
            show_image("train-samples", grid)
        return work.seal()


if __name__ == "__main__":
    run(train, ahead="tasks.fitting")
