"""Masks become maps of ids by the rule in params, cropped as their images are, or are put aside."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from tasks.errors import UserError
from tasks.imaging import fit
from tasks.masks import Unmapped, mapped, read
from tasks.params import PreprocessParams
from tasks.params.values import Mask
from tasks.shards import Shards
from tests.pictures import encoded, ingested, made, preprocessed, rejects, write

IDS = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
RGB = np.array([[10, 20, 30], [255, 0, 0], [0, 0, 255]], np.uint8)
COLOURS = ["#0a141e", "FF0000", "0000ff"]


def grey(values):
    return encoded(Image.fromarray(np.asarray(values, np.uint8)))


def palette(ids, colours=RGB):
    image = Image.fromarray(ids).convert("L")
    image.putpalette(colours.ravel().tolist())
    return encoded(image)


def ids_of(data, **rule):
    mask = Mask(**rule)
    return mapped(read(data, mask), mask)[..., 0].tolist()


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (grey(IDS), {"ids": 3}),
        (palette(IDS), {"ids": 3}),
        (encoded(Image.fromarray(IDS).convert("RGB")), {"ids": 3}),
        (encoded(Image.fromarray(IDS.astype(np.uint16))), {"ids": 3}),
        (grey(np.array([7, 255, 0])[IDS]), {"values": [7, 255, 0]}),
        (encoded(Image.fromarray(np.array([7, 900, 0], np.uint16)[IDS])), {"values": [7, 900, 0]}),
        (encoded(Image.fromarray(RGB[IDS])), {"colours": COLOURS}),
        (palette(IDS), {"colours": COLOURS}),
        (palette(2 - IDS, RGB[::-1].copy()), {"colours": COLOURS}),
    ],
)
def test_each_rule_finds_the_ids(data, rule):
    assert ids_of(data, **rule) == IDS.tolist()


def test_a_threshold_takes_any_grey():
    assert ids_of(grey([[0, 9, 127, 128, 255]]), threshold=128) == [[0, 0, 0, 1, 1]]
    bits = encoded(Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1"))
    assert ids_of(bits, threshold=128) == ids_of(bits, ids=2) == [[0, 1]]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.booleans())
def test_what_is_stored_as_ids_is_read_as_those_ids(ids, with_palette):
    row = np.array([ids], np.uint8)
    data = palette(row, np.random.default_rng(0).integers(0, 256, (21, 3))) if with_palette else grey(row)
    assert ids_of(data, ids=21) == [ids]


@pytest.mark.parametrize(
    ("data", "rule", "reason", "words"),
    [
        (grey([[0, 1, 255]]), {"ids": 2}, "unknown_id", "holds 255, which preprocess.mask"),
        (grey([[0, 9, 13, 16, 18, 255]]), {"values": [0, 255]}, "unknown_id", "9, 13, 16 and 1 more"),
        (encoded(Image.fromarray(RGB[IDS])), {"ids": 3}, "unknown_id", "preprocess.mask.colours"),
        (palette(IDS), {"colours": COLOURS[:2]}, "unknown_colour", "holds 0000ff, which"),
    ],
)
def test_what_the_rule_does_not_name_is_told(data, rule, reason, words):
    with pytest.raises(Unmapped) as told:
        ids_of(data, **rule)
    assert told.value.reason == reason
    assert words in str(told.value)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({}, "give one of"),
        ({"ids": 2, "threshold": 9}, "give one of"),
        ({"values": [1, 1]}, "twice"),
        ({"colours": ["#FF0000", "ff0000"]}, "twice"),
        ({"colours": ["red", "blue"]}, "colours"),
        ({"ids": 1}, "ids"),
    ],
)
def test_a_rule_that_says_nothing_clear_is_refused(rule, words):
    with pytest.raises(ValidationError, match=words):
        Mask(**rule)


def test_a_rule_without_masks_is_refused():
    with pytest.raises(ValidationError, match="set condition to paired"):
        PreprocessParams(condition="edges", mask={"threshold": 9})


def square(seed, height, width):
    """A dark photograph with a bright square, and where that is."""
    rng = np.random.default_rng(seed)
    top, left = rng.integers(0, (height - 40, width - 40))
    mask = np.zeros((height, width), np.uint8)
    mask[top : top + 40, left : left + 40] = 1
    return Image.fromarray(mask * 200 + rng.integers(0, 30, (height, width), dtype=np.uint8)), mask


def squares(each=5, height=150, width=250):
    files = {}
    for n in range(2 * each):
        image, mask = square(n, height, width)
        files[f"{'ab'[n % 2]}{n % 2}/{n}.jpg"] = encoded(image, "jpeg", quality=95)
        files[f"{'ab'[n % 2]}{n % 2}/{n}.png"] = grey(mask)
    return files


@pytest.mark.parametrize("how", ["cover", "contain"])
def test_a_mask_stays_on_what_it_marks(tmp_path, how):
    """The photographs are JPEGs so large that they could be decoded smaller."""
    real = made(
        tmp_path, squares(), ingest={"pairs": "stem"}, size=30, channels=1, fit=how, near_duplicates=False,
        condition="paired", mask={"ids": 2},
    )  # fmt: skip
    bright = marked = both = 0
    for split in ("train", "calibrate", "test"):
        shards = Shards.open(real / split)
        assert shards.condition == {"name": "paired", "channels": 2, "ids": 2}
        image, ids = shards.pixels()[:, 0] > 115, shards.pixels("condition")[:, 0]
        assert set(np.unique(ids)) <= {0, 1}
        bright, marked, both = bright + image.sum(), marked + ids.sum(), both + (image & (ids == 1)).sum()
    assert both > 0.95 * max(bright, marked)  # with each cell's first pixel, not its middle: 0.91 and 0.82


@pytest.mark.parametrize("how", ["cover", "contain"])
@pytest.mark.parametrize("shape", [(70, 90), (9, 7)])
def test_resizing_makes_no_id_that_was_not_there(how, shape):
    ids_HWC = np.random.default_rng(0).choice(np.array([0, 7, 20], np.uint8), (*shape, 1))
    assert set(np.unique(fit(ids_HWC, 16, how, ids=True))) == {0, 7, 20}
    assert len(np.unique(fit(ids_HWC, 16, how))) > 3


def test_halves_may_hold_a_mask(tmp_path):
    files = {}
    for n in range(10):
        image, mask = square(n, 64, 64)
        whole = np.concatenate([RGB[mask], np.asarray(image.convert("RGB"))], axis=1)
        files[f"{'xy'[n % 2]}/{n}.png"] = encoded(Image.fromarray(whole))
    real = made(
        tmp_path, files, ingest={"pairs": "left_to_right"}, size=64, near_duplicates=False,
        condition="paired", mask={"colours": COLOURS[:2]},
    )  # fmt: skip
    train = Shards.open(real / "train")
    assert ((train.pixels()[:, 0] > 115) == train.pixels("condition")[:, 0]).all()


def test_a_mask_that_the_rule_does_not_map_is_put_aside_with_its_image(tmp_path):
    files = squares(height=60, width=60)
    odd = np.asarray(Image.open(io.BytesIO(files["a0/0.png"]))) * 255
    files["a0/0.png"] = grey(odd)
    raw = ingested(write(tmp_path / "in", files), tmp_path / "raw", pairs="stem")
    rule = {"condition": "paired", "mask": {"ids": 2}, "near_duplicates": False}
    real = preprocessed(raw, tmp_path / "real", **rule)
    assert rejects(real) == {"a0/0.jpg": "unknown_id"}
    (row,) = pq.read_table(real / "rejects.parquet").to_pylist()
    assert "holds 255" in row["detail"]
    files |= {
        name: grey(np.full((60, 60), 9)) for name in files if name.startswith("a0/") and name.endswith("png")
    }
    with pytest.raises(
        UserError, match=r"(?s)'a0' has no image.*5 more were rejected, the first as unknown_id: the"
    ):
        made(tmp_path, files, "all", {"pairs": "stem"}, **rule)
    with pytest.raises(UserError, match=r"(?s)none of 10 images.*Look at preprocess\.mask"):
        preprocessed(raw, tmp_path / "none", **{**rule, "mask": {"values": [3, 4]}})
