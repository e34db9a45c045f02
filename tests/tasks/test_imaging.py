"""Images of every mode and format become upright uint8 of one shape."""

import numpy as np
import pytest
from PIL import Image

from tasks import imaging
from tasks.errors import UserError
from tasks.imaging import decode, fit, thumbs
from tasks.params import PreprocessParams
from tasks.workers import cores, spread
from tests import pictures as p

BROWN = (200, 100, 50)


def flat(mode="RGB", colour=BROWN, size=(4, 6)):
    return Image.new(mode, size, colour)


def grey16(value):
    return Image.fromarray(np.full((3, 3), value, np.uint16))


def colours(data, channels=3):
    found = decode(data, channels).reshape(-1, channels)
    assert (found == found[0]).all()
    return found[0].tolist()


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff"])
@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (23, 15)), (6, (0, 23)), (8, (15, 0))])
def test_exif_orientation(kind, orientation, corner):
    image = flat(size=(16, 24), colour=(0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode(p.encoded(image, kind, exif=exif), 3)
    assert found.shape == ((16, 24, 3) if orientation in (6, 8) else (24, 16, 3))
    row, column = corner if orientation in (1, 3) else {6: (0, 23), 8: (15, 0)}[orientation]
    assert found[row, column].min() > 200
    assert (found > 128).all(-1).sum() == 64


def test_a_broken_exif_block_does_not_lose_the_image():
    assert decode(
        p.encoded(flat(), "jpeg", exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff"), 3
    ).shape == (6, 4, 3)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (p.encoded(flat().quantize(4)), list(BROWN)),
        (p.encoded(flat().quantize(4), transparency=0), [255] * 3),
        (p.encoded(flat("RGBA", (0, 0, 0, 0))), [255] * 3),
        (p.encoded(flat("RGBA", (0, 0, 0, 128))), [127] * 3),
        (p.encoded(flat("LA", (0, 128))), [127] * 3),
        (p.encoded(flat("L", 7), transparency=7), [255] * 3),
        (p.encoded(flat("L", 7)), [7] * 3),
        (p.encoded(flat("1", 1)), [255] * 3),
        (p.encoded(flat("CMYK", (55, 155, 205, 0)), "jpeg", quality=100), list(BROWN)),
        (p.encoded(flat().quantize(4), "gif", save_all=True, append_images=[flat("P", 0)]), list(BROWN)),
        (
            p.encoded(flat(), "webp", save_all=True, append_images=[flat("RGB", 0)], lossless=True),
            list(BROWN),
        ),
        (p.encoded(flat(), save_all=True, append_images=[flat("RGB", 0)]), list(BROWN)),
        (p.encoded(flat(), "mpo", save_all=True, append_images=[flat("RGB", 0)], quality=100), list(BROWN)),
        (p.encoded(flat(), "bmp"), list(BROWN)),
        (p.encoded(flat(), "ppm"), list(BROWN)),
        (p.encoded(flat(), "tiff"), list(BROWN)),
    ],
)
def test_modes_and_formats(data, expected):
    assert np.abs(np.subtract(colours(data), expected)).max() <= 1
    grey = np.dot(expected, [0.299, 0.587, 0.114])
    assert abs(colours(data, 1)[0] - grey) <= 1.5


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (p.encoded(grey16(65_535)), 255),
        (p.encoded(grey16(257 * 100)), 100),
        (p.encoded(grey16(300)), 1),
        (p.encoded(grey16(257 * 100), "tiff"), 100),
        (b"P5 2 2 65535\n" + (257 * 9).to_bytes(2, "big") * 4, 9),
        (b"P5 2 2 1000\n" + (500).to_bytes(2, "big") * 4, 128),
        (p.encoded(Image.fromarray(np.full((3, 3), 0.5, np.float32)), "tiff"), 128),
        (p.encoded(Image.fromarray(np.full((3, 3), np.nan, np.float32)), "tiff"), 0),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_scaled_not_cut(data, expected, channels):
    assert colours(data, channels) == [expected] * channels


def test_an_image_of_the_right_size_is_left_as_it_is():
    image = decode(p.picture(1), 3)
    for how in ("cover", "contain"):
        assert (np.moveaxis(fit(image, 16, how), 0, -1) == image).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (9, 7), (37, 100), (300, 200), (3, 90_000)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("how", ["cover", "contain"])
def test_every_shape_is_fitted(shape, channels, how):
    image = np.full((*shape, channels), 200, np.uint8)
    found = fit(image, 32, how)
    assert found.shape == (channels, 32, 32)
    assert found.dtype == np.uint8
    assert found.max() == 200
    if how == "cover":
        assert found.min() == 200


def test_cover_keeps_the_middle_and_contain_keeps_all():
    image = np.zeros((40, 80, 1), np.uint8)
    image[:, :20], image[:, 20:60], image[:, 60:] = 50, 150, 250
    assert set(np.unique(fit(image, 20, "cover"))) == {150}
    found = fit(image, 20, "contain")[0]
    assert found[10, 0] == 50
    assert found[10, 19] == 250
    assert (found[:5] == 0).all()
    assert (found[-5:] == 0).all()


def test_shrinking_averages_instead_of_aliasing():
    stripes = np.zeros((64, 64, 1), np.uint8)
    stripes[:, ::2] = 255
    found = fit(stripes, 8, "cover")
    assert found.min() >= 127
    assert found.max() <= 128


@pytest.mark.parametrize("size", [8, 9, 28, 100])
def test_thumbs_are_averages(size):
    x = np.random.default_rng(0).integers(0, 256, (5, 3, size, size), dtype=np.uint8)
    found = thumbs(x)
    assert found.shape == (5, 81)
    assert np.abs(found.mean(1) - x.mean((1, 2, 3))).max() < 12
    for image, row in zip(x, found, strict=True):
        grey = Image.fromarray(image.mean(0).astype(np.uint8))
        box = np.asarray(grey.resize((9, 9), Image.Resampling.BOX), int).reshape(-1)
        assert size % 9 or np.abs(box - row).max() <= 2


def test_the_spool_is_in_order_of_ids_whatever_the_workers(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.workers.MANY", 0)
    monkeypatch.setattr("tasks.imaging.BATCH_IMAGES", 3)
    raw = p.ingested(p.write(tmp_path / "in", p.classes(5)), tmp_path / "raw", shard_size=4)
    params = PreprocessParams(size=16, channels=3)
    one, two = (imaging.spool(raw, tmp_path / f"{n}", params, n) for n in (1, 2))
    spools = [imaging.Spool(one), imaging.Spool(two)]
    assert spools[0].rows.equals(spools[1].rows)
    assert spools[0].rows["id"].to_pylist() == sorted(spools[0].rows["id"].to_pylist())
    assert (spools[0].pixels(np.arange(10)) == spools[1].pixels(np.arange(10))).all()


def test_nothing_that_can_be_prepared(tmp_path, monkeypatch):
    raw = p.ingested(p.write(tmp_path / "in", p.classes(3)), tmp_path / "raw")

    def fail(*_):
        raise SyntaxError("broken PNG")

    monkeypatch.setattr("tasks.imaging.decode", fail)
    with pytest.raises(UserError, match="none of 6 images"):
        imaging.spool(raw, tmp_path / "spool", PreprocessParams(), 1)


def double(batch):
    return [2 * n for n in batch]


@pytest.mark.parametrize("workers", [1, 2, None])
def test_work_is_spread_in_order(workers, monkeypatch):
    monkeypatch.setattr("tasks.workers.MANY", 20)
    for batches in ([], [[1]], [[n] for n in range(50)]):
        found = list(spread(double, iter(batches), len(batches), workers))
        assert found == [double(b) for b in batches]


def test_cores():
    assert cores(3) == 3
    assert cores(None) >= 1
