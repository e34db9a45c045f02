"""A run of a million images: time, memory and bytes of generate, filter and export, and who reads it.

`python -m benchmarks.million` clones the project, trains a small `vae` on `digits`, and runs the stages
as a user does, a command each, in one process of one thread. export needs evaluate, whose probes are
trained for little. Then pandas, DuckDB and `datasets` each open the manifest, in a process of their own.
Seconds of a processor are told beside those by the clock, since others may use the machine too.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.memory import BEFORE, LOG, PARAMS, Spent, set_params, spent, stage
from benchmarks.orchestration import clone, plain
from benchmarks.rows import read_rows
from tasks.layout import EXPORT, REPORT, ROOT, SCORES, SYNTHETIC
from tasks.shards import write_text

RESULT = ROOT / "benchmarks/results/million.json"
OUTS = {"generate": SYNTHETIC, "filter": SCORES, "evaluate": REPORT, "export": EXPORT}
CHANGES: dict[str, dict[str, Any]] = {
    **PARAMS,
    "calibrate": {"images": 20_000},
    "train": {"family": "vae", "images": 100_000},
    "generate": {"batch": 250, "shard_size": 10_000, "steps": None},
    "filter": {"unlike_label": 0.02, "outlier": 0.002},
}
READERS = {  # each prints how many rows it finds
    "pandas": "import pandas; print(len(pandas.read_parquet('{manifest}')))",
    "DuckDB": "import duckdb; print(duckdb.read_parquet('{manifest}').count('kept').fetchall()[0][0])",
    "datasets": "import datasets; print(len(datasets.load_dataset('{export}', 'manifest')['train']))",
}


def measure(root: Path, samples: int) -> dict[str, dict[str, float]]:
    """What each stage and each reader took, and of each stage the MB and the files of its out.

    Raises RuntimeError if a reader does not find every sample.
    """
    environment = {**clone(root), "HF_HOME": str(root / ".hf"), "HF_HUB_OFFLINE": "1"}
    set_params(root, CHANGES)
    set_params(root, {"generate": {"num_samples": samples}})
    plain(root, environment, BEFORE)
    rows = {}
    for name, out in OUTS.items():
        rows[name] = told(stage(name, root, environment)) | on_disk(root / out)
        print(name, rows[name], flush=True)
    for name, code in READERS.items():
        read = code.format(export=EXPORT, manifest=EXPORT / "manifest.parquet")
        rows[name] = told(spent(root, environment, "-c", read))
        if (found := said(root)) != str(samples):
            raise RuntimeError(f"{name} finds {found!r} rows in the manifest of {samples:,} samples")
    return rows


def said(root: Path) -> str:
    """The last word of what a command printed."""
    return (root / LOG).read_text(encoding="utf-8").split()[-1]


def told(took: Spent) -> dict[str, float]:
    """Seconds and MiB, as the rows keep them."""
    return {name: round(value, 1) for name, value in took._asdict().items()}


def on_disk(folder: Path) -> dict[str, float]:
    """How many MB and files there are in a folder."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return {"MB": round(sum(sizes) / 1e6, 1), "files": len(sizes)}


def markdown(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """The kept rows as docs/scale.md shows them."""
    lines = [
        "| samples | | seconds | of a processor | peak MiB | MB on disk | files |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for samples, parts in rows.items():
        for name, row in parts.items():
            what = f"{name} opens the manifest" if name in READERS else name
            disk = f"{row['MB']:,.1f} | {row['files']}" if "MB" in row else "- | -"
            numbers = f"{row['seconds']:,.0f} | {row['cpu_seconds']:,.0f} | {row['peak']:,.0f} | {disk}"
            lines.append(f"| {samples} | {what} | {numbers} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, keep the row and print all that are kept."""
    found = argparse.ArgumentParser("benchmarks.million", description=(__doc__ or "").split("\n")[0])
    found.add_argument("--samples", type=int, default=1_000_000)
    found.add_argument("--results", type=Path, default=RESULT)
    options = found.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        row = measure(Path(folder) / "project", options.samples)
    rows: dict[str, Any] = {**read_rows(options.results), f"{options.samples:,}": row}
    rows = dict(sorted(rows.items(), key=lambda each: int(each[0].replace(",", ""))))
    write_text(options.results, json.dumps(rows, indent=1) + "\n")
    print(markdown(rows))


if __name__ == "__main__":
    main()
