"""The device that a stage computes on: its kind, precision, threads and fastest memory layout."""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch

from tasks.errors import UserError
from tasks.params import Machine, Precision

M = TypeVar("M", bound=torch.nn.Module)


@dataclass(frozen=True)
class Device:
    """What floating-point results depend on. `facts` go into the recipe of calibrate, train and generate."""

    kind: Literal["cpu", "cuda"]
    precision: Literal["fp32", "bf16"]
    threads: int

    @property
    def facts(self) -> dict[str, str]:
        """The device's part of a recipe."""
        return {
            "device": self.kind,
            "precision": self.precision,
            "threads": str(self.threads) if self.kind == "cpu" else "any",
            "torch": torch.__version__,
        }

    @property
    def training_format(self) -> torch.memory_format:
        """The layout to train a generator in: bf16 on a CPU ran a third faster contiguous."""
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


def prepare(machine: Machine, precision: Precision) -> Device:
    """Choose the device, pin the threads, and make results repeat. Raises UserError if there is no GPU.

    `auto` precision is bf16 where the hardware computes in it, else fp32.
    """
    kind = machine.device
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "machine.device: found 'cuda', but torch sees no GPU here. "
            "Set it to 'auto' or 'cpu', or mend the driver (try `nvidia-smi`)."
        )
    threads = machine.threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    if precision == "auto":
        precision = "bf16" if _computes_in_bf16(kind) else "fp32"
    return Device(kind, precision, threads)


def _computes_in_bf16(kind: str) -> bool:
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()
