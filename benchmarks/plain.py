"""Run a stage's crafts as a plain script, without Prefect or DVC: `python -m benchmarks.plain <stage>`.

It is what orchestration is measured against. A stage file sees stand-ins for Prefect and for the
footer, so that its body runs as it is written.
"""

import inspect
import sys
from collections.abc import Callable
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


def stand_in(name: str, **parts: Any) -> None:
    """Put a module of the given parts in the place of a real one."""
    module = ModuleType(name)
    vars(module).update(parts)
    sys.modules[name] = module


def main(stage: str) -> None:
    """Run one stage with the params of params.yaml."""
    nothing: Callable[..., None] = lambda *arguments, **named: None  # noqa: E731
    stand_in("prefect", unmapped=lambda value: value)
    shown = {"show_image": nothing, "show_table": nothing}
    stand_in("flows.footer", craft=Craft, run=nothing, stage=lambda function: function, **shown)
    flow = getattr(import_module(f"flows.{stage}"), stage)
    params = read(PARAMS)
    sections = {"params": getattr(params, stage), "family": params.family, "gates": params.gates}
    sections["machine"] = params.machine
    flow(**{name: sections[name] for name in inspect.signature(flow).parameters if name in sections})


if __name__ == "__main__":
    main(sys.argv[1])
