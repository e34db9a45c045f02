"""Speaking: a command's log lines, and its end in plain words. Needs no Prefect, which takes a second."""

import errno
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from traceback import extract_tb
from types import TracebackType
from typing import Any, NoReturn

from tasks.children import end_in_time
from tasks.errors import UserError

DENIED = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


@contextmanager
def plainly(name: str) -> Iterator[None]:
    """Show our log lines, say a user's error in its own words, and that a stopped run can go on."""
    signal.signal(signal.SIGTERM, _interrupt)
    speak()
    code = 1
    try:
        yield
        code = 0
    except UserError as error:
        sys.stderr.write(f"{name}: {error}\n")
        sys.exit(code)
    except OSError as error:
        if not denied(error):
            raise
        sys.stderr.write(f"{name}: {error}. Mend this, and run the same command again to go on.\n")
        sys.exit(code)
    except KeyboardInterrupt:
        code = 130
        sys.stderr.write(f"\n{name}: stopped. Run the same command again to go on.\n")
        sys.exit(code)
    finally:
        end_in_time(code)


def from_the_start() -> None:
    """Speak plainly also while a command's modules are imported, if this interpreter was started for one."""
    # While Python finds the module of -m, sys.argv has not its name yet.
    if sys.argv[:1] == ["-m"]:
        sys.excepthook = _early


def _early(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    files = [frame.filename for frame in extract_tb(trace) if frame.name == "<module>"]
    if isinstance(error, KeyboardInterrupt):
        sys.stderr.write("stopped.\n")
    elif any("/prefect/" in file for file in files) and isinstance(error, OSError | ValueError):
        sys.stderr.write(f"prefect: its settings, PREFECT_HOME and others, can't be used: {error}\n")
    else:
        sys.__excepthook__(kind, error, trace)


@cache
def speak() -> None:
    """Show our own log lines in this process, and no traceback for what is said in plain words."""
    logging.getLogger("mintage").setLevel(logging.INFO)
    for logger in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logging.getLogger(logger).addFilter(PlainErrors())
    for logger in ("prefect.FlowRunCancellingObserver", "prefect.FlowRunSuspendingObserver"):
        logging.getLogger(logger).addFilter(untraced)


def denied(error: object) -> bool:
    """Whether an error is want of space or rights, which users mend."""
    return isinstance(error, OSError) and error.errno in DENIED


class PlainErrors(logging.Filter):
    """Keeps Prefect from logging a traceback, twice, for an error that we say in plain words."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop a record that carries a UserError, or the lack of space or rights that becomes one."""
        error = record.exc_info[1] if record.exc_info else None
        return not (isinstance(error, UserError) or denied(error))


def untraced(record: logging.LogRecord) -> bool:
    """Takes the traceback from a record: of a server that went away, and is asked again."""
    record.exc_info = None
    return True


def _interrupt(number: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt
