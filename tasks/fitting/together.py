"""Several processes that train one family together: each sees its rows of every batch, one of them writes.

Fabric starts them and averages gradients (`machine.devices`, on each of `machine.nodes`). What they draw
at random for a batch is what one process would draw for all of it, so that their number changes rounding
alone.
"""

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from torch import Tensor
from torch.multiprocessing.spawn import ProcessException
from torch.overrides import TorchFunctionMode

from tasks.children import die_with_parent, kills_children
from tasks.device import PLACE, Device
from tasks.errors import UserError

log = logging.getLogger("mintage.train")
PRECISION: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed"}
MEET = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
SHAPED = (torch.randn, torch.rand)
LIKE = (torch.randn_like, torch.rand_like)


def alone(device: Device) -> Fabric:
    """Fabric for one process."""
    return Fabric(accelerator=device.kind, devices=1, precision=PRECISION[device.precision])


class Meeting(LightningEnvironment):
    """Where the processes meet: as the environment says, whatever cluster this runs on.

    A process may wait there for long, so from the first it dies with the one that started it.
    """

    def set_global_rank(self, rank: int) -> None:
        """Take the number that this process has among all."""
        if multiprocessing.parent_process():
            die_with_parent(signal.SIGKILL)
        super().set_global_rank(rank)


def joins(device: Device) -> bool:
    """Whether this machine joins the training of another one, rather than begin, keep and seal it.

    Raises UserError if the environment does not say which machine this is, and where the first one is.
    """
    if device.nodes == 1:
        return False
    found = {name: os.environ.get(name, "") for name in MEET}
    address, port, rank = found.values()
    if address and port.isdecimal() and rank.isdecimal() and int(rank) < device.nodes:
        return int(rank) > 0
    told = ", ".join(f"{name} {value!r}" if value else f"no {name}" for name, value in found.items())
    raise UserError(
        f"machine.nodes: found {device.nodes}, but in the environment {told}. Set the first two to where all "
        f"machines reach the first one, NODE_RANK to each one's number, 0 to {device.nodes - 1}, and run the "
        "same command on each."
    )


def launch(function: Callable[..., Any], device: Device, *arguments: Any) -> Any:
    """Call `function(fabric, *arguments)` in `device.processes` processes; return what the first one does.

    Raises UserError if one of them fails: its own, or one that says how it ended.
    """
    devices = device.processes // device.nodes
    if device.kind == "cuda" and torch.cuda.device_count() < devices:
        raise UserError(f"machine.devices: found {devices}, but torch sees {torch.cuda.device_count()} GPUs.")
    fabric = Fabric(
        accelerator=device.kind, devices=devices, num_nodes=device.nodes, strategy="ddp_spawn",
        precision=PRECISION[device.precision], plugins=[Meeting()],
    )  # fmt: skip
    try:
        with kills_children():
            found = fabric.launch(partial(_begin, device, function, arguments))
    except ProcessException as error:
        log.error("%s", error)
        raise UserError(
            f"train: one of {device.processes} processes ended: {str(error).strip().splitlines()[-1][:160]}. "
            "Run the same command again: it goes on from its last state."
        ) from None
    if isinstance(found, UserError):
        raise found
    return found


def _begin(device: Device, function: Callable[..., Any], arguments: tuple[Any, ...], fabric: Fabric) -> Any:
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    if fabric.global_rank == 0:
        logging.getLogger("mintage").setLevel(logging.INFO)
    os.environ[PLACE] = str(fabric.local_rank)
    try:
        device.settle(fabric.broadcast(device.facts))
        return function(fabric, *arguments)
    except UserError as error:  # as a value, since what is raised arrives as text
        return error


class Rows(TorchFunctionMode):
    """Random numbers for this process's rows, `rows` of them: its part of what is drawn for all processes.

    A draw of another length is the same in every process.
    """

    def __init__(self, fabric: Fabric, rows: int) -> None:
        super().__init__()
        self.rows, self.world = rows, fabric.world_size
        self.mine = slice(fabric.global_rank * rows, (fabric.global_rank + 1) * rows)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Draw for all processes what is drawn for a batch."""
        kwargs = kwargs or {}
        if func in SHAPED:
            first, *rest = args[0] if isinstance(args[0], tuple | list | torch.Size) else args
            if first == self.rows:
                return func(self.rows * self.world, *rest, **kwargs)[self.mine]
        elif func in LIKE and len(args[0]) == self.rows:
            return func(self._whole(args[0]), **kwargs)[self.mine]
        elif func is torch.bernoulli and len(args[0]) == self.rows:
            whole = self._whole(args[0]).fill_(0.5)
            whole[self.mine] = args[0]
            return func(whole, **kwargs)[self.mine]
        return func(*args, **kwargs)

    def _whole(self, x: Tensor) -> Tensor:
        """An empty tensor of all processes' rows, laid out as `x`."""
        last = not x.is_contiguous() and x.ndim == 4
        layout = torch.channels_last if last else torch.contiguous_format
        shape = (self.rows * self.world, *x.shape[1:])
        return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
