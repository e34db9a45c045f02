"""Several processes train as one does: the same losses but for rounding, one writer, and plain errors."""

from dataclasses import replace
from multiprocessing import get_context
from types import SimpleNamespace

import pytest
import torch
from lightning_fabric.plugins.environments.lightning import find_free_network_port

from tasks import fitting
from tasks.device import PLACE
from tasks.errors import UserError
from tasks.fitting import together
from tasks.fitting.together import Rows, alone, launch
from tasks.fitting.training import Training
from tests.tasks.fitting.training import DEVICE, learners, narrow, params, rows, train

TWO = replace(DEVICE, processes=2)
STEPS = 50


def losses(fabric, real):
    """The losses of so many steps of every family, as the process that writes tells them."""
    told = {}
    for family in learners():
        given = params(family, images=16 * STEPS)
        training = Training(real, given, narrow(family), DEVICE, fabric)
        told[family] = [training.step()["loss"] for _ in range(STEPS)]
    return told


@pytest.fixture(scope="module")
def both(labelled):
    return losses(alone(DEVICE), labelled[0]), launch(losses, TWO, labelled[0])


@pytest.mark.parametrize("family", learners())
def test_two_processes_have_the_losses_of_one(both, family):
    one, two = both
    # Its discriminator makes more of a last digit with every step.
    # Style's network, deep and frozen, makes far more of it: tenfold every other step.
    alike = 6 if family == "style" else STEPS
    assert two[family][:alike] == pytest.approx(
        one[family][:alike], rel=1e-3 if family == "pix2pix" else 1e-4
    )


def parts(draw, rank, rows=4):
    torch.manual_seed(5)
    with Rows(SimpleNamespace(world_size=3, global_rank=rank), rows):
        return draw()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_rows_are_those_of_the_whole_draw(layout):
    whole = torch.zeros(12, 3, 4, 4).contiguous(memory_format=layout)
    likely = torch.linspace(0, 1, 12)[:, None].expand(12, 7).contiguous()
    for drawn, own in (
        (lambda n: torch.randn(n, device="cpu"), None),
        (lambda n: torch.rand(n, 5), None),
        (lambda n: torch.rand((n, 1, 1)), None),
        (lambda x: torch.randn_like(x), whole),
        (lambda x: torch.rand_like(x), whole),
        (lambda x: torch.bernoulli(x), likely),
    ):
        torch.manual_seed(5)
        expected = drawn(12 if own is None else own)
        for rank in range(3):
            mine = slice(4 * rank, 4 * rank + 4)
            given = 4 if own is None else own[mine]
            found = parts(lambda d=drawn, g=given: d(g), rank)
            assert torch.equal(found, expected[mine])
    assert torch.equal(parts(lambda: torch.randn(6), 0), parts(lambda: torch.randn(6), 1))


def on_machines(given, monkeypatch):
    """Train on two machines, each a process with an environment of its own, that share a file system."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(find_free_network_port()))
    machines = []
    for rank in (1, 0):
        monkeypatch.setenv("NODE_RANK", str(rank))
        machines.append(get_context("spawn").Process(target=fitting.fit, args=given))
        machines[-1].start()
    for machine in machines:
        machine.join()
        assert machine.exitcode == 0
    return given[0]


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.usefixtures("unhurried")
def test_one_of_two_processes_writes_the_checkpoint(tmp_path, labelled, monkeypatch, nodes):
    (tmp_path / "two").mkdir()
    real, reference = labelled
    device = replace(TWO, nodes=nodes)
    given = (real, real.with_name("calibrate"), reference, params("vae"), narrow("vae"), device)
    if nodes == 2:
        out = on_machines((tmp_path / "two", *given), monkeypatch)
    else:
        out = fitting.fit(tmp_path / "two", *given)
    one = train(tmp_path / "one", *labelled, "vae")
    assert sorted(p.name for p in out.rglob("*")) == sorted(p.name for p in one.rglob("*"))
    told = [[float(row["loss"]) for row in rows(folder / "loss.csv")] for folder in (out, one)]
    assert told[0] == pytest.approx(told[1], rel=1e-3)
    assert '"processes": "2"' in (out / "checkpoint.json").read_text()


def test_only_the_process_that_writes_plans_what_is_drawn(tmp_path):
    assert fitting.planned(SimpleNamespace(writes=False), tmp_path / "never opened") is None


@pytest.mark.parametrize(("rank", "joins"), [("0", False), ("1", True)])
def test_the_first_machine_keeps_the_work_and_others_join(monkeypatch, rank, joins):
    monkeypatch.setenv("MASTER_ADDR", "first")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setenv("NODE_RANK", rank)
    assert together.joins(replace(TWO, nodes=2)) is joins
    assert not together.joins(TWO)


@pytest.mark.parametrize(
    ("lacks", "told"),
    [
        ({"MASTER_ADDR": ""}, "no MASTER_ADDR"),
        ({"MASTER_PORT": "none"}, "MASTER_PORT 'none'"),
        ({"NODE_RANK": ""}, "no NODE_RANK"),
        ({"NODE_RANK": "2"}, "NODE_RANK '2'"),
    ],
)
def test_machines_that_do_not_know_where_to_meet_are_told(monkeypatch, lacks, told):
    for name, value in {"MASTER_ADDR": "first", "MASTER_PORT": "29500", "NODE_RANK": "1", **lacks}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=rf"^machine\.nodes: found 2.*{told}"):
        together.joins(replace(TWO, nodes=2))


def test_a_machine_that_does_not_see_the_work_is_told(tmp_path, labelled):
    real, reference = labelled
    given = real, real.with_name("calibrate"), reference, params("vae"), narrow("vae"), DEVICE
    with pytest.raises(UserError, match="the first machine's work is not here"):
        fitting.fit(tmp_path / "elsewhere", *given)


def fail(fabric):
    raise UserError("train: mend this")


def test_a_plain_error_comes_back_as_it_is(monkeypatch):
    monkeypatch.setattr(together.logging, "basicConfig", lambda **how: None)
    monkeypatch.setenv(PLACE, "0")
    assert str(together._begin(DEVICE, fail, (), alone(DEVICE))) == "train: mend this"


def test_what_can_not_be_shared_is_told(tmp_path, labelled):
    one = alone(DEVICE)
    three = SimpleNamespace(world_size=3, global_rank=0, setup=one.setup, backward=one.backward)
    with pytest.raises(UserError, match=r"^params\.yaml: train\.batch: 16 images can't be shared out"):
        Training(labelled[0], params("vae"), narrow("vae"), DEVICE, three)
    real, reference = labelled
    given = real.with_name("calibrate"), reference, params("vae", minutes=1.0), narrow("vae"), TWO
    with pytest.raises(UserError, match=r"train\.minutes"):
        fitting.fit(tmp_path, real, *given)
