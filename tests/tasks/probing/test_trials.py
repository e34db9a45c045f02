import shutil

import numpy as np
import pyarrow as pa
import pytest

from tasks.errors import UserError
from tasks.probing.trials import soft_labels
from tests import making
from tests.tasks.probing.sets import gathered


def test_scores_of_other_samples_are_refused(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "data")
    (copy / "scores/shard-00001.parquet").unlink()
    shutil.copy(copy / "scores/shard-00002.parquet", copy / "scores/shard-00001.parquet")
    with pytest.raises(UserError, match="other samples"):
        gathered(copy)


def test_splits_of_other_classes_are_refused(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "data")
    shutil.rmtree(copy / "real/test")
    making.real(copy / "real/test", 4, 3, ["a", "b"])
    with pytest.raises(UserError, match="2 classes"):
        gathered(copy)


def test_soft_labels_add_up_to_one_again(splits):
    stored = np.float16([[0.9995, 0.0005, 0.0001], [0.3333, 0.3333, 0.3333]])
    column = pa.chunked_array([pa.array([row], pa.list_(pa.float16())) for row in stored])
    found = soft_labels(column)
    assert found.dtype == np.float32
    assert found.sum(1) == pytest.approx(1, abs=1e-6)
    assert found[1] == pytest.approx(1 / 3)
    assert splits.probabilities.shape == (60, 3)
    assert splits.probabilities[7].tolist() == [0.5, 0.25, 0.25]


def test_scores_without_probabilities_have_no_soft_labels():
    assert soft_labels(pa.chunked_array([pa.nulls(3, pa.list_(pa.float16()))])) is None
    assert soft_labels(pa.chunked_array([[]], pa.list_(pa.float16()))) is None
