"""What synthetic images are worth where real ones are few: the whole pipeline at several cuts of train.

`python -m benchmarks.low_data` runs preprocess to evaluate once for each count of `--per-class`, in a
copy of the project whose params have `preprocess.train_per_class` set to it. So generator, judge and
probe see the cut split alone, and the test split stays whole. `--set` changes any other param.

A finished count is kept in benchmarks/results, and is not made again while nothing that decides it has
changed. A count that is cut off goes on where it was: its copy lies in data/.unfinished until it is done.
"""

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks.rows import kept
from tasks import dvc, overriding, recipe, references
from tasks.errors import UserError
from tasks.layout import NO_REFERENCES, PARAMS, REPORT, ROOT, SCORES, UNFINISHED
from tasks.params import Params
from tasks.reading import check_families, parse
from tasks.recipe import Recipe
from tasks.shards import file_digest, write_text

RESULTS = ROOT / "benchmarks/results/low_data.json"
LAST = "evaluate"
COUNTS = (10, 50, 200)
ARMS = ["real", "real_augmented", "synthetic", "random_drop", "real_synthetic", "real_synthetic@1"]
DIFFERENCES = ("real_synthetic_minus_real", "real_augmented_minus_real")


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the counts that are missing, and print the table of all that were asked for."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        found = run(options.per_class, options.set, options.seeds, options.results)
    except UserError as error:
        sys.exit(str(error))
    print(table(found))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser("benchmarks.low_data", description=(__doc__ or "").split("\n")[0])
    found.add_argument("--per-class", type=counts, default=list(COUNTS), help="images a class, with commas")
    found.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a param, as train.minutes=5"
    )
    found.add_argument(
        "--seeds", type=int, default=5, choices=range(1, 101), metavar="N", help="probes an arm"
    )
    found.add_argument("--results", type=Path, default=RESULTS, help="the file of finished counts")
    return found


def counts(text: str) -> list[int]:
    """Numbers above 0 with commas between. Raises ValueError otherwise, which argparse explains."""
    found = [int(part) for part in text.split(",")]
    if min(found) < 1:
        raise ValueError
    return found


def run(
    wanted: Sequence[int], changes: Sequence[str], seeds: int, results: Path
) -> dict[str, dict[str, Any]]:
    """Make the wanted rows, each written at once; those already there for the same settings are kept."""
    plain = {str(count): params_of(count, changes, seeds) for count in wanted}
    return rows(plain, results)


def rows(wanted: Mapping[str, Mapping[str, Any]], results: Path) -> dict[str, dict[str, Any]]:
    """The row of each name with its params; they were all checked before any is made."""
    found: dict[str, dict[str, Any]] = {}
    for name, params in wanted.items():
        made_by = decided_by(params)
        found[name] = kept(results, name, made_by.digest, partial(measured, params, made_by))
    return found


def params_of(
    count: int | None, changes: Sequence[str], seeds: int, arms: Sequence[str] = ARMS
) -> dict[str, Any]:
    """params.yaml as plain values with `count` real images a class (None: all), and every `key=value`.

    Raises UserError that names a change which params.yaml does not know.
    """
    found = yaml.safe_load((ROOT / PARAMS).read_text(encoding="utf-8"))
    found["evaluate"] |= {"arms": list(arms), "seeds": seeds}
    found |= {"gates": {}}
    for name, value in overriding.parsed(changes).items():
        overriding.put(found, name, value)
    found["preprocess"]["train_per_class"] = count or found["preprocess"]["train_per_class"]
    source = Path(str(found["ingest"]["source"]))
    if (ROOT / source).exists():
        found["ingest"]["source"] = str(ROOT / source)  # may be no part of what is copied
    whole = parse(Params, found, f"{PARAMS} with --set")
    family = whole.train.family
    if family not in found["families"]:
        raise UserError(f"train.family: no family {family!r}; there are: {', '.join(found['families'])}.")
    if (folder := Path(whole.train.references)) != NO_REFERENCES:
        found["train"]["references"] = str((ROOT / folder).resolve())  # no part of what is copied either
    check_families(parse(Params, found, f"{PARAMS} with --set"))
    return found


