import pytest

from tasks import fitting, judging, originals, watchdog
from tasks.params import CalibrateParams
from tests import making
from tests.tasks.fitting.training import DEVICE


@pytest.fixture(autouse=True)
def _small_draws(monkeypatch):
    monkeypatch.setattr(fitting, "EXAMINED", 80)


def _calibrated(root, classes):
    train = making.real(root / "train", 10, seed=1, classes=classes, condition=True)
    held_out = making.real(root / "calibrate", 10, seed=2, classes=classes, condition=True)
    reference = root / "reference"
    reference.mkdir()
    judging.fit_judge(train, CalibrateParams(images=1_500, batch=32, precision="fp32"), DEVICE, reference)
    originals.measure_real(train, held_out, DEVICE, reference)
    return train, reference


@pytest.fixture(scope="session")
def labelled(tmp_path_factory):
    """A real train split, and the judge's reference folder."""
    return _calibrated(tmp_path_factory.mktemp("labelled"), making.CLASSES)


@pytest.fixture(scope="session")
def unlabelled(tmp_path_factory):
    """The same without labels."""
    return _calibrated(tmp_path_factory.mktemp("unlabelled"), [])


@pytest.fixture(autouse=True)
def _no_early_steps(monkeypatch):
    monkeypatch.setattr(watchdog, "EARLY", 0)


@pytest.fixture
def unhurried(monkeypatch):
    """So short a training shows no classes yet: ask for none, and for no metric within its bounds."""
    monkeypatch.setattr(watchdog, "SETTLED", 2.0)
    monkeypatch.setattr(watchdog, "GRACE", 2.0)
