"""What is measured of an image by itself, against the train images it is held against."""

import numpy as np
import pytest
import torch

from models.likeness import Sketch, sketch
from models.measures import entropy, margin
from tasks import judging, originals
from tasks.device import prepare
from tasks.errors import UserError
from tasks.originals import LOOKS, MEASURES, Originals
from tasks.params import CalibrateParams, Machine
from tasks.shards import Shards
from tests import making

DEVICE = prepare(Machine(device="cpu", threads=1), "fp32")


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    root = tmp_path_factory.mktemp("known")
    train, held_out = making.real(root / "train", 20, 1), making.real(root / "calibrate", 8, 2)
    folder = root / "reference"
    folder.mkdir()
    judging.fit_judge(train, CalibrateParams(images=2_000, batch=32, precision="fp32"), DEVICE, folder)
    metrics = originals.measure_real(train, held_out, DEVICE, folder)
    real = judging.Reference(folder)
    return train, held_out, real, Originals.open(train, real.ids("train"), real.features("train")), metrics


def asked(known, x, labels):
    _, _, real, known_images, _ = known
    said = judging.measure(real.judge(DEVICE), x, DEVICE, real.facts)
    return said, known_images.columns(said, x, labels, sketch(torch.from_numpy(x)))


def test_a_train_image_is_its_own_nearest_and_explained_in_full(known):
    shards = Shards.open(known[0])
    x, labels = shards.pixels()[7:12], shards.labels()[7:12]
    _, found = asked(known, x, labels)
    assert found["nearest_copy"].tolist() == found["neighbours"][:, 0].tolist() == [7, 8, 9, 10, 11]
    assert found["copy_residual"] == pytest.approx(0, abs=1e-6)
    assert found["authenticity"] == pytest.approx(0, abs=1e-3)
    assert found["in_manifold"].all()
    assert (found["density"] > 0).all()
    assert set(originals.pixel_digests(x)) <= known[3].digests
    changed = x.copy()
    changed[:, 0, 0, 0] ^= 1
    assert not set(originals.pixel_digests(changed)) & known[3].digests


def test_what_is_far_from_all_train_images_is_not_in_their_manifold(known):
    x = np.zeros((2, 1, 8, 8), np.uint8)
    x[1] = 255
    _, found = asked(known, x, np.zeros(2, int))
    assert not found["in_manifold"].any()
    assert (found["density"] == 0).all()
    assert (found["realism"] < 1).all()
    assert (found["authenticity"] > 1).all()


def test_the_judges_words_are_those_of_the_measures(known):
    shards = Shards.open(known[1])
    x, labels = shards.pixels(), shards.labels()
    said, found = asked(known, x, labels)
    probs, y = torch.from_numpy(said.probabilities_NK), torch.from_numpy(labels)
    assert found["probability"].tolist() == said.probabilities_NK[np.arange(len(y)), labels].tolist()
    assert found["margin"].tolist() == margin(probs, y).tolist()
    assert found["entropy"].tolist() == entropy(probs).tolist()


def test_the_reference_keeps_every_measure_of_held_out_images_and_the_looks_of_all(known):
    shards = Shards.open(known[1])
    _, found = asked(known, shards.pixels(), shards.labels())
    real = known[2]
    for name in MEASURES:
        assert real.column("calibrate", name) == pytest.approx(found[name], nan_ok=True), name
        assert np.isnan(real.column("train", name)).all() == (name not in LOOKS)
    assert (real.column("calibrate", "sibling_residual") > 0).all()
    assert real.probabilities("train").shape == (60, 3)


def test_the_scale_is_real_train_against_held_out(known):
    scale = known[4]["scale"]
    assert scale["coverage"] > 0.8
    assert scale["class_balance"] == pytest.approx(1)
    assert 1 <= scale["inception_score"] <= 3


def test_a_copy_beside_another_train_image_is_named_after_the_one_it_copies(known):
    shards = Shards.open(known[0])
    x = np.roll(shards.pixels()[3:6], 1, axis=3)
    found = asked(known, x, shards.labels()[3:6])[1]
    assert found["nearest_copy"].tolist() == [3, 4, 5]
    assert found["copy_residual"] == pytest.approx(0, abs=1e-6)


def test_features_of_other_images_are_refused(known):
    _, held_out, real, *_ = known
    with pytest.raises(UserError, match="dvc repro calibrate"):
        Originals.open(held_out, real.ids("train"), real.features("train"))


def test_small_images_are_decoded_once_and_large_ones_are_themselves(known, monkeypatch):
    train, _, _, images, _ = known
    assert images.x_MCHW is images.sketch.thumbs_NCHW
    assert np.array_equal(images.x_MCHW.numpy(), Shards.open(train).pixels())
    smaller = images.sketch._replace(thumbs_NCHW=images.sketch.thumbs_NCHW[..., ::2, ::2])
    large = Originals(images.ids, images.features_MD, smaller, images.digests, images.shards)
    assert torch.equal(large.x_MCHW, images.x_MCHW)


def test_one_train_image_alone_is_enough(known):
    _, _, real, images, _ = known
    first = Sketch(*(part[:1] for part in images.sketch))
    alone = Originals(images.ids[:1], images.features_MD[:1], first, frozenset(), images.shards)
    x = Shards.open(known[1]).pixels()[:3]
    said = judging.measure(real.judge(DEVICE), x, DEVICE, real.facts)
    found = alone.columns(said, x, np.zeros(3, int), sketch(torch.from_numpy(x)))
    assert found["neighbours"].tolist() == [[0]] * 3
    assert not {"authenticity", "realism", "density"} & set(found)
