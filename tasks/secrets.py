"""Secrets: which variables of an environment are none of a child's business, and no log's either."""

import os
import re
from collections.abc import Mapping

SECRET = re.compile(
    "SECRET|TOKEN|PASS(W|P|$)|_PAT$|_PWD$|CREDENTIAL|PRIVATE|AUTH(?!OR(_|$))|WEBHOOK|API_?KEY|_KEY(_|$)"
    "|CONNECTION_(URL|STRING)|DSN$",
    re.I,
)
# A password may have an @ in it; the last one ends the login.
LOGIN = re.compile(r"(\w+://)[^/\s]*@")
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


def hidden(text: str) -> str:
    """`text` with passwords in URLs, and the values of our environment's secrets, put out of sight."""
    text = LOGIN.sub(r"\1***@", text)
    for name, value in os.environ.items():
        if len(value) >= SHORT and SECRET.search(name):
            text = text.replace(value, "***")
    return text


def _login(name: str, value: str) -> bool:
    """Whether a variable holds a URL with a login in it. A proxy's may: without it, nothing is reached."""
    return LOGIN.search(value) is not None and not name.upper().endswith("_PROXY")
