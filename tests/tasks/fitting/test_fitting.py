"""The loop: resumed to the same bytes, gone back when ill, plain about what can't be trained."""

import json
from itertools import chain, count, repeat
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from models.families import load
from tasks import fitting, watchdog
from tasks.errors import UserError
from tasks.fitting import training
from tasks.fitting.training import Training
from tasks.shards import file_digest
from tests import making
from tests.house import families
from tests.tasks.fitting.training import DEVICE, learners, narrow, params, rows, train

LEARNER = learners()[0]


@pytest.fixture
def unhurried(monkeypatch):
    """So short a training shows no classes yet: ask for none, and for no metric within its bounds."""
    monkeypatch.setattr(watchdog, "SETTLED", 2.0)
    monkeypatch.setattr(watchdog, "GRACE", 2.0)


@pytest.fixture(params=["labelled", "unlabelled"])
def split(request):
    return request.param, *request.getfixturevalue(request.param)


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("family", learners())
def test_trains_and_writes_a_whole_checkpoint(tmp_path, family, split):
    kind, real, reference = split
    out = train(tmp_path / "work", real, reference, family)
    facts = json.loads((out / "checkpoint.json").read_text())
    assert facts["family"] == family
    assert facts["classes"] == (making.CLASSES if kind == "labelled" else [])
    assert facts["images"] == 96
    assert facts["ended_by"] == "images"
    assert facts["rollbacks"] == []
    assert facts["best_images"] in (64, 96)
    assert sorted(p.name for p in (out / "grids").iterdir()) == ["000000064.png", "000000096.png"]
    curve = rows(out / "loss.csv")
    assert curve[-1]["images"] == "96"
    assert all(np.isfinite(float(row["loss"])) for row in curve)
    health = rows(out / "health.csv")
    assert list(health[0]) == ["images", "classes_shown", "variety", "score"]
    assert [row["images"] for row in health] == ["64", "96"]
    assert all(0 <= float(row["score"]) <= 1 for row in health)
    assert all((row["classes_shown"] == "") == (kind == "unlabelled") for row in health)
    assert sorted(p.name for p in out.iterdir()) == [
        "checkpoint.json",
        "grids",
        "health.csv",
        "loss.csv",
        "model.safetensors",
    ]


def same_bytes(one, other):
    names = sorted(p.relative_to(one) for p in one.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(other) for p in other.rglob("*") if p.is_file())
    assert {str(n): file_digest(one / n) for n in names} == {str(n): file_digest(other / n) for n in names}


def cut_step(monkeypatch, after, ending):
    """Let `ending` stop the training after so many steps; undo it to go on."""
    steps, step = count(), Training.step

    def cut(self):
        if next(steps) == after:
            raise ending
        return step(self)

    monkeypatch.setattr(Training, "step", cut)
    return lambda: monkeypatch.setattr(Training, "step", step)


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize(
    ("ending", "after", "kept"), [(KeyboardInterrupt, 3, 48), (RuntimeError, 3, 32), (RuntimeError, 5, 64)]
)
@pytest.mark.parametrize("family", learners())
def test_resumed_training_ends_in_the_same_bytes(
    tmp_path, labelled, family, ending, after, kept, monkeypatch
):
    """A stopped training keeps its last step; one that died keeps its last state."""
    whole = train(tmp_path / "whole", *labelled, family)
    mend = cut_step(monkeypatch, after, ending)
    with pytest.raises(ending):
        train(tmp_path / "cut", *labelled, family)
    mend()
    cut_off = Training(labelled[0], params(family), narrow(family), DEVICE)
    states = [tmp_path / "cut" / name for name in (fitting.STATE, fitting.HEALTHY)]
    assert training.resume(cut_off, states)
    assert cut_off.images == kept
    resumed = train(tmp_path / "cut", *labelled, family)
    assert {p.name for p in resumed.iterdir()} >= {"health.csv", "grids"}
    same_bytes(whole, resumed)


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("ending", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("place", ["draw", "keep", "averaged"])
def test_a_training_cut_off_before_its_last_draw_is_done_still_examines_its_end(
    tmp_path, labelled, ending, place, monkeypatch
):
    whole = train(tmp_path / "whole", *labelled, LEARNER)
    owner = Training if place == "averaged" else fitting
    calls, real_one = count(), getattr(owner, place)

    def cut(*args):
        if next(calls) == 1:
            raise ending
        return real_one(*args)

    monkeypatch.setattr(owner, place, cut)
    with pytest.raises(ending):
        train(tmp_path / "cut", *labelled, LEARNER)
    monkeypatch.setattr(owner, place, real_one)
    resumed = train(tmp_path / "cut", *labelled, LEARNER)
    assert rows(resumed / "health.csv")[-1]["images"] == "96"
    same_bytes(whole, resumed)


@pytest.mark.usefixtures("unhurried")
def test_another_seed_trains_another_model(tmp_path, labelled):
    family = families()[0]
    one, other = (train(tmp_path / f"{s}", *labelled, family, seed=s) for s in (1, 2))
    assert file_digest(one / fitting.MODEL) != file_digest(other / fitting.MODEL)


@pytest.mark.usefixtures("unhurried")
def test_a_broken_state_is_not_trusted(tmp_path, labelled):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / fitting.STATE).write_bytes(b"\x10\0\0\0\0\0\0\0torn")
    out = train(tmp_path / "work", *labelled, LEARNER)
    assert json.loads((out / "checkpoint.json").read_text())["images"] == 96


