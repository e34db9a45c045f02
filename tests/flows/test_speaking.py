"""A command's last words: an error in its own, what to do next, and no traceback for either."""

import errno
import logging
import os
import subprocess
import sys
from contextlib import suppress

import pytest

from flows import speaking
from tasks.errors import UserError
from tests.house import ROOT


def test_versions_are_listed_without_prefect():
    """Its import takes over a second."""
    code = "import sys, flows.versions; print('prefect' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"PREFECT_SERVER_API_PORT": "abc"}, "prefect: its settings, PREFECT_HOME and others, can't be used"),
        ({}, "stopped."),
    ],
)
def test_plain_words_from_the_first_import_on(tmp_path, setting, words):
    """Of a wrong setting, and of Ctrl-C, for which something stands in Prefect's place."""
    if not setting:
        (tmp_path / "prefect.py").write_text("raise KeyboardInterrupt")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), **setting}
    command = [sys.executable, "-m", "flows.export"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_stage_goes_on_whose_log_nobody_reads_any_more(tmp_path):
    """Since DVC was killed: it is to tell the server of its end."""
    code = (
        "import logging, os; from pathlib import Path; from flows import footer; "
        "from flows.speaking import speak; "
        "speak(); reads, writes = os.pipe(); os.dup2(writes, 1); os.dup2(writes, 2); os.close(reads); "
        "[logging.getLogger('prefect.engine').error('broken') for _ in range(2)]; "
        f"Path({str(tmp_path / 'done')!r}).touch(); os._exit(7)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 7
    assert (tmp_path / "done").exists()


def test_a_server_that_is_asked_again_is_told_in_one_line():
    try:
        raise ConnectionError("refused")
    except ConnectionError:
        record = logging.LogRecord("x", logging.WARNING, "", 0, "switching to polling", (), sys.exc_info())
    speaking.speak()
    assert all(f(record) for f in logging.getLogger("prefect.FlowRunCancellingObserver").filters)
    assert record.exc_info is None


def test_plainly_says_the_error_and_exits_1(capsys):
    with pytest.raises(SystemExit) as ended, speaking.plainly("train"):
        raise UserError("data/real: not found. Run `dvc repro`.")
    assert ended.value.code == 1
    assert capsys.readouterr().err == "train: data/real: not found. Run `dvc repro`.\n"


def test_want_of_rights_is_told_and_a_broken_disk_is_shown_whole(capsys):
    with pytest.raises(SystemExit) as ended, speaking.plainly("train"):
        raise OSError(errno.EACCES, "Permission denied", "/srv/nothing")
    assert ended.value.code == 1
    assert "Permission denied: '/srv/nothing'" in capsys.readouterr().err
    with pytest.raises(OSError, match="broken"), speaking.plainly("train"):
        raise OSError(errno.EIO, "a broken disk")


@pytest.mark.parametrize(("error", "code"), [(None, 0), (UserError("x"), 1), (KeyboardInterrupt(), 130)])
def test_a_command_that_hangs_at_its_exit_ends_with_its_own_code(monkeypatch, error, code):
    ends = []
    monkeypatch.setattr(speaking, "end_in_time", ends.append)
    with suppress(SystemExit), speaking.plainly("train"):
        if error:
            raise error
    assert ends == [code]


def test_progress_reaches_the_log():
    with speaking.plainly("train"):
        assert logging.getLogger("mintage.progress").isEnabledFor(logging.INFO)


def test_a_stopped_run_can_go_on(capsys):
    with pytest.raises(SystemExit) as ended, speaking.plainly("train"):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert "to go on" in capsys.readouterr().err


def test_no_traceback_is_logged_for_an_error_in_plain_words():
    told = speaking.PlainErrors()
    full, broken = OSError(errno.ENOSPC, "no space left"), OSError(errno.EIO, "a broken disk")
    for error, expected in ((UserError("mend it"), 0), (full, 0), (broken, 1), (RuntimeError("a bug"), 1)):
        record = logging.LogRecord("p", logging.ERROR, "", 0, "", (), (type(error), error, None))
        assert told.filter(record) == expected
