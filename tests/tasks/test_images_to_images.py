"""A family that is asked with images, through every stage: where its samples come from is never lost."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from models import features
from tasks import exporting, fitting, judging, originals, reporting, sampling, scoring, watchdog
from tasks.batches import parents
from tasks.device import prepare
from tasks.errors import UserError
from tasks.exporting import card
from tasks.params import (
    CalibrateParams,
    EvaluateParams,
    ExportParams,
    FilterParams,
    GenerateParams,
    Machine,
    TrainParams,
)
from tasks.probing import gather
from tasks.reporting import pictures as shown
from tasks.sampling import planning
from tasks.shards import Shards, pixels, read_shard, seal
from tests import making, pictures
from tests.reports import Page

DEVICE = prepare(Machine(device="cpu", threads=1), "fp32")
PARAMS = GenerateParams(num_samples=40, batch=16, shard_size=25, seed=3)
LOOSE = {name: None for name in FilterParams.model_fields if name != "precision"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Every stage but export, of `restore`, on photographs of noise with edges as their condition."""
    root = tmp_path_factory.mktemp("images")
    made = pictures.made(root, pictures.classes(30), size=16, channels=3, condition="edges")
    data = made.rename(root / "real").parent
    train, calibrate = data / "real/train", data / "real/calibrate"
    for name in ("reference", "checkpoint", "synthetic"):
        (data / name).mkdir()
    judging.fit_judge(train, CalibrateParams(images=400, batch=32), DEVICE, data / "reference")
    originals.measure_real(train, calibrate, DEVICE, data / "reference")
    seal(data / "reference")
    params = TrainParams(family="restore", images=320, batch=16, ema_images=16, precision="fp32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watchdog, "SETTLED", 2.0)
        patch.setattr(fitting, "EXAMINED", 80)
        block = {"width": 16, "blocks": 1}
        fitting.fit(data / "checkpoint", train, calibrate, data / "reference", params, block, DEVICE)
    seal(data / "checkpoint")
    plan = draw(data, data / "synthetic")
    seal(data / "synthetic", **plan.describe(DEVICE))
    judge(data, data / "synthetic", data / "scores", copied={"value": 0.2})
    return data


def draw(data, folder, params=PARAMS):
    plan = planning.plan(params, data / "checkpoint", data / "real/train")
    for number in plan.missing(folder):
        sampling.draw_shard(number, plan, data / "checkpoint", data / "real/train", folder, DEVICE)
    return plan


def judge(data, synthetic, out, **switched):
    out.mkdir()
    params = FilterParams(**{**LOOSE, **switched, "precision": "fp32"})
    for shard in Shards.open(synthetic).paths:
        scoring.measure_shard(shard, data / "reference", data / "real/train", DEVICE, out)
    metrics = scoring.judge_rows(synthetic, data / "reference", params, DEVICE, out)
    seal(out, classes=Shards.open(synthetic).classes)
    return [row for path in Shards.open(out).paths for row in read_shard(path).to_pylist()], metrics


def samples(folder):
    columns = ["id", "label", "seed", "source_ids", "condition", "image"]
    return Shards.open(folder).table(columns).to_pylist()


def test_every_real_image_has_its_condition(data):
    for split in ("train", "calibrate", "test"):
        shards = Shards.open(data / "real" / split)
        assert shards.condition == {"name": "edges", "channels": 1, "ids": 0}
        assert shards.pixels("condition").shape == (shards.rows, 1, 16, 16)


def test_no_parent_comes_from_any_split_but_train(data):
    ids = {s: set(Shards.open(data / "real" / s).table(["id"])["id"].to_pylist()) for s in pictures.SPLITS}
    parents = {name for row in samples(data / "synthetic") for name in row["source_ids"]}
    assert parents <= ids["train"]
    assert not parents & (ids["test"] | ids["calibrate"])
    assert parents == ids["train"] or len(parents) == PARAMS.num_samples


@pytest.mark.parametrize("split", ["test", "calibrate"])
def test_a_split_that_is_not_train_is_refused_as_a_source(data, split):
    with pytest.raises(UserError, match=f"split '{split}'"):
        planning.plan(PARAMS, data / "checkpoint", data / "real" / split)


def test_a_sample_has_the_label_of_its_source(data):
    real = Shards.open(data / "real/train").table(["id", "label"]).to_pylist()
    label = {row["id"]: row["label"] for row in real}
    assert all(row["label"] == label[row["source_ids"][0]] for row in samples(data / "synthetic"))


def test_a_sample_keeps_what_its_family_was_shown(data):
    real = Shards.open(data / "real/train")
    image = dict(zip(real.table(["id"])["id"].to_pylist(), real.pixels(), strict=True))
    rows = samples(data / "synthetic")
    shown = Shards.open(data / "synthetic").pixels("condition")
    apart = [
        np.sqrt(np.mean((shown[n] - image[row["source_ids"][0]].astype(float)) ** 2))
        for n, row in enumerate(rows)
    ]
    assert min(apart) > 15  # noise of deviation 25, cut off at black and white
    assert max(apart) < 30
    assert Shards.open(data / "synthetic").condition == {"name": "shown", "channels": 3, "ids": 0}


def test_the_same_params_draw_the_same_samples(data, tmp_path):
    draw(data, tmp_path)
    for path in Shards.open(data / "synthetic").paths:
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_another_seed_takes_other_sources(data):
    plans = [
        planning.plan(PARAMS.model_copy(update={"seed": s}), data / "checkpoint", data / "real/train")
        for s in (3, 4)
    ]
    rows = [
        parents(Shards.open(data / "real/train").labels(), plan.labels, plan.params.seed, 1) for plan in plans
    ]
    assert (rows[0] != rows[1]).any()


def test_another_condition_than_it_was_trained_with_is_refused(data, tmp_path):
    real = Shards.open(data / "real/train")
    facts = {k: v for k, v in real.index.items() if k not in ("condition", "shards", "rows", "files")}
    table = real.table(["id", "image", "label", "sha256", "split"])
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    from tasks.shards import sample_table

    other = making.shards(
        tmp_path / "train", sample_table(len(table), **columns), facts.pop("classes"), **facts
    )
    with pytest.raises(UserError, match="condition none, but the checkpoint was trained with edges"):
        planning.plan(PARAMS, data / "checkpoint", other)


def test_held_out_pairs_are_measured(data):
    facts = json.loads((data / "checkpoint/checkpoint.json").read_text())
    assert facts["held_out"]["psnr"] > 18  # what is restored by next to nothing is the noisy image: 20
    assert 0 < facts["held_out"]["ssim"] < 1
    assert facts["held_out"]["perceptual_distance"] > 0


def test_likeness_to_the_source_is_a_score_and_no_copy(data):
    rows = [row for path in Shards.open(data / "scores").paths for row in read_shard(path).to_pylist()]
    drawn = samples(data / "synthetic")
    assert [row["id"] for row in rows] == [row["id"] for row in drawn]
    assert all(0.2 < row["source_ssim"] < 1 for row in rows)
    assert all(row["source_perceptual_distance"] > 0 for row in rows)
    assert all(row["nearest_copy"] not in s["source_ids"] for row, s in zip(rows, drawn, strict=True))
    assert all(row["kept"] for row in rows)
    metrics = json.loads((data / "scores/metrics.json").read_text())
    assert metrics["to_source"]["ssim"] == pytest.approx(np.mean([r["source_ssim"] for r in rows]), abs=1e-5)


def planted(data, folder, images, source_ids):
    """Samples that are these images, said to be made from these sources."""
    labels = np.zeros(len(images), int)
    table = making.samples(images, labels, "p", source_ids=source_ids)
    return making.shards(
        folder, table, Shards.open(data / "real/train").classes, parents=1, channels=3, size=16
    )


def test_a_copy_of_another_train_image_is_dropped_and_one_of_its_source_only_if_it_is_the_same(
    data, tmp_path
):
    real = Shards.open(data / "real/train")
    ids, x = real.table(["id"])["id"].to_pylist(), real.pixels()
    lit = np.clip(x[:3].astype(int) + 12, 0, 255).astype(np.uint8)
    own, another = [[name] for name in ids[:3]], [[name] for name in ids[3:6]]
    given = planted(data, tmp_path / "s", np.concatenate([lit, lit, x[:3], x[:3]]), 2 * (own + another))
    rows, _ = judge(data, given, tmp_path / "scores", copied={"value": 0.2})
    assert [row["reason"] for row in rows] == [None] * 3 + ["copied"] * 3 + ["identical"] * 6
    assert min(row["authenticity"] for row in rows[6:9]) > 0.01
    assert max(row["authenticity"] for row in rows[9:]) < 1e-4


def test_a_source_that_is_no_train_image_is_named(data, tmp_path):
    given = planted(data, tmp_path / "s", making.pictures(np.zeros(1), 0, 16, 3), [["stranger"]])
    with pytest.raises(UserError, match="'stranger', which is not in train"):
        judge(data, given, tmp_path / "scores")


def test_absent_packages_leave_a_score_out_and_are_named(data, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(features, "find_spec", lambda name: None)
    rows, metrics = judge(data, data / "synthetic", tmp_path / "scores")
    assert {row["source_perceptual_distance"] for row in rows} == {None}
    assert list(metrics["to_source"]) == ["ssim"]
    assert "pip install" in caplog.text


@pytest.fixture(scope="module")
def report(data, tmp_path_factory):
    folder = data / "report"
    folder.mkdir()
    inputs = {name: data / "real" / name for name in ("train", "calibrate", "test")}
    inputs |= {name: data / name for name in ("synthetic", "scores", "checkpoint")}
    splits = gather(*list(inputs.values())[:5])
    params = EvaluateParams(arms=["real"], seeds=1)
    unlabelled = replace(splits, classes=splits.classes[:1])  # no probe is trained here
    metrics = reporting.metrics(params, unlabelled, [], data / "checkpoint")
    reporting.write_numbers(folder, metrics, unlabelled, [])
    reporting.write_page(folder, metrics, params, splits, [], inputs)
    return seal(folder)


def test_the_report_shows_source_condition_and_sample_side_by_side(data, report):
    page = Page((report / "report.html").read_text())
    assert "sources" in page.ids
    assert "Held-out images and the family's answer to them, on average: PSNR in decibels" in page.text
    assert "All samples and their nearest source, on average: SSIM" in page.text
    text = (report / "report.html").read_text()
    section = text[text.index('id="sources"') : text.index('id="gallery"')]
    assert section.count('alt="Source"') == section.count('alt="What the family was shown"') == 6
    found = json.loads((report / "metrics.json").read_text())
    assert found["held_out"]["psnr"] > 18
    assert found["to_source"]["ssim"] > 0


def test_a_report_of_samples_none_of_which_was_kept_says_how_held_out_pairs_came_out(data, report, tmp_path):
    names = ("train", "calibrate", "test")
    inputs = {n: data / "real" / n for n in names} | {
        n: data / n for n in ("synthetic", "scores", "checkpoint")
    }
    splits = gather(*list(inputs.values())[:5])
    splits = replace(splits, reasons=np.full(len(splits.reasons), "copied", object))
    assert shown.made_from(splits, data / "synthetic") == []
    metrics = json.loads((report / "metrics.json").read_text())
    params = EvaluateParams(arms=["real"], seeds=1)
    reporting.write_page(tmp_path, metrics, params, splits, [], inputs)
    assert "Held-out images and the family's answer" in Page((tmp_path / "report.html").read_text()).text


def test_the_export_carries_sources_and_conditions(data, report, tmp_path):
    out = tmp_path / "export"
    out.mkdir()
    source, params = exporting.Source.open(data / "synthetic", data / "scores"), ExportParams(name="tiny")
    counts = exporting.write_samples(source, params, out)
    card.write_card(out, params, counts, [], source, report, data / "checkpoint")
    loaded = load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    drawn = {row["id"]: row for row in samples(data / "synthetic")}
    assert len(loaded) == counts["kept"]
    for row in loaded:
        assert row["source_ids"] == drawn[row["id"]]["source_ids"]
        stored = Image.open(io.BytesIO(drawn[row["id"]]["condition"]["bytes"]))
        assert np.array_equal(np.asarray(row["condition"]), np.asarray(stored))
    manifest = load_dataset(str(out), "manifest", split="train", cache_dir=str(tmp_path / "cache"))
    assert set(manifest["source_ids"][0]) <= {n for row in drawn.values() for n in row["source_ids"]}
    assert "source_ssim" in manifest.column_names
    text = (out / "README.md").read_text()
    assert "`source_ids`, `condition` |" in text
    assert "Each was made from a real image of the train split" in text
    assert pixels(read_shard(out / "images/train-00000-of-00001.parquet")["condition"]).shape[1:] == (
        3,
        16,
        16,
    )
