"""How near one image comes to another, held against the papers' formulas written out."""

import math

import pytest
import torch

from models import features
from models.fidelity import fidelity, psnr, ssim


@pytest.mark.parametrize("most", [1, 200, 10_000])
def test_how_many_pairs_are_compared_at_once_changes_nothing(most, monkeypatch):
    x, y = pairs(count=7)
    expected = fidelity(x, y)
    monkeypatch.setattr("models.fidelity.PIXELS", most)
    for name, found in fidelity(x, y).items():
        torch.testing.assert_close(found, expected[name])
    assert len(fidelity(x[:0], y[:0])["psnr"]) == 0


def pairs(size=14, channels=1, count=3):
    generator = torch.Generator().manual_seed(size)
    x = torch.randint(0, 256, (count, channels, size, size), generator=generator)
    noise = torch.randint(-40, 41, x.shape, generator=generator)
    return x.to(torch.uint8), (x + noise).clamp(0, 255).to(torch.uint8)


def transcribed(x_HW, y_HW):
    """Wang et al. 2004, eq. 13, at every place where the whole window fits; plain sums."""
    side = min(11, len(x_HW)) // 2 * 2 - 1 if min(11, len(x_HW)) % 2 == 0 else min(11, len(x_HW))
    middle = side // 2
    weight = [
        [math.exp(-((i - middle) ** 2 + (j - middle) ** 2) / (2 * 1.5**2)) for j in range(side)]
        for i in range(side)
    ]
    whole = sum(map(sum, weight))
    found = []
    for top in range(len(x_HW) - side + 1):
        for left in range(len(x_HW) - side + 1):
            mean_x = mean_y = square_x = square_y = product = 0.0
            for i in range(side):
                for j in range(side):
                    w, a, b = weight[i][j] / whole, x_HW[top + i][left + j], y_HW[top + i][left + j]
                    mean_x, mean_y = mean_x + w * a, mean_y + w * b
                    square_x, square_y, product = (
                        square_x + w * a * a,
                        square_y + w * b * b,
                        product + w * a * b,
                    )
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            var_x, var_y = square_x - mean_x**2, square_y - mean_y**2
            found.append(
                (2 * mean_x * mean_y + c1) * (2 * (product - mean_x * mean_y) + c2)
                / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
            )  # fmt: skip
    return sum(found) / len(found)


@pytest.mark.parametrize("size", [8, 14])
def test_ssim_is_what_the_paper_says(size):
    x, y = pairs(size)
    told = [transcribed(a[0].tolist(), b[0].tolist()) for a, b in zip(x, y, strict=True)]
    assert ssim(x, y).tolist() == pytest.approx(told, abs=1e-5)
    assert all(0 < value < 1 for value in told)


def test_colours_are_taken_each_by_itself():
    x, y = pairs(channels=3)
    each = torch.stack([ssim(x[:, c : c + 1], y[:, c : c + 1]) for c in range(3)]).mean(0)
    assert torch.allclose(ssim(x, y), each)


def test_psnr_is_in_decibels():
    x = torch.full((2, 1, 8, 8), 100, dtype=torch.uint8)
    y = x.clone()
    y[0] += 10
    assert psnr(x, y).tolist() == pytest.approx([20 * math.log10(25.5), 100.0])


def test_an_image_is_itself():
    x, _ = pairs(channels=3)
    found = fidelity(x, x)
    assert list(found) == ["psnr", "ssim", "perceptual_distance"]
    assert found["ssim"].tolist() == pytest.approx([1.0] * 3)
    assert found["perceptual_distance"].tolist() == [0.0] * 3


def test_without_the_packages_the_perceptual_distance_is_left_out(monkeypatch):
    monkeypatch.setattr(features, "find_spec", lambda name: None)
    assert list(fidelity(*pairs())) == ["psnr", "ssim"]