def when_built(monkeypatch, change):
    """Give every family that is built for training to `change`."""
    build = Training.build

    def built(self):
        family = build(self)
        change(self, family)
        return family

    monkeypatch.setattr(Training, "build", built)


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
    config = load(family).Config
    block = {"lr": config.model_fields["lr"].default * 1e4}
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
@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.2, 0.9, 0.1], 64),
        ([0.2, 0.3, 0.9], 96),
        ([0.2, 0.9, 0.89], 96),
        ([0.9, 0.2, 0.1], 32),
        ([None] * 3, 96),
    ],
)
def test_kept_weights_are_those_of_the_best_draw(tmp_path, labelled, scores, best, monkeypatch):
    told, drawn, examine = iter(scores), {}, fitting.examine
    health = {"classes_shown": 1.0, "variety": 1.0}
    monkeypatch.setattr(fitting.Examiner, "examine", lambda self, x, y: {**health, "score": next(told)})

    def noted(folder, training, *others):
        found = examine(folder, training, *others)
        drawn[training.images] = {k: v.clone() for k, v in training.averaged().state_dict().items()}
        return found

    monkeypatch.setattr(fitting, "examine", noted)
    out = train(tmp_path / "work", *labelled, LEARNER, grid_every=32)
    assert list(drawn) == [32, 64, 96]
    assert json.loads((out / "checkpoint.json").read_text())["best_images"] == best
    kept = fitting_weights(out)
    assert kept.keys() == drawn[best].keys()
    assert all(torch.equal(kept[name], value) for name, value in drawn[best].items())
    assert any(not torch.equal(drawn[32][name], drawn[96][name]) for name in kept)


def fitting_weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / fitting.MODEL)


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
def test_minutes_end_a_training_and_are_told(tmp_path, labelled, monkeypatch):
    clock = count()
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    out = train(tmp_path / "work", *labelled, LEARNER, images=10**6, minutes=1.0)
    facts = json.loads((out / "checkpoint.json").read_text())
    assert facts["ended_by"] == "minutes"
    assert 16 <= facts["images"] < 16 * 60
    assert rows(out / "health.csv")[-1]["images"] == str(facts["images"])
    assert (out / "grids" / f"{facts['images']:09d}.png").is_file()
    assert facts["best_images"] <= facts["images"]


@pytest.mark.usefixtures("unhurried")
def test_a_family_with_nothing_to_train_is_finished_and_kept(tmp_path, labelled, monkeypatch):
    finished = []

    def change(training, family):
        monkeypatch.setattr(type(family), "TRAINS", False)
        finish = family.finish
        object.__setattr__(family, "finish", lambda batches: (finished.append(1), finish(batches)))

    when_built(monkeypatch, change)
    out = train(tmp_path / "work", *labelled, LEARNER)
    assert finished == [1]
    assert (out / fitting.MODEL).is_file()
    facts = json.loads((out / "checkpoint.json").read_text())
    assert facts["images"] == 0
    assert (out / "loss.csv").read_text() == "images,loss\n"
    assert (out / "health.csv").read_text() == "images,classes_shown,variety,score\n"


def test_tile_lays_rows_of_columns():
    x = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1) * np.ones((1, 1, 2, 2), np.uint8)
    assert fitting.tile(x, 3)[0].tolist() == [[0, 0, 1, 1, 2, 2]] * 2 + [[3, 3, 4, 4, 5, 5]] * 2


@pytest.mark.usefixtures("unhurried")
def test_a_training_that_was_stopped_before_it_was_sealed_is_not_done_again(tmp_path, labelled, monkeypatch):
    out = train(tmp_path / "work", *labelled, LEARNER)
    monkeypatch.setattr(Training, "step", lambda self: pytest.fail("it trained again"))
    assert train(tmp_path / "work", *labelled, LEARNER) == out
    (out / fitting.CHECKPOINT).unlink()
    with pytest.raises(pytest.fail.Exception):
        train(tmp_path / "work", *labelled, LEARNER)


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
