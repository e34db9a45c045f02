import pytest
import torch

from benchmarks import contest
from tasks import judging, originals
from tasks.params import CalibrateParams
from tasks.shards import seal
from tests import making
from tests.benchmarks.benches import bench


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("benchmarks")
    for split, each, seed in (("train", 8, 1), ("calibrate", 8, 2), ("test", 8, 3)):
        making.real(root / "real" / split, each, seed)
    (root / "reference").mkdir()
    train, calibrate = root / "real/train", root / "real/calibrate"
    device = bench(root).device
    judging.fit_judge(train, CalibrateParams(images=400, batch=20), device, root / "reference")
    originals.measure_real(train, calibrate, device, root / "reference")
    seal(root / "reference")
    return root


@pytest.fixture
def copied(monkeypatch):
    """Contestants that need no training: they draw the real images again."""

    class Copy:
        SAMPLING = frozenset()

        def sample(self, y_B, seeds_B):

            return torch.from_numpy(making.pictures(y_B.numpy(), seeds_B[0] % 2**32)), None

    trained = []

    def train(self, name, lr, minutes):
        trained.append((name, lr, minutes))
        return contest.Trained(Copy(), self.device, 7, 320, "copied")

    monkeypatch.setattr(contest.Bench, "train", train)
    return trained
