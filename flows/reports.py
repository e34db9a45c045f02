"""Reports: each run's own, which the server of `--serve` has beside Prefect's UI, out of DVC's cache.

A report is asked for by its digest, so whoever has a link sees what that run saw, also when later
ones have overwritten its files, for as long as the cache has them.
"""

import hashlib
import os
import re
import urllib.request
from pathlib import Path
from typing import Any

from prefect.settings import PREFECT_API_URL

PLACE = "/reports/"
CACHE = "MINTAGE_CACHE"
# Its scripts come from the same host as Prefect's API, and have no business there.
POLICY, SANDBOX = "content-security-policy", "sandbox allow-scripts"
BEGINS = b"<!doctype html>"
GONE = (
    "This report is no longer in the cache of the machine that made it. If its version was published:\n"
    "dvc get --rev dataset/NAME/DATE-DIGEST ORIGIN data/report\n"
)


def application() -> Any:
    """Prefect's whole server, as its own factory makes it, and the reports of the cache that CACHE names."""
    from prefect.server.api.server import create_app

    server, cache = create_app(), Path(os.environ[CACHE])

    async def beside(scope: Any, receive: Any, send: Any) -> None:
        ours = scope["type"] == "http" and scope["path"].startswith(PLACE)
        await (answer(cache, scope["path"].removeprefix(PLACE)) if ours else server)(scope, receive, send)

    return beside


def answer(cache: Path, digest: str) -> Any:
    """The report of a digest, or that there is none: nothing else of the cache is given away."""
    from starlette.responses import FileResponse, PlainTextResponse

    path = cache / digest[:2] / digest[2:]
    if re.fullmatch("[0-9a-f]{32}", digest) and path.is_file():
        with path.open("rb") as file:
            if file.read(len(BEGINS)).lower() == BEGINS:
                return FileResponse(path, media_type="text/html", headers={POLICY: SANDBOX})
    return PlainTextResponse(GONE, 404)


def address(report: Path) -> str | None:
    """Where Prefect's UI has this report, from its own root; None if the server that is asked has it not."""
    place = PLACE + hashlib.md5(report.read_bytes(), usedforsecurity=False).hexdigest()
    url = (PREFECT_API_URL.value() or "").removesuffix("/api") + place
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5) as found:
            return place if found.headers[POLICY] == SANDBOX else None  # Prefect's UI answers to any name
    except (OSError, ValueError):
        return None
