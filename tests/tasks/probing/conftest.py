import pytest

from tasks.device import Device, prepare
from tasks.params import Machine
from tests import making
from tests.tasks.probing.sets import gathered


@pytest.fixture(scope="module")
def device() -> Device:
    return prepare(Machine(device="cpu", threads=1), "fp32")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return making.stages(tmp_path_factory.mktemp("probing") / "data")


@pytest.fixture(scope="module")
def splits(data):
    return gathered(data)
