"""An ill training goes back, slower; and says what to turn when that does not help."""

import json
from itertools import chain, repeat

import numpy as np
import pytest
import torch

from models.families import load
from tasks import fitting, watchdog
from tasks.batches import Pool
from tasks.errors import UserError
from tasks.fitting.training import Training
from tests.tasks.fitting.training import (
    LEARNER,
    cut_step,
    fitting_weights,
    learners,
    rows,
    same_bytes,
    train,
    when_built,
)


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("allowed", [0, 2])
def test_a_loss_that_is_no_number_ends_in_plain_words(tmp_path, labelled, allowed, monkeypatch):
    def broken(training, family):
        object.__setattr__(family, "step", lambda batch, progress: {"loss": float("nan")})

    when_built(monkeypatch, broken)
    block = {"lr": 0.125}
    told = rf"loss became nan \(at 16 images, rolled back {allowed} times\)\. "
    mend = rf"Lower families\.{LEARNER}\.lr \(now 0\.125\)"
    with pytest.raises(UserError, match=told + mend):
        train(tmp_path / "work", *labelled, LEARNER, block, max_rollbacks=allowed)
    assert not (tmp_path / "work" / "checkpoint.json").exists()


@pytest.mark.parametrize("family", learners())
def test_a_far_too_high_learning_rate_is_noticed_and_named(tmp_path, labelled, family, monkeypatch, caplog):
    """By its metrics, or by what it draws; not because so short a training shows no classes yet."""
    monkeypatch.setattr(watchdog, "CLASSES_SHOWN", -1.0)
    module = load(family)
    config = module.Config
    block = {"lr": module.build(config(), Pool.open(labelled[0]).spec).config.lr * 1e4}
    with pytest.raises(
        UserError, match=rf"rolled back 2 times\)\. \w+ families\.{family}\.\w+ \(now "
    ) as told:
        train(tmp_path / "work", *labelled, family, block, images=960, grid_every=160)
    assert str(told.value).split(f"families.{family}.")[1].split(" ")[0] in config.model_fields
    assert len([r for r in caplog.records if "back to" in r.getMessage()]) == 2


def ill_once(monkeypatch, at, times=1):
    """Make a training ill so many times, at the step that ends at so many images; note each step."""
    seen = []

    def change(training, family):
        step = family.step

        def watched(batch, progress):
            before = {k: v.clone() for k, v in family.state_dict().items()}
            metrics = step(batch, progress)
            rates = [g["lr"] for o in family.optimisers.values() for g in o.param_groups]
            seen.append((training.images, before, rates))
            ill = training.images + training.params.batch == at and len(training.rollbacks) < times
            return {**metrics, "loss": float("nan")} if ill else metrics

        object.__setattr__(family, "step", watched)

    when_built(monkeypatch, change)
    return seen


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("family", learners())
def test_an_ill_training_goes_back_to_its_last_healthy_draw_and_on_more_slowly(
    tmp_path, labelled, family, monkeypatch, caplog
):
    seen = ill_once(monkeypatch, at=96)
    out = train(tmp_path / "work", *labelled, family, images=128)
    assert [images for images, *_ in seen] == [0, 16, 32, 48, 64, 80, 64, 80, 96, 112]
    facts = json.loads((out / "checkpoint.json").read_text())
    assert facts["rollbacks"] == [{"images": 96, "finding": "loss became nan"}]
    assert facts["images"] == 128
    assert [row["images"] for row in rows(out / "health.csv")] == ["64", "128"]
    assert all(np.isfinite(float(row["loss"])) for row in rows(out / "loss.csv"))
    assert "back to 64 images, slower" in caplog.text
    (_, first, quick), (_, again, slow) = seen[4], seen[6]
    assert slow == pytest.approx([rate * fitting.SLOWER for rate in quick])
    assert all(rate > 0 for rate in quick)
    for name, value in first.items():
        assert torch.equal(again[name], value) != (name == "lr_factor"), name


