"""The parts that differ on Windows, run there: the same unit tests, and what only Windows does."""

import re

import pytest

from tests.support.wine import WindowsPython

pytestmark = [pytest.mark.wine, pytest.mark.xdist_group("wine"), pytest.mark.timeout(600)]

# Unit tests that must hold on Windows as they are: what pytest is given, and how many pass at least. Left out is what
# no system can change (how text becomes columns) or what only takes long.
ROOMS = {
    "what both sides stand on": (("tests/unit/tape", "-k", "not layout and not bundle"), 200),
    "ingress": (("tests/unit/receiver/ingress",), 95),
    "catalog, targets and moves": (
        ("tests/unit/receiver/targets", "tests/unit/receiver/test_catalog.py", "tests/unit/receiver/test_moving.py"),
        40,
    ),
    "inspection and drop box": (("tests/unit/receiver/test_inspect.py", "tests/unit/receiver/test_dropbox.py"), 40),
}


@pytest.mark.parametrize("room", ROOMS)
def test_unit_tests_hold_on_windows(room: str, winpy: WindowsPython) -> None:
    """A room's unit tests pass under Windows; what they skip there, they skip because of Windows."""
    chosen, least = ROOMS[room]
    ended = winpy.run("-m", "pytest", "-p", "no:cacheprovider", "-q", "-rs", *chosen, within=540)
    assert ended.code == 0, ended.out[-8000:]
    passed = re.search(r"(\d+) passed", ended.out)
    assert passed, ended.out
    assert int(passed[1]) >= least
    for reason in re.findall(r"^SKIPPED .*?:\d+: (.*)$", ended.out, flags=re.MULTILINE):
        assert re.search(r"windows|posix|glibc|linux|unix", reason, flags=re.IGNORECASE), f"skipped: {reason}"


def test_the_defaults_are_windows_own(winpy: WindowsPython) -> None:
    """Text without a stated encoding would be cp1252 with CRLF here, so forgetting one would show."""
    program = (
        "import locale, os, sys, tempfile, pathlib; p = pathlib.Path(tempfile.mkdtemp()) / 'x';"
        "f = open(p, 'w'); f.write('1\\n'); f.close();"
        "print(sys.platform, locale.getencoding(), p.read_bytes())"
    )
    assert winpy.run("-c", program, code=0).out.split() == ["win32", "cp1252", r"b'1\r\n'"]


def test_a_file_in_use_is_left_whole(winpy: WindowsPython) -> None:
    """A file that a program holds open can't be replaced there: the old bytes stay and the error names it."""
    program = (
        "import tempfile, pathlib\n"
        "from tape.durable import DISK\n"
        "from tape.errors import DiskError\n"
        "path = pathlib.Path(tempfile.mkdtemp()) / 'held'\n"
        "path.write_bytes(b'old')\n"
        "with path.open('rb'):\n"
        "    try:\n"
        "        DISK.replace(path, b'new')\n"
        "    except DiskError as error:\n"
        "        print('refused', str(path) in str(error))\n"
        "print(path.read_bytes(), len(list(path.parent.iterdir())))\n"
        "DISK.replace(path, b'new')\n"
        "print(path.read_bytes())\n"
    )
    out = winpy.run("-c", program, code=0).out.splitlines()
    assert [line.strip() for line in out] == ["refused True", "b'old' 1", "b'new'"]


def test_a_file_in_use_for_a_moment_is_waited_for(winpy: WindowsPython) -> None:
    """A scanner or reader that holds a file for a moment only delays its replacement."""
    program = (
        "import tempfile, pathlib, threading\n"
        "from tape.durable import DISK\n"
        "path = pathlib.Path(tempfile.mkdtemp()) / 'held'\n"
        "path.write_bytes(b'old')\n"
        "reader = path.open('rb')\n"
        "threading.Timer(0.3, reader.close).start()\n"
        "DISK.replace(path, b'new')\n"
        "print(reader.closed, path.read_bytes())\n"
    )
    assert winpy.run("-c", program, code=0).out.split() == ["True", "b'new'"]
