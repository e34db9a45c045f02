import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.appearance import appearance


@pytest.fixture
def photo():
    """A smooth scene with an edge: (1, 3, 24, 24)."""
    y, x = np.mgrid[:24, :24]
    grey = 60 + 4 * x + 40 * (y > 11)
    return torch.from_numpy(np.broadcast_to(grey, (1, 3, 24, 24)).astype(np.uint8).copy())


def test_a_plain_image_is_blank_and_flat():
    found = appearance(torch.full((2, 1, 8, 8), 255, dtype=torch.uint8))
    assert found["brightness"].tolist() == [1, 1]
    assert found["contrast"].tolist() == found["sharpness"].tolist() == [0, 0]
    assert found["blank"].tolist() == found["saturated"].tolist() == [1, 1]


def test_measures_against_direct_transcriptions(photo):
    found = {name: float(value[0]) for name, value in appearance(photo).items()}
    grey = photo[0].float().mean(0).numpy()
    assert found["brightness"] == pytest.approx(grey.mean() / 255, rel=1e-5)
    assert found["contrast"] == pytest.approx(grey.std() / 255, rel=1e-5)
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    laplacian = F.conv2d(torch.from_numpy(grey)[None, None], kernel)
    assert found["sharpness"] == pytest.approx(float(laplacian.var(correction=0)) / grey.var(), rel=1e-4)
    # Along x neighbours differ by exactly 4, so all but the two rows at the edge are plain.
    assert found["blank"] == pytest.approx(22 / 24)


def test_sharpness_falls_with_blur_rises_with_noise_and_does_not_know_contrast(photo):
    rng = torch.Generator().manual_seed(0)
    noise = torch.randint(-40, 41, photo.shape, generator=rng)
    noisy = (photo.int() + noise).clamp(0, 255).to(torch.uint8)
    blurred = F.avg_pool2d(photo.float(), 5, 1, 2, count_include_pad=False).to(torch.uint8)
    weak = (photo // 2 + 64).to(torch.uint8)
    sharp, grain, soft, faint = (float(appearance(x)["sharpness"][0]) for x in (photo, noisy, blurred, weak))
    assert soft < sharp / 3
    assert grain > 10 * sharp
    assert faint == pytest.approx(sharp, rel=0.2)


def test_batches_do_not_matter(photo):
    stack = torch.cat([photo, photo.flip(2), 255 - photo])
    for name, values in appearance(stack).items():
        alone = torch.cat([appearance(x[None])[name] for x in stack])
        torch.testing.assert_close(values, alone)
