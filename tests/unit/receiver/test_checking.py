"""What an answer of a target says of a copy."""

import os
import sys
from pathlib import Path

import pytest

from receiver.checking import Checker
from tape.clock import SYSTEM
from tape.errors import TargetError
from tests.support.archive import Archive


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of open files is set as it is there")
def test_too_many_open_files_are_no_fault_of_a_copy(tmp_path: Path) -> None:
    """It is neither proven nor bad: nothing would be dropped or put aside for it."""
    import resource

    archive = Archive(tmp_path)
    (held,) = archive.commit()
    checker = Checker(archive.catalog, archive.targets, clock=SYSTEM)
    assert checker.check(archive.home, held)[0] is not None
    lowest = os.dup(0)
    os.close(lowest)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        with pytest.raises(TargetError, match="Too many open files"):
            checker.check(archive.home, held)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert checker.check(archive.home, held)[0] is not None
    archive.catalog.close()
