"""git in plain commands: a server that takes the call and then says nothing is given up."""

import socket
import threading

import pytest

from tasks import git
from tasks.errors import UserError


@pytest.mark.parametrize(
    ("path", "expected"),
    [("raw", True), ("raw/a", True), ("a.lock", True), ("b", False), ("Makefile", False)],
)
def test_what_is_ignored_though_it_is_not_there(tmp_path, path, expected):
    git.git(tmp_path, "init", "--quiet")
    assert not git.ignored(tmp_path, path)
    (tmp_path / ".gitignore").write_text("raw/\n*.lock\n")
    assert git.ignored(tmp_path, path) is expected


def test_a_silent_server_is_given_up(tmp_path, monkeypatch):
    minutes = int(git.QUIET["GIT_HTTP_LOW_SPEED_TIME"]) // 60
    monkeypatch.setattr(git, "QUIET", {**git.QUIET, "GIT_HTTP_LOW_SPEED_TIME": str(minutes // 2)})
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        # Without a limit git would wait for as long as the server does.
        threading.Timer(20, server.close).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/digits.git"
        with pytest.raises(UserError, match="too slow"):
            git.git(tmp_path, "ls-remote", url)