@pytest.mark.usefixtures("unhurried")
def test_each_time_it_goes_back_to_the_same_draw_it_goes_on_more_slowly(tmp_path, labelled, monkeypatch):
    seen = ill_once(monkeypatch, at=96, times=2)
    out = train(tmp_path / "work", *labelled, LEARNER, images=128)
    rates = [rate for images, _, rate in seen if images == 64]
    for times, rate in enumerate(rates):
        assert rate == pytest.approx([r * fitting.SLOWER**times for r in rates[0]])
    assert len(rates) == 3
    assert len(json.loads((out / "checkpoint.json").read_text())["rollbacks"]) == 2


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("ending", [KeyboardInterrupt, RuntimeError])
def test_a_training_cut_off_after_it_went_back_stays_slower(tmp_path, labelled, ending, monkeypatch):
    seen = ill_once(monkeypatch, at=96)
    whole = train(tmp_path / "whole", *labelled, LEARNER, images=128)
    rates = [rate for _, _, rate in seen]
    seen.clear()
    mend = cut_step(monkeypatch, 6, ending)
    with pytest.raises(ending):
        train(tmp_path / "cut", *labelled, LEARNER, images=128)
    mend()
    resumed = train(tmp_path / "cut", *labelled, LEARNER, images=128)
    assert [rate for _, _, rate in seen] == rates
    same_bytes(whole, resumed)


@pytest.mark.usefixtures("unhurried")
def test_a_broken_state_to_go_back_to_is_told_with_the_mend(tmp_path, labelled, monkeypatch):
    ill_once(monkeypatch, at=96)
    go_back = fitting.roll_back

    def spoilt(folder, training, finding):
        (folder / fitting.HEALTHY).write_bytes(b"cut off")
        go_back(folder, training, finding)

    monkeypatch.setattr(fitting, "roll_back", spoilt)
    with pytest.raises(UserError, match=r"became nan.*not readable.*healthy.*dvc repro train"):
        train(tmp_path / "work", *labelled, LEARNER, images=128)


@pytest.mark.parametrize(
    ("first", "sick", "what"),
    [
        ({"variety": 0.01}, {"variety": 0.01}, "modes have collapsed"),
        ({}, {"classes_shown": 0.1}, "classes are lost: the judge finds 10%"),
    ],
)
def test_a_sick_draw_sends_a_settled_training_back(tmp_path, labelled, first, sick, what, monkeypatch):
    """The draw at 32 of 96 images comes before training is settled; the one at 64 is held against it."""
    monkeypatch.setattr(watchdog, "GRACE", 2.0)
    when_built(monkeypatch, lambda fit, family: setattr(family, "settled", 0.0))
    well = {"classes_shown": 1.0, "variety": 1.0, "score": 0.5}
    told = iter([{**well, **first}, {**well, **sick}, well, well])
    monkeypatch.setattr(fitting.Examiner, "examine", lambda self, x, y: next(told))
    out = train(tmp_path / "work", *labelled, LEARNER, grid_every=32)
    facts = json.loads((out / "checkpoint.json").read_text())
    assert [r["images"] for r in facts["rollbacks"]] == [64]
    assert what in facts["rollbacks"][0]["finding"]
    assert [row["images"] for row in rows(out / "health.csv")] == ["32", "64", "96"]
    told = chain([{**well, **first}], repeat({**well, **sick}))
    with pytest.raises(
        UserError, match=rf"{what}.*at 64 images, rolled back 1 times.*families\.{LEARNER}\.lr"
    ):
        train(tmp_path / "ill", *labelled, LEARNER, grid_every=32, max_rollbacks=1)


@pytest.mark.usefixtures("unhurried")
def test_weights_that_are_no_numbers_are_neither_drawn_from_nor_kept(tmp_path, labelled, monkeypatch):
    """A step may spoil the weights and yet tell a loss that is a number."""
    step = Training.step

    def spoiling(self):
        metrics = step(self)
        if self.images == 64 and not self.rollbacks:
            with torch.no_grad():
                next(self.family.network.parameters()).fill_(float("nan"))
        return metrics

    monkeypatch.setattr(Training, "step", spoiling)
    out = train(tmp_path / "work", *labelled, LEARNER)
    found = json.loads((out / "checkpoint.json").read_text())["rollbacks"]
    assert [(row["images"], row["finding"]) for row in found] == [(64, "the weights became no numbers")]
    assert all(value.isfinite().all() for value in fitting_weights(out).values())
