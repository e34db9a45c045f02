"""Run a stage's crafts as a plain script, without Prefect or DVC: `python -m benchmarks.plain <stage>`.

It is what orchestration is measured against. A stage file sees stand-ins for Prefect, the footer and
the engine, so that its body runs as it is written.
"""

import inspect
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from tasks.layout import PARAMS
from tasks.reading import read


class Craft:
    """A task's stand-in: calls its function, at once."""

    def __init__(self, function: Callable[..., Any], retries: int = 0) -> None:
        self.function = function
        self.results: list[Any] = []

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the function."""
        return self.function(*arguments, **named)

    def map(self, first: Any, *rest: Any) -> "Craft":
        """Call the function for each of the first argument's values; the rest stay as they are."""
        self.results = [self.function(value, *rest) for value in first]
        return self

    def result(self) -> list[Any]:
        """What the calls of `map` returned."""
        return self.results


class Engine:
    """The engine's stand-in: works on each shard in turn, in this process."""

    def __init__(self, machine: Any, device: Any, made_by: Any) -> None:
        self.device = device

    def each(self, function: Callable[..., Any], shards: Sequence[Any], **same: Any) -> None:
        """Call the function with each shard, the device, and keywords that are the same for all."""
        for shard in shards:
            function(shard, **same, device=self.device)


def stand_in(name: str, **parts: Any) -> None:
    """Put a module of the given parts in the place of a real one."""
    module = ModuleType(name)
    vars(module).update(parts)
    sys.modules[name] = module


def stand_ins() -> None:
    """Put all that a stage file would import of Prefect's out of its sight."""
    nothing: Callable[..., None] = lambda *arguments, **named: None  # noqa: E731
    stand_in("prefect", unmapped=lambda value: value)
    shown = {"show_image": nothing, "show_table": nothing}
    stand_in("flows.footer", craft=Craft, run=nothing, stage=lambda function: function, **shown)
    stand_in("flows.engine", Engine=Engine)


def main(stage: str) -> None:
    """Run one stage with the params of params.yaml."""
    stand_ins()
    flow = getattr(import_module(f"flows.{stage}"), stage)
    params = read(PARAMS)
    sections = {"params": getattr(params, stage), "family": params.family, "gates": params.gates}
    sections["machine"] = params.machine
    flow(**{name: sections[name] for name in inspect.signature(flow).parameters if name in sections})


if __name__ == "__main__":
    main(sys.argv[1])
