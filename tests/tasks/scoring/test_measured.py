"""Rows of what was measured are found in whichever shard they lie."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from tasks.scoring.measured import Thumbs, column


@pytest.fixture
def measured(tmp_path):
    """Shards of 3, 1 and 4 samples, thumbnails among other columns, and all thumbnails (8, 3, 2, 5)."""
    thumbs_NCHW = np.random.default_rng(0).integers(0, 256, (8, 3, 2, 5), np.uint8)
    paths = [tmp_path / f"measured-{n}.safetensors" for n in range(3)]
    for path, part in zip(paths, np.split(thumbs_NCHW, [3, 4]), strict=True):
        features_ND = np.ones((len(part), 7), np.float32)
        save_file({"features": features_ND, "thumbs": part, "a": np.zeros(5, np.uint8)}, path)
    return paths, thumbs_NCHW


@pytest.mark.parametrize("rows", [[0], [7], [5, 0, 3, 3, 2, 7], range(8), []])
def test_thumbnails_are_those_of_the_rows_in_their_order(measured, rows):
    paths, thumbs_NCHW = measured
    rows = np.array(rows, np.int64)
    assert np.array_equal(Thumbs(paths)(rows).numpy(), thumbs_NCHW[rows])
    assert np.array_equal(column(paths, "thumbs"), thumbs_NCHW)
