"""A sample is its seed: who drew it, in which shard or order, must not matter."""

import errno
import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.families import class_of
from tasks import fitting, judging, originals, sampling, watchdog
from tasks.batches import Pool
from tasks.device import prepare
from tasks.errors import PassingError, UserError
from tasks.params import CalibrateParams, GenerateParams, Machine, TrainParams
from tasks.sampling import planning
from tasks.shards import Shards, file_digest, seal
from tests import making
from tests.house import PARAMS, families

DEVICE = prepare(Machine(device="cpu", threads=1), "fp32")


@pytest.fixture(scope="module", params=families())
def made(request, tmp_path_factory):
    """A real split, and a checkpoint of each family fit for a moment."""
    root = tmp_path_factory.mktemp(request.param)
    real = making.real(root / "train", 10, seed=1, condition=True)
    held_out = making.real(root / "calibrate", 10, seed=2, condition=True)
    (root / "checkpoint").mkdir()
    reference = root / "reference"
    reference.mkdir()
    judging.fit_judge(real, CalibrateParams(images=320, batch=32, precision="fp32"), DEVICE, reference)
    originals.measure_real(real, held_out, DEVICE, reference)
    params = TrainParams(family=request.param, images=64, batch=16, ema_images=16, precision="fp32")
    with pytest.MonkeyPatch.context() as patch:
        # So short a training shows no classes yet: ask for none, and for no metric within its bounds.
        patch.setattr(watchdog, "SETTLED", 2.0)
        patch.setattr(watchdog, "GRACE", 2.0)
        patch.setattr(fitting, "EXAMINED", 80)
        block = PARAMS["families"][request.param]
        fitting.fit(root / "checkpoint", real, held_out, reference, params, block, DEVICE)
    return seal(root / "checkpoint"), real


def draw_all(folder, checkpoint, real, numbers=None, **changes):
    params = GenerateParams(**{"num_samples": 22, "batch": 8, "shard_size": 10, "seed": 4, **changes})
    plan = planning.plan(params, checkpoint, real)
    folder.mkdir(exist_ok=True)
    for number in plan.missing(folder) if numbers is None else numbers:
        sampling.draw_shard(number, plan, checkpoint, real, folder, DEVICE)
    return plan, folder


def test_shards_do_not_depend_on_order_or_resume(made, tmp_path):
    plan, first = draw_all(tmp_path / "a", *made)
    _, second = draw_all(tmp_path / "b", *made, numbers=[2, 0])
    assert plan.missing(second) == [1]
    draw_all(second, *made)
    names = [p.name for p in sorted(first.iterdir())]
    assert len(names) == 3
    assert [file_digest(first / n) for n in names] == [file_digest(second / n) for n in names]


def test_a_batch_is_written_before_the_next_but_one_is_drawn(made, tmp_path, monkeypatch):
    plan, folder = draw_all(tmp_path / "a", *made, numbers=[], batch=2)
    drawn, packed, plain, pack = [], [], sampling.draw, sampling.pack

    def draw(*args):
        assert len(packed) >= len(drawn) - 1
        drawn.append(args)
        return plain(*args)

    monkeypatch.setattr(sampling, "draw", draw)
    monkeypatch.setattr(sampling, "pack", lambda *args: packed.append(pack(*args)))
    path = sampling.draw_shard(0, plan, *made, folder, DEVICE)
    groups = pq.ParquetFile(path).metadata
    assert [groups.row_group(n).num_rows for n in range(groups.num_row_groups)] == [2] * 5


def test_a_shard_that_can_not_be_written_ends_at_once_and_leaves_nothing(made, tmp_path, monkeypatch):
    plan, folder = draw_all(tmp_path / "a", *made, numbers=[], batch=2)
    drawn, plain = [], sampling.draw
    monkeypatch.setattr(sampling, "draw", lambda *args: drawn.append(args) or plain(*args))

    def full(x_CHW):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sampling, "png", full)
    with pytest.raises(OSError, match="No space"):
        sampling.draw_shard(0, plan, *made, folder, DEVICE)
    assert len(drawn) == 2
    assert not list(folder.iterdir())


