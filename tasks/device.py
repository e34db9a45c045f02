"""The device that a stage computes on: its kind, precision, threads and fastest memory layout."""

import os
import platform
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Literal, TypeVar

import torch

from tasks.errors import UserError
from tasks.params import Machine, Precision

M = TypeVar("M", bound=torch.nn.Module)
PLACE = "MINTAGE_PLACE"  # environment variable: which of a machine's workers this process is, from 0


@dataclass(frozen=True)
class Device:
    """What floating-point results depend on. `facts` go into the recipe of every stage that computes."""

    kind: Literal["cpu", "cuda"]
    precision: Literal["fp32", "bf16"]
    threads: int  # of each process: how many draw or score shards does not change a byte
    processes: int = 1  # that train together, which changes the order of sums
    nodes: int = 1  # machines that these are spread over, as many on each

    @property
    def facts(self) -> dict[str, str]:
        """The device's part of a recipe, as it is in this process: where it differs, so may the bytes."""
        return {
            "device": self.kind,
            "processor": _processor(self.kind),
            "precision": self.precision,
            "threads": str(self.threads) if self.kind == "cpu" else "any",
            "torch": torch.__version__,
            "libraries": ", ".join(f"{name} {version(name)}" for name in ("numpy", "pillow", "pyarrow")),
            **({"processes": str(self.processes)} if self.processes > 1 else {}),
        }

    def workers(self, wanted: int | None) -> int:
        """How many processes share the work: as many as wanted, else one a GPU, or for `threads` cores."""
        if self.kind == "cuda":
            return wanted or torch.cuda.device_count()
        return wanted or max(len(os.sched_getaffinity(0)) // self.threads, 1)

    def settle(self, told: Mapping[str, str] | None = None) -> None:
        """Compute in this process, and this thread, as the device says: on its GPU, with its threads.

        Raises UserError if there is no GPU, or if what a recipe's parts `told` of the work's first process
        is not so here: another library or processor would give other bytes.
        """
        if self.kind == "cuda":
            if not torch.cuda.is_available():
                raise UserError(
                    "machine.device: found 'cuda', but torch sees no GPU here. "
                    "Set it to 'auto' or 'cpu', or mend the driver (try `nvidia-smi`)."
                )
            torch.cuda.set_device(int(os.environ.get(PLACE, 0)) % torch.cuda.device_count())
        torch.set_num_threads(self.threads)
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        told, here = told or {}, self.facts
        if differing := [name for name in here if name in told and told[name] != here[name]]:
            name = differing[0]
            raise UserError(
                f"machine: a worker on {platform.node()} has {name} {here[name]!r}, where this "
                f"run has {told[name]!r}, and would draw other bytes. Make them the same."
            )

    @property
    def training_format(self) -> torch.memory_format:
        """The layout to train a generator in. In bf16 on a CPU contiguous is 26 % faster for diffusion.

        For gan it is 6 % slower, for the others level (benchmarks/results/layouts.json).
        """
        bf16_cpu = self.kind == "cpu" and self.precision == "bf16"
        return torch.contiguous_format if bf16_cpu else torch.channels_last

    def place(self, module: M, layout: torch.memory_format = torch.channels_last) -> M:
        """Move a module to the device. Channels last sampled twice as fast, and trained classifiers 1.5x."""
        module.to(self.kind)
        module.to(memory_format=layout)
        return module

    def scaled(self, x_BCHW: torch.Tensor, layout: torch.memory_format = torch.channels_last) -> torch.Tensor:
        """uint8 images as float32 in [-1, 1], on the device."""
        x_BCHW = x_BCHW.to(self.kind).float().div_(127.5).sub_(1)
        return x_BCHW.contiguous(memory_format=layout)

    def autocast(self) -> AbstractContextManager:
        """The precision's context for forward passes."""
        return torch.autocast(self.kind, torch.bfloat16) if self.precision == "bf16" else nullcontext()


def prepare(machine: Machine, precision: Precision, trains: bool = False) -> Device:
    """Choose the device, pin the threads, and make results repeat. Raises UserError if there is no GPU.

    `trains`: the processes that train together, on all nodes, are one device to a recipe.
    `auto` precision is bf16 where the hardware computes in it, else fp32.
    """
    kind = machine.device
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if precision == "auto":
        precision = "bf16" if _computes_in_bf16(kind) else "fp32"
    device = Device(kind, precision, machine.threads or len(os.sched_getaffinity(0)))
    if trains:
        device = replace(device, processes=machine.devices * machine.nodes, nodes=machine.nodes)
    device.settle()
    return device


def _processor(kind: str) -> str:
    """What kernels are chosen by: the GPU's model, or the instructions that torch uses of the CPU's."""
    if kind == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _computes_in_bf16(kind: str) -> bool:
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()
