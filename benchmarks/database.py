"""What a week of nightly runs of 100 shards leaves in the Prefect server's database, and what a year would.

`python -m benchmarks.database` clones the project onto tiny params with 100 shards of one sample, starts
`prefect server` on a database of its own, and runs the pipeline eight times, each time with new samples.
Of the first night, which also trains, nothing is counted. A year is worked out from the retention that
the README sets: runs stay for 90 days. Events go after 7 days, and are counted as if they stayed as long.
Then all is made as old as that, and the server started again with the README's setting, which must leave
none of it. The database is SQLite, or the one that PREFECT_SERVER_DATABASE_CONNECTION_URL names.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from benchmarks.machines import PATIENCE, free_port, healthy, size, until
from benchmarks.orchestration import clone, seconds
from benchmarks.rows import read_rows
from flows.server import RETENTION, VACUUM
from tasks.children import die_with_parent
from tasks.layout import ROOT

RESULTS = ROOT / "benchmarks/results/database.json"
SHARDS = 100
NIGHTS = 7
RETENTION_DAYS = 90
URL = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
TABLES = ("flow_run", "flow_run_state", "task_run", "task_run_state", "log", "artifact", "events")
AGE = (
    "update flow_run set end_time = :then where end_time is not null",
    "update events set occurred = :then",
    "update event_resources set occurred = :then",
)


def told(*statements: str, **values: Any) -> Any:
    """Have the server's database work on SQL statements, and return the first value of the last."""
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine

    async def work() -> Any:
        engine = create_async_engine(os.environ[URL])
        try:
            async with engine.begin() as connection:
                *_, last = [await connection.execute(text(each), values) for each in statements]
                return last.scalar() if last.returns_rows else None
        finally:
            await engine.dispose()

    return asyncio.run(work())


def postgres() -> bool:
    """Whether the server's database is PostgreSQL."""
    return os.environ[URL].startswith("postgresql")


def stored(home: Path) -> int:
    """The bytes of the server's database."""
    return told("select pg_database_size(current_database())") if postgres() else size(home)


def rows() -> int:
    """How many rows there are in the tables that grow with every run."""
    return sum(told(f"select count(*) from {table}") for table in TABLES)


def aged(root: Path) -> int:
    """Make all as old as the retention; return how many rows are left once the server has seen to them."""
    then = datetime.now(UTC) - timedelta(days=RETENTION_DAYS + 1)
    told(*AGE, then=then if postgres() else then.replace(tzinfo=None))
    loops = ("LOOP_SECONDS", "ORPHAN_CLEANUP_LOOP_SECONDS")
    often = {VACUUM.replace("ENABLED", each): "5" for each in loops}
    with server(root, **{VACUUM: RETENTION}, **often):
        deadline = time.monotonic() + PATIENCE
        while (left := rows()) and time.monotonic() < deadline:
            time.sleep(1)
    return left


@contextmanager
def server(root: Path, **settings: str) -> Iterator[None]:
    """Prefect's server, the whole of it: the one that flows start by themselves is smaller."""
    host, port = os.environ["PREFECT_API_URL"].split("/")[2].split(":")
    running = subprocess.Popen(
        [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", port],
        cwd=root,
        env={**os.environ, **settings},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    try:
        until(healthy, "Prefect's server")
        yield
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()


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
    with tempfile.TemporaryDirectory() as folder:
        home, root = Path(folder) / "prefect", Path(folder) / "project"
        os.environ.update(clone(root))
        os.environ.update(PREFECT_HOME=str(home), PREFECT_API_URL=f"http://127.0.0.1:{free_port()}/api")
        home.mkdir()
        os.environ.setdefault(URL, f"sqlite+aiosqlite:///{home}/prefect.db")
        kind = "PostgreSQL" if postgres() else "SQLite"
        sizes = []
        with server(root):
            for number in range(NIGHTS + 1):
                night(root, number)
                sizes.append(stored(home))
                print(f"night {number}: {sizes[-1] / 1e6:.2f} MB", flush=True)
        found = {"sizes": sizes, "rows": rows(), "left": aged(root)}
    kept = {**read_rows(RESULTS), kind: found}
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    print(markdown(kept))


def markdown(kept: Mapping[str, Mapping[str, Any]]) -> str:
    """What a night adds, what a year comes to, and what the retention leaves of a week."""
    lines = [
        f"| | a night of {SHARDS} shards, MB | a year, MB | rows of the week | left of them |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind, found in kept.items():
        first, *_, last = found["sizes"]
        each = (last - first) / (len(found["sizes"]) - 1)
        year = (first + RETENTION_DAYS * each) / 1e6
        lines.append(f"| {kind} | {each / 1e6:.2f} | {year:.0f} | {found['rows']:,} | {found['left']:,} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
