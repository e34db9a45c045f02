"""The device is one code path: kind, precision and threads are params, and facts of the recipe."""

import pytest
import torch

from tasks.device import PLACE, Device, prepare
from tasks.errors import UserError
from tasks.params import Machine


def test_threads_are_pinned_and_told():
    device = prepare(Machine(device="cpu", threads=1), "fp32")
    assert torch.get_num_threads() == 1
    assert list(device.facts) == ["device", "processor", "precision", "threads", "torch", "libraries"]
    told = {"device": "cpu", "precision": "fp32", "threads": "1", "torch": torch.__version__}
    assert told.items() <= device.facts.items()
    assert "pyarrow" in device.facts["libraries"]


def test_cores_and_gpus_are_shared_out(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert [Device("cpu", "fp32", threads).workers(None) for threads in (1, 3, 8, 16)] == [8, 2, 1, 1]
    assert Device("cpu", "fp32", 8).workers(4) == 4
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert Device("cuda", "fp32", 8).workers(None) == 3


def test_each_worker_has_a_gpu_of_its_own(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for place in ("0", "1", "2"):
        monkeypatch.setenv(PLACE, place)
        Device("cuda", "fp32", 1).settle()
    assert taken == [0, 1, 0]


def test_another_processor_is_refused():
    device = prepare(Machine(device="cpu", threads=1), "fp32")
    device.settle(device.facts)
    with pytest.raises(UserError, match=r"has processor .* where this run has 'x86_64 NOTHING'"):
        device.settle({**device.facts, "processor": "x86_64 NOTHING"})


def test_a_gpu_that_is_not_there_is_said_plainly(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"machine\.device: found 'cuda'"):
        prepare(Machine(device="cuda"), "fp32")


def test_auto_is_resolved_before_it_becomes_a_fact():
    device = prepare(Machine(threads=1), "auto")
    assert device.kind in ("cpu", "cuda")
    assert device.precision in ("fp32", "bf16")


def test_precision_decides_what_the_autocast_computes_in():
    layer = torch.nn.Linear(2, 2)
    for precision, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        device = prepare(Machine(device="cpu", threads=1), precision)
        with device.autocast():
            assert layer(torch.ones(1, 2)).dtype == kind


def test_training_layout_follows_precision_on_a_cpu():
    for precision, layout in (("fp32", torch.channels_last), ("bf16", torch.contiguous_format)):
        device = prepare(Machine(device="cpu", threads=1), precision)
        assert device.training_format == layout
        weight = device.place(torch.nn.Conv2d(3, 8, 3), device.training_format).weight
        assert weight.is_contiguous(memory_format=layout)
    assert device.place(torch.nn.Conv2d(3, 8, 3)).weight.is_contiguous(memory_format=torch.channels_last)
