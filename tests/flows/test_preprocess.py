"""The preprocess flow: from sealed raw images to three sealed splits."""

import pytest

from flows.preprocess import preprocess
from tasks.errors import UserError
from tasks.params import Machine, PreprocessParams
from tasks.shards import Shards, read_index
from tests import pictures as p

pytestmark = pytest.mark.usefixtures("prefect")


def test_preprocess(tmp_path):
    raw = p.ingested(p.write(tmp_path / "in", p.classes(10)), tmp_path / "raw")
    out = preprocess(PreprocessParams(size=16), raw, tmp_path / "data/real", Machine(workers=1))
    assert sorted(f.name for f in out.iterdir()) == [
        "calibrate",
        "index.json",
        "rejects.parquet",
        "test",
        "train",
    ]
    assert read_index(out)["images"] == {"train": 14, "calibrate": 2, "test": 4}
    assert Shards.open(out / "train").shape == (1, 16, 16)
    assert Shards.open(out / "train").pixels().shape == (14, 1, 16, 16)


def test_too_few_images_leave_no_out(tmp_path):
    raw = p.ingested(p.write(tmp_path / "in", p.classes(2)), tmp_path / "raw")
    with pytest.raises(UserError, match=r"preprocess\.split"):
        preprocess(PreprocessParams(size=16), raw, tmp_path / "data/real")
    assert not (tmp_path / "data/real").exists()


def test_an_unsealed_input_is_refused(tmp_path):
    (tmp_path / "raw").mkdir()
    with pytest.raises(UserError, match="not sealed"):
        preprocess(PreprocessParams(), tmp_path / "raw", tmp_path / "data/real")
