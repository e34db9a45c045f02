import numpy as np
import pytest
import torch
from torch_fidelity.utils import create_feature_extractor

from models import extractors, features

pytest.importorskip("efficientnet_lite_pytorch")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (3, 3, 32, 32), dtype=np.uint8))


def test_features_are_those_that_torch_fidelity_finds_under_the_registered_name(images):
    ours = extractors.extract(extractors.load("efficientnet_lite0", CPU), [images], CPU)
    theirs = create_feature_extractor("efficientnet-lite0", ["pooled"], cuda=False)(images)[0]
    assert ours.shape == (3, 1280)
    torch.testing.assert_close(ours, theirs)


def test_they_are_the_packages_own_pooled_features(images):
    network = features.network(CPU)
    x = images.float() / 127.5 - 1
    x = torch.nn.functional.interpolate(x, (224, 224), mode="bilinear", antialias=True)
    logits = network._fc(extractors.extract(extractors.load("efficientnet_lite0", CPU), [images], CPU))
    torch.testing.assert_close(logits, network(features.normalised(x)), rtol=1e-3, atol=1e-4)


def test_grey_images_and_any_batches_will_do(images):
    network = extractors.load("efficientnet_lite0", CPU)
    grey = images[:, :1]
    whole = extractors.extract(network, [grey], CPU)
    torch.testing.assert_close(whole, extractors.extract(network, grey.split(1), CPU), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(whole, extractors.extract(network, [grey.expand(-1, 3, -1, -1)], CPU))


def test_every_name_is_registered_with_its_layer():
    for registered, layer in extractors.LAYERS.values():
        kind = extractors.FEATURE_EXTRACTORS_REGISTRY[registered]
        assert layer in kind.get_provided_features_list()