def decided_by(params: Mapping[str, Any]) -> Recipe:
    """All that decides a row: the params of its stages, their code, the source, and where it is computed."""
    from tasks.device import prepare

    whole = parse(Params, dict(params), str(PARAMS))
    device = prepare(whole.machine, whole.train.precision)
    stages = list(yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"])
    stages = stages[: stages.index(LAST) + 1]
    sections = {name: params[name] for name in stages} | {"family": whole.family}
    sections["ingest"] = {**params["ingest"], "source": fingerprint(params["ingest"]["source"])}
    parts = {f"params.{name}": json.dumps(block, sort_keys=True) for name, block in sections.items()}
    parts["references"] = references.digest(Path(whole.train.references))
    for stage in stages:
        for name in recipe.code(stage, whole.train.family):
            parts[name] = file_digest(ROOT / name)
    return Recipe("low_data", parts | device.facts)


def fingerprint(source: str) -> str:
    """Stands for the real images, wherever they lie: a file's digest, a folder's names and sizes, a URL."""
    path = Path(source)
    if path.is_file():
        return file_digest(path)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else []
    return (
        json.dumps([[p.relative_to(path).as_posix(), p.stat().st_size] for p in files]) if files else source
    )


def measured(params: Mapping[str, Any], made_by: Recipe) -> dict[str, Any]:
    """Run the pipeline on these params in a copy of the project, and gather what its report says."""
    copy = ROOT / UNFINISHED / "low_data" / made_by.digest
    project(copy, params)
    for stage in dvc.stages(copy):
        cut, family = params["preprocess"]["train_per_class"], params["train"]["family"]
        logging.info("%s, %s real images a class: %s", family, cut or "all", stage)
        dvc.reproduce(stage, copy, {"PREFECT_HOME": str(copy / ".prefect")})
        if stage == LAST:
            break
    told = row(copy)
    shutil.rmtree(copy)
    return told


def project(copy: Path, params: Mapping[str, Any]) -> None:
    """Copy the project's own files, as they are now, to a repository of its own with these params."""
    listed = ["git", "ls-files", "-coz", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    for name in names:
        if not name.startswith(("tests/", "docs/", "benchmarks/")) and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    write_text(copy / PARAMS, yaml.safe_dump(dict(params), sort_keys=False))
    subprocess.run(["git", "init", "-q"], cwd=copy, check=True)


def row(project: Path) -> dict[str, Any]:
    """What is kept of a finished run: every arm's accuracy and difference, and what they stand on."""
    metrics = json.loads((project / REPORT / "metrics.json").read_text(encoding="utf-8"))
    scores = json.loads((project / SCORES / "metrics.json").read_text(encoding="utf-8"))
    told = {key: metrics[key] for key in ("accuracy", "difference", "recommendation", "notes", "headline")}
    return {"samples": scores["samples"], "kept": scores["kept"], **told}


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows as Markdown, a column for each count: every arm in %, then the two differences in points.

    Under it, what each count's report notes, such as why an arm was not measured.
    """
    head = ["real images a class", *rows]
    arms = list(dict.fromkeys(arm for found in rows.values() for arm in found["accuracy"]))
    lines = [head, ["---"] * len(head)]
    for arm in arms:
        lines.append([f"`{arm}`", *(cell(found["accuracy"].get(arm)) for found in rows.values())])
    for pair in DIFFERENCES:
        name = "`{}` − `{}`".format(*pair.split("_minus_"))
        lines.append([name, *(cell(found["difference"].get(pair), "+.2f") for found in rows.values())])
    ratios = [(found.get("recommendation") or {}).get("ratio") for found in rows.values()]
    lines.append(["recommended ratio", *("-" if ratio is None else f"{ratio:g}" for ratio in ratios)])
    notes = [f"{count} a class: {note}" for count, found in rows.items() for note in found["notes"]]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), *notes])


def cell(found: Mapping[str, Any] | None, form: str = ".2f") -> str:
    """A mean and its 95 % interval in per cent or points; a dash if it was not measured."""
    if found is None or found["mean"] is None:
        return "-"
    text = f"{100 * found['mean']:{form}} [{100 * found['low']:{form}}, {100 * found['high']:{form}}]"
    return text.replace("-", "−")


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
