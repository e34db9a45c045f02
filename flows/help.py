"""`python -m flows.<stage> --help`, answered before Prefect is imported, which takes over a second."""

import argparse
import ast
import sys
from pathlib import Path


def parser(stage: str, says: str | None) -> argparse.ArgumentParser:
    """A stage's command line: it has no options, as its params are in params.yaml."""
    return argparse.ArgumentParser(
        prog=f"python -m flows.{stage}",
        description=says,
        epilog="Its params are read from params.yaml; `dvc repro` runs it with its deps.",
    )


def answer() -> None:
    """Print a stage's help and exit, if this interpreter was started for that."""
    # While Python finds the module of -m, sys.argv has not its name yet.
    command = sys.orig_argv[1:]
    if sys.argv[:1] != ["-m"] or command[-1] not in ("-h", "--help") or len(command) < 3:
        return
    package, _, stage = command[-2].partition(".")
    file = Path(__file__).with_name(f"{stage}.py")
    if package != __package__ or not file.is_file():
        return
    says = [
        ast.get_docstring(part)
        for part in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(part, ast.FunctionDef) and part.name == stage and "params" in ast.unparse(part.args)
    ]
    if says:
        parser(stage, says[0]).parse_args(command[-1:])
