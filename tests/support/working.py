"""What tests of the working processes of folders share."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from receiver.targets.worker import Worker
from tape.durable import WINDOWS

linux = pytest.mark.skipif(sys.platform != "linux", reason="leases of files: Linux only")
posix = pytest.mark.skipif(WINDOWS, reason="named pipes, links, stopped processes: not on Windows")


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """A file that nobody can open meanwhile: who tries hangs."""
    import fcntl

    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        with path.open("r+b") as file:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            yield
    finally:
        signal.signal(signal.SIGIO, before)


def child_of(worker: Worker) -> psutil.Process:
    """Its process."""
    assert worker._child is not None
    return psutil.Process(worker._child._process.pid)
