import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from models import likeness as L


@pytest.fixture(scope="module")
def digits():
    """Two hundred real digits at 32 x 32: (200, 1, 32, 32) uint8."""
    x = torch.from_numpy(load_digits().images[:200]).float()[:, None] * 15.9375
    big = torch.nn.functional.interpolate(x, (32, 32), mode="bilinear")
    return big.round().clamp(0, 255).to(torch.uint8)


def saved(x_NCHW, quality):
    found = []
    for image in x_NCHW.numpy():
        buffer = io.BytesIO()
        Image.fromarray(image[0]).save(buffer, "jpeg", quality=quality)
        found.append(np.asarray(Image.open(buffer))[None])
    return torch.from_numpy(np.stack(found))


CHANGES = {
    "same": lambda x: x,
    "shifted": lambda x: x.roll((1, -1), (2, 3)),
    "mirrored": lambda x: x.flip(3),
    "brighter": lambda x: (x.int() * 3 // 4 + 50).clamp(0, 255).to(torch.uint8),
    "noisy": lambda x: (x + 8 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)))
    .round().clamp(0, 255).to(torch.uint8),
    "saved": lambda x: saved(x, 60),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_nearer_than_the_likest_strangers(digits, change):
    again = CHANGES[change](digits)
    copies = L.residual(again, digits)
    nearest = torch.cdist(L.rough(digits), L.rough(digits)).fill_diagonal_(torch.inf).argmin(1)
    strangers = L.residual(digits, digits[nearest])
    assert copies.max() < strangers.min()


@pytest.mark.parametrize("change", CHANGES)
def test_a_signature_finds_the_original(digits, change):
    nearest = torch.cdist(L.signature(CHANGES[change](digits)), L.signature(digits)).argmin(1)
    assert (nearest == torch.arange(len(digits))).double().mean() >= 0.99


def test_signatures_do_not_know_place_mirror_or_light(digits):
    plain = L.signature(digits)
    assert plain.norm(dim=1).tolist() == pytest.approx([1.0] * len(digits), abs=1e-5)
    for other in (digits.roll((3, -2), (2, 3)), digits.flip(3), (digits // 2 + 20)):
        assert (L.signature(other) - plain).norm(dim=1).max() < 0.02


def test_residual_of_strangers_is_told_by_their_correlation():
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randint(0, 256, (1, 1, 8, 8), generator=rng).to(torch.uint8) for _ in range(2))
    best = 2.0
    core = a[0, 0, 1:-1, 1:-1].double().flatten()
    for seen in (b, b.flip(3)):
        for dy in range(3):
            for dx in range(3):
                window = seen[0, 0, dy : dy + 6, dx : dx + 6].double().flatten()
                r = torch.corrcoef(torch.stack([core, window]))[0, 1]
                best = min(best, float((2 - 2 * r).sqrt()))
    assert float(L.residual(a, b)[0]) == pytest.approx(best, rel=1e-4)


def test_two_plain_images_are_alike_however_bright():
    a, b = torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.full((1, 1, 8, 8), 200, dtype=torch.uint8)
    assert float(L.residual(a, b)[0]) == 0


def test_large_images_are_made_small_and_small_ones_kept():
    x = torch.randint(0, 256, (2, 3, 96, 64)).to(torch.uint8)
    small = L.thumbnails(x)
    assert small.shape == (2, 3, 32, 32)
    expected = x.float().unflatten(2, (32, 3)).unflatten(4, (32, 2)).mean((3, 5)).round()
    assert (small.float() - expected).abs().max() <= 1
    assert L.thumbnails(small) is small


def test_nothing_to_measure_is_no_error():
    none = torch.zeros(0, 1, 8, 8, dtype=torch.uint8)
    assert L.signature(none).shape == (0, 66)
    assert L.rough(none).shape == (0, 64)
    assert L.residual(none, none).shape == (0,)
