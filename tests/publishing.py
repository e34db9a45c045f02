"""A tiny project to publish: two stages that take no time, a bare origin, and a folder as DVC remote."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tasks.errors import UserError
from tests.house import PARAMS, ROOT

MAKE = '''
"""What the stages of a real project leave, of a size that takes no time."""
import json, sys, yaml
from pathlib import Path

params = yaml.safe_load(Path("params.yaml").read_text())
seed = params["generate"]["seed"]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


if sys.argv[1] == "generate":
    write(Path("data/synthetic/index.json"), json.dumps({"seed": seed}))
    write(Path("data/scores/metrics.json"), json.dumps({"samples": 4, "kept": 3, "kept_ratio": 0.75}))
    accuracy = {"real": {"mean": 0.5}, "synthetic": {"mean": seed / 2**31}}
    write(Path("data/report/metrics.json"), json.dumps({"accuracy": accuracy, "after": {"recall": None}}))
    write(Path("data/report/report.html"), "<h1>report</h1>")
else:
    gates, scores = params["gates"], json.loads(Path("data/scores/metrics.json").read_text())
    if scores["kept_ratio"] < gates["kept_ratio"]["min"]:
        sys.exit("kept_ratio: under its gate")
    drawn = Path("data/synthetic/index.json").read_text()
    image = Path("data/export/images/train-00000-of-00001.parquet")
    image.parent.mkdir(parents=True)
    image.write_bytes(Path("images.parquet").read_bytes())
    files = {image.relative_to("data/export").as_posix(): "digest"}
    write(Path("data/export/README.md"), "drawn: " + drawn)
    write(Path("data/export/preview.png"), "a picture")
    write(Path("data/export/index.json"), json.dumps({"kept": 3, "files": files}))
'''
STAGES = {
    "generate": {
        "cmd": "python make.py generate",
        "deps": ["make.py", "source.txt"],
        "params": ["generate"],
        "outs": ["data/synthetic", "data/scores", "data/report"],
    },
    "export": {
        "cmd": "python make.py export",
        "deps": ["make.py", "data/synthetic", "data/scores"],
        "params": ["export", "gates"],
        "outs": ["data/export"],
    },
}
CONFIG = """[core]
    analytics = false
    remote = store
['remote "store"']
    url = {}
"""
WHO = {
    **{f"GIT_{role}_{key}": f"tester@{key}" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "DVC_NO_ANALYTICS": "1",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}


def run(root: Path, *command: str) -> str:
    """Run a command in `root` as the project's user, and return what it printed."""
    done = subprocess.run(command, cwd=root, env={**os.environ, **WHO}, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def commit(root: Path, **files: str) -> None:
    """Write files, commit all, and push to origin."""
    for name, text in files.items():
        (root / name).write_text(text)
    run(root, "git", "add", "--all")
    run(root, "git", "commit", "--quiet", "--message", "a change")
    run(root, "git", "push", "--quiet", "origin", "HEAD:main")


def project(base: Path, url: str | None = None, settings: str = "") -> Path:
    """The user's tree, `base/home`, pushed to `base/origin.git`; its DVC remote is `url` or `base/store`."""
    home = base / "home"
    home.mkdir(parents=True)
    run(base, "git", "init", "--quiet", "--bare", "--initial-branch=main", "origin.git")
    run(home, "git", "init", "--quiet", "--initial-branch=main")
    run(home, "git", "remote", "add", "origin", str(base / "origin.git"))
    (home / ".dvc").mkdir()
    (home / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    (home / ".dvc/config").write_text(CONFIG.format(url or base / "store") + settings)
    image = io.BytesIO()
    pq.write_table(pa.table({"id": ["a", "b", "c"]}), image)
    (home / "images.parquet").write_bytes(image.getvalue())
    (home / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}, sort_keys=False))
    params = "# kept\n" + yaml.safe_dump({**PARAMS, "gates": {"kept_ratio": {"min": 0.5}}}, sort_keys=False)
    commit(
        home,
        **{
            "make.py": MAKE,
            "source.txt": "1",
            "params.yaml": params,
            ".gitignore": "/data\n",
            ".dvcignore": "",
        },
    )
    return home


def settle(patch: pytest.MonkeyPatch, base: Path) -> None:
    """The environment of a machine that runs the project's nights, with its caches in `base`."""
    for name, value in {**WHO, "XDG_CACHE_HOME": str(base / "caches")}.items():
        patch.setenv(name, value)
    patch.setenv("PYTHONPATH", str(ROOT))  # the tiny project has no code of its own to check params with


def in_process(
    arguments: list[str], root: Path, environment: object = None, doing: str = "", hours: float | None = None
) -> None:
    """Stand in for tasks.dvc's child process: starting DVC takes longer than all that it does here."""
    from dvc.cli import main

    with contextlib.chdir(root):
        if main([*arguments, "--quiet"]):
            raise UserError(f"{doing}: failed under DVC")
