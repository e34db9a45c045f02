"""Secrets: which variables of an environment are none of a child's business, and no log's either."""

import os
import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

SECRET = re.compile(
    "SECRET|TOKEN|PASS(W|P|$)|_PAT$|_PWD$|CREDENTIAL|PRIVATE|AUTH(?!OR(_|$))|WEBHOOK|API_?KEY|_KEY(_|$)"
    "|CONNECTION_(URL|STRING)|DSN$",
    re.I,
)
# A password may have an @ in it; the last one ends the login.
LOGIN = re.compile(r"(\w+://)[^/\s]*@")
# Of a query: what signs a URL for whoever has it, and no plain `?key=` of a file.
SIGNED = re.compile(
    r"(^|[-_])(token|sig|signature|secret|password|passwd|credential)s?$|(api|access)[-_]?key", re.I
)
QUERY = re.compile(r"([?&]([^=&\s]+)=)[^&\s'\"]+")
STORES = re.compile("^(AWS|AZURE|GOOGLE|GCP|GCLOUD|GIT|SSH|DVC_STUDIO)_")
# A stage tells Prefect's server what it does, and nobody else.
PREFECT = ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING")
SHORT = 8


def for_stage(environment: Mapping[str, str], stage: str) -> dict[str, str]:
    """What a stage may know: no key to a store, repository or database; ingest alone reads from stores."""
    return {
        name: value
        for name, value in environment.items()
        if name in PREFECT
        or not (SECRET.search(name) or STORES.search(name) or _login(name, value))
        or (stage == "ingest" and not name.startswith(("PREFECT_", "GIT_", "SSH_")))
    }


def for_stores(environment: Mapping[str, str]) -> dict[str, str]:
    """What git and DVC may know to reach their remotes: all but Prefect's own.

    git's own variables are left out too: a hook's would point it to another repository.
    """
    own = ("PREFECT_", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    return {name: value for name, value in environment.items() if not name.startswith(own)}


def keyed(url: str) -> bool:
    """Whether a URL has a login, a token or a signature in it."""
    where = urlsplit(url)
    alone = where.username is not None and where.scheme in ("http", "https")
    return bool(where.password) or alone or any(map(SIGNED.search, dict(parse_qsl(where.query))))


def hidden(text: str) -> str:
    """`text` with passwords in URLs, and the values of our environment's secrets, put out of sight."""
    text = LOGIN.sub(r"\1***@", text)
    text = QUERY.sub(lambda found: f"{found[1]}***" if SIGNED.search(found[2]) else found[0], text)
    for name, value in os.environ.items():
        if SECRET.search(name):
            for part in sorted({value, *value.splitlines()}, key=len, reverse=True):  # a log has lines
                text = text.replace(part, "***") if len(part) >= SHORT else text
    return text


def _login(name: str, value: str) -> bool:
    """Whether a variable holds a URL with a login in it. A proxy's may: without it, nothing is reached."""
    return LOGIN.search(value) is not None and not name.upper().endswith("_PROXY")