def test_rows_are_balanced_labelled_and_traceable(made, tmp_path):
    plan, folder = draw_all(tmp_path / "a", *made)
    seal(folder, **plan.describe(DEVICE))
    shards = Shards.open(folder)
    table = shards.table(["id", "label", "seed", "family", "sha256", "image"]).to_pandas()
    assert shards.rows == 22
    assert table["label"].value_counts().to_dict() == {0: 8, 1: 7, 2: 7}
    assert table["seed"].tolist() == [4 << 32 | n for n in range(22)]
    assert table["id"].is_unique
    assert shards.pixels().shape == (22, 1, 8, 8)
    assert json.dumps(shards.index["class_counts"]) == '{"bar": 8, "line": 7, "row": 7}'


def test_a_sample_names_its_sources_and_keeps_what_was_shown_of_them(made, tmp_path):
    plan, folder = draw_all(tmp_path / "a", *made)
    seal(folder, **plan.describe(DEVICE))
    rows = Shards.open(folder).table(["label", "source_ids", "condition"]).to_pylist()
    family = class_of(json.loads((made[0] / "checkpoint.json").read_text())["family"])
    if family.condition == "label":
        assert {(row["source_ids"], row["condition"]) for row in rows} == {(None, None)}
        assert "parents" not in Shards.open(folder).index
        return
    real = Shards.open(made[1])
    known = real.table(["id", "label"]).to_pydict()
    place = {name: n for n, name in enumerate(known["id"])}
    sources = np.array([[place[name] for name in row["source_ids"]] for row in rows])
    assert sources.shape == (22, family.PARENTS)
    assert all(
        known["label"][n] == row["label"] for line, row in zip(sources, rows, strict=True) for n in line
    )
    if not hasattr(family, "ask"):
        shown = Shards.open(folder).pixels("condition")
        assert np.array_equal(shown, real.pixels("condition")[sources[:, 0]])
        assert Shards.open(folder).condition == making.CONDITION


def test_maps_of_other_ids_are_no_sources(tmp_path):
    real = Shards.open(making.real(tmp_path / "train", 2, seed=1, condition=True))
    facts = {"classes": making.CLASSES, "condition": {**making.CONDITION, "channels": 3, "ids": 3}}
    with pytest.raises(UserError, match=r"colours of 2 ids, but the checkpoint .* colours of 3 ids"):
        planning.check_sources([1, 1, 1], real, facts)


@pytest.mark.parametrize("made", ["breed"], indirect=True)
def test_a_row_of_a_bred_sample_and_its_checkpoint_give_its_genes_again(made, tmp_path):
    plan, folder = draw_all(tmp_path / "a", *made)
    seal(folder, **plan.describe(DEVICE))
    rows = Shards.open(folder).table(["label", "seed", "source_ids"]).to_pydict()
    family, pool = sampling._family(made[0].resolve(), plan.facts["digest"], DEVICE), Pool.open(made[1])
    of = np.array([[pool.ids.index(name) for name in names] for names in rows["source_ids"]])
    sources = [pool.batch(column, DEVICE, torch.contiguous_format) for column in of.T]
    with torch.inference_mode():
        y_B = torch.tensor(rows["label"])
        shown = family.tongue.express(family.genes(y_B, rows["seed"], sources), y_B)
    apart = (shown * 127.5 + 127.5).round().clamp(0, 255) - torch.from_numpy(Shards.open(folder).pixels())
    assert family.heeded
    assert apart.abs().max() <= 1


def test_another_seed_draws_other_images(made, tmp_path):
    draws = [Shards(draw_all(tmp_path / str(s), *made, seed=s)[1], {}) for s in (1, 2)]
    one, other = (list(d.folder.iterdir()) for d in draws)
    assert {file_digest(p) for p in one}.isdisjoint({file_digest(p) for p in other})


def test_a_mapping_gives_each_class_its_number(made):
    params = GenerateParams(class_counts={"bar": 1, "row": 4})
    assert np.bincount(planning.plan(params, *made).labels).tolist() == [1, 0, 4]


def test_balance_fills_up_to_the_largest_real_class(made, tmp_path):
    checkpoint, _ = made
    labels = np.array([0] * 5 + [1] * 2 + [2] * 3)
    table = making.samples(making.pictures(labels, 0), labels, "t", split=["train"] * 10)
    uneven = making.shards(tmp_path / "train", table, making.CLASSES, condition=making.CONDITION)
    plan = planning.plan(GenerateParams(class_counts="balance"), checkpoint, uneven)
    assert np.bincount(plan.labels).tolist() == [0, 3, 2]


def test_balance_has_nothing_to_do_for_equal_classes(made):
    with pytest.raises(UserError, match="nothing to fill"):
        planning.plan(GenerateParams(class_counts="balance"), *made)


