import hashlib
import io
import json
import shutil

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from tasks.errors import UserError
from tasks.exporting import Source, recommended, write_samples
from tasks.exporting.card import write_card
from tasks.gates import judge
from tasks.params import Bound, ExportParams
from tasks.shards import Shards, image_column, png, read_shard, sample_table, write_shard
from tests import making

PARAMS = ExportParams(name="tiny", license="cc0-1.0", shard_size=15)
REPORT = {
    "headline": ["Adding the synthetic images helps."],
    "accuracy": {
        "real": {"mean": 0.9, "std": None, "low": 0.875, "high": 0.925, "per_class": {}, "images": 60},
        "synthetic": {"mean": None, "std": None, "per_class": {"bar": 0.875}, "images": None},
    },
    "before": None,
    "after": {"fid": 3.25},
    "scale": {"fid": None},
    "recommendation": {"ratio": 1.5, "chosen_on": "calibrate", "why": "It was the best of three."},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    data = making.stages(tmp_path_factory.mktemp("export") / "data")
    (data / "report").mkdir()
    (data / "report/metrics.json").write_text(json.dumps(REPORT))
    (data / "report/index.json").write_text("{}")
    return data


def write(data, folder, params=PARAMS):
    folder.mkdir()
    source = Source.open(data / "synthetic", data / "scores")
    counts = write_samples(source, params, folder, recommended(data / "report"))
    verdicts = judge({"after.fid": Bound(max=9.0)}, {"after.fid": 3.25})
    write_card(folder, params, counts, verdicts, source, data / "report", data / "checkpoint")
    return folder


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    return write(data, tmp_path_factory.mktemp("out") / "export")


@pytest.fixture
def spoilt(data, tmp_path):
    """A copy to break, and a hand that rewrites one shard of the scores or the samples."""
    copy = shutil.copytree(data, tmp_path / "data")

    def rewrite(stage, change):
        path = copy / stage / "shard-00001.parquet"
        write_shard(path, change(read_shard(path)))
        return Source.open(copy / "synthetic", copy / "scores")

    return rewrite


def test_kept_images_are_exported_byte_for_byte(data, folder):
    drawn = Shards.open(data / "synthetic").table(["id", "image", "sha256"]).to_pylist()
    kept = {row["id"]: row for path in sorted((data / "scores").glob("shard-*"))
            for row in pq.read_table(path).to_pylist() if row["kept"]}  # fmt: skip
    names = sorted(p.name for p in (folder / "images").iterdir())
    assert names == [f"train-{n:05d}-of-00004.parquet" for n in range(4)]
    tables = [pq.read_table(folder / "images" / name) for name in names]
    assert [len(t) for t in tables] == [15, 15, 15, 3]
    found = [row for table in tables for row in table.to_pylist()]
    assert [r["id"] for r in found] == [r["id"] for r in drawn if r["id"] in kept]
    bytes_of = {r["id"]: r["image"]["bytes"] for r in drawn}
    for row in found:
        assert row["image"]["bytes"] == bytes_of[row["id"]]
        assert hashlib.sha256(row["image"]["bytes"]).hexdigest() == row["sha256"]


def test_manifest_has_every_sample_and_where_its_image_lies(data, folder):
    manifest = pq.read_table(folder / "manifest.parquet").to_pylist()
    drawn = Shards.open(data / "synthetic").table(["id", "label", "sha256", "seed"]).to_pylist()
    assert [{k: m[k] for k in ("id", "label", "sha256", "seed")} for m in manifest] == drawn
    for n, row in enumerate(manifest):
        assert row["kept"] is (row["reason"] is None)
        assert (row["shard"] is not None) is (row["row"] is not None) is row["kept"]
        assert row["source_shard"] == f"shard-{n // 20:05d}.parquet"
        assert row["class"] == making.CLASSES[row["label"]]
        assert (row["checkpoint"], row["recipe"]) == ("c0ffee", "recipe of synthetic")
        if row["kept"]:
            there = pq.read_table(folder / row["shard"]).slice(row["row"], 1).to_pylist()[0]
            assert there["id"] == row["id"]
            assert there["label"] == row["label"]
    assert sum(row["kept"] for row in manifest) == 48


def test_manifest_carries_all_scores(data, folder):
    manifest = pq.read_table(folder / "manifest.parquet")
    assert str(manifest.schema.field("probabilities").type.value_type) == "halffloat"
    scored = [pq.read_table(p) for p in sorted((data / "scores").glob("shard-*"))]
    for column in scored[0].column_names:
        assert manifest[column].to_pylist() == [v for t in scored for v in t[column].to_pylist()], column


def test_parquet_says_that_it_is_synthetic(folder):
    for path in folder.rglob("*.parquet"):
        assert pq.read_schema(path).metadata[b"synthetic"] == b"true", path


def test_parquet_tells_the_recommended_ratio(folder):
    for path in folder.rglob("*.parquet"):
        told = json.loads(pq.read_schema(path).metadata[b"mintage"])
        assert told == {"recommended_synthetic_per_real": 1.5, "environment": {"device": "cpu"}}, path


@pytest.mark.parametrize(
    ("found", "ratio", "words"),
    [
        ({"ratio": None, "why": "One seed."}, None, "**Recommended ratio:** none. One seed."),
        ({"ratio": 0.0, "why": "Best."}, 0.0, "**Recommended ratio:** the real images alone. Best."),
        (None, None, "**Recommended ratio:** none. The report recommends none."),
    ],
)
def test_where_none_is_recommended_card_and_metadata_say_so(data, tmp_path, found, ratio, words):
    copy = shutil.copytree(data, tmp_path / "data")
    (copy / "report/metrics.json").write_text(json.dumps({**REPORT, "recommendation": found}))
    folder = write(copy, tmp_path / "export")
    told = json.loads(pq.read_schema(folder / "manifest.parquet").metadata[b"mintage"])
    assert told["recommended_synthetic_per_real"] == ratio
    assert words in (folder / "README.md").read_text()


def test_a_report_that_is_not_readable_is_named(tmp_path):
    with pytest.raises(UserError, match=r"metrics\.json: not readable"):
        recommended(tmp_path)


def test_datasets_loads_the_bare_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    images = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path))
    assert isinstance(images.features["image"], datasets.Image)
    assert images.features["label"].names == making.CLASSES
    assert len(images) == 48
    first = images[0]
    assert np.asarray(first["image"]).shape == (8, 8)
    manifest = datasets.load_dataset(str(folder), "manifest", split="train", cache_dir=str(tmp_path))
    assert len(manifest) == 60
    assert manifest.features["label"].names == making.CLASSES
    assert manifest[1]["probabilities"] == [0.5, 0.25, 0.25]
    assert manifest[0]["reasons"] == ["unsure"]


