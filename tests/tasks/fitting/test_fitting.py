"""The loop: resumed to the same bytes, the best draw kept, its limits held."""

import json
import signal
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.families import class_of
from tasks import fitting
from tasks.fitting import training
from tasks.fitting.drawing import Draws
from tasks.fitting.training import Training
from tasks.shards import file_digest
from tests import making
from tests.house import families
from tests.tasks.fitting.training import (
    DEVICE,
    LEARNER,
    cut_step,
    fitting_weights,
    learners,
    narrow,
    params,
    rows,
    same_bytes,
    train,
    when_built,
)


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
    measured = ["psnr", "ssim", "perceptual_distance"] if getattr(class_of(family), "PAIRED", False) else []
    assert list(health[0]) == ["images", "classes_shown", "variety", "score", *measured]
    best = next(row for row in health if int(row["images"]) == facts["best_images"])
    assert facts.get("held_out", {}) == {name: float(best[name]) for name in measured}
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
    owner = {"averaged": Training, "draw": Draws}.get(place, fitting)
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


def test_a_table_has_the_columns_of_all_its_rows(tmp_path):
    rows = [{"images": 1, "score": 0.5}, {"images": 2, "score": 0.25, "ssim": 1 / 3}]
    fitting.write_table(tmp_path / "t.csv", rows, ["images"])
    assert (tmp_path / "t.csv").read_text().splitlines() == ["images,score,ssim", "1,0.5,", "2,0.25,0.333333"]


def test_held_out_pairs_are_measured_while_a_stop_is_still_heard(tmp_path, labelled, monkeypatch):
    heard = []
    monkeypatch.setattr(
        "tasks.fitting.drawing.fidelity",
        lambda *_: heard.append(signal.getsignal(signal.SIGTERM)) or {"psnr": torch.ones(1)},
    )
    before = signal.getsignal(signal.SIGTERM)
    train(tmp_path / "a", *labelled, "restore")
    assert heard
    assert set(heard) == {before}


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
def test_a_family_that_selects_is_handed_the_judge_where_there_are_classes(tmp_path, split):
    kind, real, reference = split
    out = load_file(train(tmp_path / "work", real, reference, "breed") / "model.safetensors")
    kept = {k.removeprefix("judge."): v for k, v in out.items() if k.startswith("judge.")}
    assert bool(out["heeded"]) is (kind == "labelled")
    assert bool(kept) is (kind == "labelled")
    judge = load_file(reference / "judge.safetensors")
    assert all(torch.equal(v, judge[k]) for k, v in kept.items())
