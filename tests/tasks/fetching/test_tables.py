"""Parquet in the Hugging Face layout."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.shards import Shards
from tests import pictures as p


def test_hugging_face_folder(tmp_path):
    data = [p.picture(n) for n in range(12)]
    root = tmp_path / "set"
    p.parquet(root / "data/train-00000-of-00002.parquet", data[:4], [0, 1, 0, 1], p.CLASS_LABEL)
    p.parquet(root / "data/train-00001-of-00002.parquet", data[4:8], [0, 1, 0, 1], p.CLASS_LABEL)
    p.parquet(root / "data/test-00000-of-00001.parquet", data[8:], [0, 1, -1, None], p.CLASS_LABEL)
    pq.write_table(pa.table({"id": [1]}), root / "manifest.parquet")
    out = p.ingested(root, tmp_path / "raw")
    found = p.rows(out)
    assert Shards.open(out).classes == ["cat", "dog"]
    assert Shards.open(out).index["counts"]["ignored"] == 1
    assert [r["split"] for r in found] == ["test"] * 4 + ["train"] * 8
    assert [r["label"] for r in found] == [0, 1, None, None, 0, 1, 0, 1, 0, 1, 0, 1]
    assert {r["image"]["bytes"] for r in found} == set(data)
    assert found[5]["source"] == "data/train-00000-of-00002.parquet/000001/1.png"


@pytest.mark.parametrize(
    ("labels", "kind", "classes"),
    [
        ([5, 7, 5, 10], pa.int64(), ["5", "7", "10"]),
        (["b", "a", "b", "a"], pa.string(), ["a", "b"]),
        (None, None, []),
    ],
)
def test_parquet_without_class_names(tmp_path, labels, kind, classes):
    path = p.parquet(tmp_path / "x.parquet", [p.picture(n) for n in range(4)], labels, kind=kind)
    out = p.ingested(path, tmp_path / "raw")
    assert Shards.open(out).classes == classes
    given = [None if r["label"] is None else classes[r["label"]] for r in p.rows(out)]
    assert given == ([None] * 4 if labels is None else [str(label) for label in labels])


def test_parquet_rows_without_bytes_are_rejected(tmp_path):
    path = p.parquet(
        tmp_path / "x.parquet", [p.picture(n) for n in range(20)] + [None, b""], [0, 1] * 11, p.CLASS_LABEL
    )
    out = p.ingested(path, tmp_path / "raw")
    reasons = pq.read_table(out / "rejects.parquet")["reason"].to_pylist()
    assert reasons == ["broken", "empty"]


def test_synthetic_input_is_refused_unless_it_is_meant(tmp_path):
    images = [p.picture(n) for n in range(4)]
    path = p.parquet(tmp_path / "x.parquet", images, [0, 1, 0, 1], p.CLASS_LABEL, synthetic="true")
    assert "ingest.allow_synthetic" in p.refused(path, tmp_path)
    assert Shards.open(p.ingested(path, tmp_path / "raw", allow_synthetic=True)).rows == 4


def test_parquet_that_can_not_be_used(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "text.parquet")
    assert "found: text" in p.refused(tmp_path / "text.parquet", tmp_path)
    (tmp_path / "refused").rmdir()
    path = p.parquet(tmp_path / "label.parquet", [p.picture(0)], [7], p.CLASS_LABEL)
    assert "label 7" in p.refused(path, tmp_path)