def test_pandas_duckdb_and_polars_read_it(folder):
    frame = pd.read_parquet(folder / "images")
    assert Image.open(io.BytesIO(frame["image"][0]["bytes"])).size == (8, 8)
    assert len(frame) == 48
    query = f"select count(*), count(distinct id) from '{folder}/images/*.parquet'"
    assert duckdb.sql(query).fetchall() == [(48, 48)]
    query = f"select count(*), sum(probabilities[1]) from '{folder}/manifest.parquet' where kept"
    assert duckdb.sql(query).fetchall() == [(48, 24.0)]
    assert pl.read_parquet(folder / "images/*.parquet").height == 48
    manifest = pl.read_parquet(folder / "manifest.parquet")
    assert manifest.filter(pl.col("kept") & pl.col("reason").is_not_null()).height == 0
    assert manifest["probabilities"][0].to_list() == [0.5, 0.25, 0.25]


def test_same_bytes_twice(data, folder, tmp_path):
    again = write(data, tmp_path / "again")
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert all((folder / f).read_bytes() == (again / f).read_bytes() for f in files)


def test_card_names_two_configs_and_what_was_measured(folder):
    text = (folder / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert [c["config_name"] for c in front["configs"]] == ["default", "manifest"]
    assert front["license"] == "cc0-1.0"
    names = front["dataset_info"]["features"][2]["dtype"]["class_label"]["names"]
    assert list(names.values()) == making.CLASSES
    for told in ("Adding the synthetic images helps.", "87.50 %", "3.25", "c0ffee", "not measured", "max 9",
                 "6 as `copied`", "| 0 | bar | 16 |",
                 "| real | 60 | 90.00 % | 87.50 to 92.50 % | not measured |",
                 "**Recommended ratio:** 1.5 synthetic images for each real one. It was"):  # fmt: skip
        assert told in text, told
    assert Image.open(folder / "preview.png").size == (12 * 8, 3 * 8)


def test_unlabelled_samples_export_without_class_names(tmp_path):
    data = making.stages(tmp_path / "data", classes=[])
    (data / "report").mkdir()
    (data / "report/metrics.json").write_text(json.dumps({**REPORT, "accuracy": {}}))
    (data / "report/index.json").write_text("{}")
    folder = write(data, tmp_path / "export")
    row = pq.read_table(folder / "manifest.parquet").to_pylist()[1]
    assert (row["label"], row["class"]) == (None, None)
    assert pq.read_table(folder / row["shard"])["label"].null_count == 15


def test_nothing_kept_is_refused_before_anything_is_written(tmp_path):
    data = making.stages(tmp_path / "data", reasons=["copy"] * 60)
    with pytest.raises(UserError, match="kept 0 of 60"):
        write_samples(Source.open(data / "synthetic", data / "scores"), PARAMS, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [("reason", "copy", "contradict"), ("kept", None, "contradict"), ("id", "other", "other samples")],
)
def test_scores_that_contradict_are_refused(spoilt, tmp_path, column, value, said):
    def change(table):
        values = table[column].to_pylist()
        values[1] = value  # a kept row
        place = table.schema.get_field_index(column)
        return table.set_column(place, table.schema.field(column), [values])

    with pytest.raises(UserError, match=said) as caught:
        write_samples(spoilt("scores", change), PARAMS, tmp_path)
    assert "shard-00001.parquet" in str(caught.value)


def test_an_image_that_changed_since_it_was_drawn_is_refused(spoilt, tmp_path):
    def change(table):
        images = table["image"].to_pylist()
        images[1]["bytes"] = images[2]["bytes"]
        return table.set_column(table.schema.get_field_index("image"), table.schema.field("image"), [images])

    with pytest.raises(UserError, match="drawn00021"):
        write_samples(spoilt("synthetic", change), PARAMS, tmp_path)


def test_scores_of_another_number_of_shards_are_refused(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "data")
    index = json.loads((copy / "scores/index.json").read_text())
    index["shards"].remove("shard-00002.parquet")
    (copy / "scores/index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="2 shards"):
        Source.open(copy / "synthetic", copy / "scores")


def test_maps_go_out_beside_their_images_as_the_ids_that_they_are(data, tmp_path):
    from datasets import load_dataset

    copy = shutil.copytree(data, tmp_path / "data")
    drawn = Shards.open(data / "synthetic")
    names = ["id", "image", "label", "sha256", "family", "seed"]
    columns = drawn.table(names).to_pydict()
    ids_NCHW = np.random.default_rng(0).integers(0, 3, (drawn.rows, 1, 8, 8), dtype=np.uint8)
    columns["condition"] = image_column([png(ids) for ids in ids_NCHW], [None] * drawn.rows)
    columns["source_ids"] = [["r"]] * drawn.rows
    shutil.rmtree(copy / "synthetic")
    maps = {"name": "paired", "channels": 3, "ids": 3}
    table = sample_table(drawn.rows, **columns)
    making.shards(copy / "synthetic", table, drawn.classes, parents=1, condition=maps)
    folder = write(copy, tmp_path / "export")
    loaded = load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    wanted = dict(zip(columns["id"], ids_NCHW[:, 0], strict=True))
    assert len(loaded) == 48
    for row in loaded:
        assert row["condition"].mode == "L"
        assert np.array_equal(np.asarray(row["condition"]), wanted[row["id"]])
        assert row["image"].size == row["condition"].size
    text = (folder / "README.md").read_text()
    assert "each pixel of which is an id from 0 to 2, as it is" in text
    front = yaml.safe_load(text.split("---")[1])
    assert front["task_categories"] == ["image-classification", "image-segmentation"]
