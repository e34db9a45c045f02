"""What a week of nightly runs of 100 shards leaves in the Prefect server's database, and what a year would.

`python -m benchmarks.database` clones the project onto tiny params with 100 shards of one sample, starts
`prefect server` on a database of its own, and runs the pipeline eight times, each time with new samples.
Of the first night, which also trains, nothing is counted. A year is worked out from the retention that
the README sets: runs stay for 90 days. Events go after 7 days, and are counted as if they stayed as long.
The database is SQLite, or the one that PREFECT_SERVER_DATABASE_CONNECTION_URL names.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.machines import free_port, healthy, size, until
from benchmarks.orchestration import clone, seconds
from benchmarks.rows import read_rows
from tasks.children import die_with_parent
from tasks.layout import ROOT

RESULTS = ROOT / "benchmarks/results/database.json"
SHARDS = 100
NIGHTS = 7
RETENTION_DAYS = 90
POSTGRES = "PREFECT_SERVER_DATABASE_CONNECTION_URL"


def stored(home: Path) -> int:
    """The bytes of the server's database."""
    url = os.environ.get(POSTGRES, "")
    if not url:
        return size(home)
    import asyncpg

    async def asked() -> int:
        connection = await asyncpg.connect(url.replace("+asyncpg", ""))
        try:
            return await connection.fetchval("select pg_database_size(current_database())")
        finally:
            await connection.close()

    return asyncio.run(asked())


def night(root: Path, number: int) -> None:
    """Run the pipeline with the samples of a night."""
    path = root / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    params["generate"] |= {"num_samples": SHARDS, "shard_size": 1, "batch": 1, "seed": number}
    params["machine"] |= {"threads": 1, "workers": 1}
    params["filter"] |= dict.fromkeys(("blurred", "noisy", "flat"))
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    seconds(root, os.environ, "flows.pipeline")


def main() -> None:
    """Print the bytes, and keep them in benchmarks/results."""
    kind = "PostgreSQL" if POSTGRES in os.environ else "SQLite"
    rows: dict[str, Any] = read_rows(RESULTS)
    with tempfile.TemporaryDirectory() as folder:
        home, root, port = Path(folder) / "prefect", Path(folder) / "project", str(free_port())
        os.environ.update(clone(root))
        os.environ.update(PREFECT_HOME=str(home), PREFECT_API_URL=f"http://127.0.0.1:{port}/api")
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
        server = subprocess.Popen(
            command, cwd=root, stdout=subprocess.DEVNULL, start_new_session=True, preexec_fn=die_with_parent
        )
        until(healthy, "Prefect's server")
        sizes = []
        for number in range(NIGHTS + 1):
            night(root, number)
            sizes.append(stored(home))
            print(f"night {number}: {sizes[-1] / 1e6:.2f} MB", flush=True)
            if number:  # a week that is cut off is kept as one of fewer nights
                rows[kind] = sizes
                RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    print(markdown(rows))


def markdown(rows: Mapping[str, Sequence[int]]) -> str:
    """What a night adds, and what a year comes to."""
    lines = [f"| | a night of {SHARDS} shards, MB | a year, MB |", "| --- | --- | --- |"]
    for kind, sizes in rows.items():
        each = (sizes[-1] - sizes[0]) / (len(sizes) - 1)
        lines.append(f"| {kind} | {each / 1e6:.2f} | {(sizes[0] + RETENTION_DAYS * each) / 1e6:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