def test_an_unknown_class_is_named(made):
    with pytest.raises(UserError, match=r"class_counts\.cat: no such class"):
        planning.plan(GenerateParams(class_counts={"cat": 3}), *made)


def test_other_weights_than_described_are_refused(made, tmp_path):
    import shutil

    broken = shutil.copytree(made[0], tmp_path / "checkpoint")
    (broken / "model.safetensors").write_bytes(b"torn")
    seal(broken)
    plan = planning.plan(GenerateParams(num_samples=4), broken, made[1])
    with pytest.raises(UserError, match="not the weights"):
        sampling.draw_shard(0, plan, broken, made[1], tmp_path, DEVICE)


def test_what_the_family_can_not_do_is_told(made, tmp_path, monkeypatch):
    class Unwilling:
        def sample(self, *args, **knobs):
            raise ValueError("sampling needs 2 steps or more, not 1")

    monkeypatch.setattr(sampling, "_family", lambda *args: Unwilling())
    with pytest.raises(UserError, match=r"params\.yaml: generate: sampling needs 2 steps"):
        draw_all(tmp_path / "a", *made)


class Hungry:
    """Has memory for so many samples at once; `meals` says for how many, draw by draw, the last for good."""

    def __init__(self, *meals, error=None):
        self.meals, self.asked = list(meals), []
        self.error = error or torch.OutOfMemoryError("CUDA out of memory")

    def sample(self, y_B, seeds_B, **knobs):
        self.asked.append(len(seeds_B))
        room = self.meals.pop(0) if len(self.meals) > 1 else self.meals[0]
        if len(seeds_B) > room:
            raise self.error
        return torch.zeros(len(seeds_B), 1, 8, 8, dtype=torch.uint8), None


def draw(hungry, batch=8):
    params, seeds = GenerateParams(batch=batch), [1, 2, 3]
    return sampling.draw(hungry, np.array([0, 1, 2]), seeds, params, DEVICE)


ON_CPU = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA"), MemoryError(), ON_CPU])
@pytest.mark.parametrize("room", [1, 2, 5, 7])
def test_a_batch_that_does_not_fit_names_the_largest_that_does(room, error):
    hungry = Hungry(room, error=error)
    with pytest.raises(UserError, match=rf"generate\.batch: 8 samples .* {room} fit: set it to that"):
        draw(hungry)
    assert hungry.asked[0] == 8
    assert len(draw(Hungry(8))[0]) == 3


def test_memory_that_is_never_enough_or_was_short_for_a_moment():
    with pytest.raises(UserError, match="not even 1 fits"):
        draw(Hungry(0))
    with pytest.raises(PassingError, match="no longer"):
        draw(Hungry(0, 8))
    with pytest.raises(RuntimeError, match="a bug"):
        draw(Hungry(0, error=RuntimeError("a bug")))


@pytest.mark.parametrize("made", families()[:1], indirect=True)
def test_a_plan_knows_its_size_and_is_small(made):
    import pickle

    plan = planning.plan(GenerateParams(num_samples=100_000), *made)
    real = Shards.open(made[1])
    each = sum(p.stat().st_size for p in real.paths) / real.rows
    assert plan.size(plan.shards) == pytest.approx(each * 100_000)
    assert plan.size([0, 1]) == pytest.approx(each * 2_000)
    assert len(plan.labels) == 100_000
    assert len(pickle.dumps(plan)) < 10_000


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match="dvc repro train"):
        planning.read_checkpoint(tmp_path / "none")


def test_an_unlabelled_plan_has_no_labels(made, tmp_path):
    plan = planning.plan(GenerateParams(num_samples=5), *made)
    plan = replace(plan, drawn=(5,), facts={**plan.facts, "classes": []})
    assert plan.shards == [0]
    assert plan.labels.tolist() == [-1] * 5


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(any))
def test_every_prefix_holds_the_classes_in_proportion(counts):
    labels = planning.spread(counts)
    assert np.bincount(labels, minlength=len(counts)).tolist() == counts
    total = sum(counts)
    for stop in range(1, total + 1):
        share = np.bincount(labels[:stop], minlength=len(counts)) - np.array(counts) * stop / total
        assert np.abs(share).max() <= len(counts)


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1), st.integers(0, 2**32 - 1))
def test_no_two_runs_share_a_seed(one, other, number):
    seed = planning.sample_seed(one, number)
    assert 0 <= seed < 2**63
    assert (seed == planning.sample_seed(other, number)) == (one == other)
