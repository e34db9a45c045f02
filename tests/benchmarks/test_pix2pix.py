import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import pix2pix
from tasks.batches import Pool
from tests import making
from tests.benchmarks.benches import bench


@pytest.fixture
def conditioned(data, tmp_path):
    """The bench's data, with conditions."""
    for split, each, seed in (("train", 8, 1), ("calibrate", 8, 2), ("test", 8, 3)):
        making.real(tmp_path / "data/real" / split, each, seed, condition=True)
    (tmp_path / "data/reference").symlink_to(data / "reference")
    return tmp_path / "data"


def test_answers_are_measured_beside_one_colour_and_an_l1_network(conditioned, tmp_path, monkeypatch, capsys):
    small = bench(conditioned).params.model_copy(update={"families": {"pix2pix": {"width": 16}}})
    monkeypatch.setattr(pix2pix, "read", lambda path: small)
    monkeypatch.setattr(pix2pix, "SIDE", 8)
    asked = ["--data", str(conditioned), "--images", "1600", "--seeds", "1", "--name", "bars"]
    asked += ["--results", str(tmp_path)]
    pix2pix.main(asked)
    found = json.loads((tmp_path / "pix2pix-bars.json").read_text())
    assert list(found) == ["train images", "mean colour", "L1 alone", "pix2pix"]
    plain, blurred, sharp = (found[name]["per_seed"][0] for name in list(found)[1:])
    assert 10 < plain["psnr"] < 20
    assert blurred["psnr"] > plain["psnr"] + 1  # it knows where rows are bright
    assert blurred != sharp
    grid = np.asarray(Image.open(io.BytesIO((tmp_path / "grids/bars-pix2pix.png").read_bytes())))
    assert grid.shape == (8 * (2 + pix2pix.AGAIN), 8 * pix2pix.COLUMNS, 3)
    assert set(np.unique(grid[:8])) == {0, 255}
    assert (grid[8:16] != grid[16:24]).any()  # answers to one condition vary
    table = capsys.readouterr().out
    assert f"| pix2pix | {sharp['psnr']:.2f} | {sharp['ssim']:.3f} |" in table
    assert (
        f"| train images | - | - | - | {found['train images']['per_seed'][0]['frechet_distance']:.1f} |"
        in table
    )
    monkeypatch.setattr(pix2pix, "row", str)  # finished rows are not made again
    pix2pix.main(asked)


def test_every_test_image_is_answered_by_its_class_and_number(conditioned, monkeypatch):
    class Told:
        def sample(self, y_B, seeds_B, sources):
            return torch.stack([y_B, torch.tensor(seeds_B)], 1), None

    monkeypatch.setattr(pix2pix, "BATCH", 10)
    pool, device = Pool.open(conditioned / "real/test"), bench(conditioned).device
    told = pix2pix.answered(Told(), pool, device)
    assert told[:, 0].tolist() == pool.labels.tolist()
    assert told[:, 1].tolist() == list(range(24))


def test_images_without_a_condition_are_refused(data, tmp_path, monkeypatch):
    monkeypatch.setattr(pix2pix, "read", lambda path: bench(data).params)
    with pytest.raises(SystemExit) as caught:
        pix2pix.main(["--data", str(data), "--results", str(tmp_path)])
    assert "Set preprocess.condition to edges" in str(caught.value)
