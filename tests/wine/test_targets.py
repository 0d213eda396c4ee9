"""Targets on Windows: drive letters that change, files held open by others, read-only attributes, names in any case."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.wine import WindowsPython, windows_path

pytestmark = [pytest.mark.wine, pytest.mark.xdist_group("wine"), pytest.mark.timeout(600)]

# What each program starts with: a parcel, and a target in a folder or on a disk.
HEAD = r"""
import os, subprocess, sys
from datetime import date
from pathlib import Path
from receiver.targets.contract import Parcel, Place
from receiver.targets.directory import DirectoryTarget
from receiver.targets.marker import prepare
from receiver.targets.removable import RemovableTarget, Search
from tape.clock import SYSTEM
from tape.digest import xxh3
from tape.names import SegmentName, SegmentPath

def parcel(seq, data):
    path = str(SegmentPath('bot', 's', date(2026, 1, 1), SegmentName('00112233445566aa', seq, xxh3(data))))
    return Parcel(path, len(data), xxh3(data), lambda: [data])

def folder(name):
    root = Path(name)
    prepare(root, 'nas', clock=SYSTEM)
    return DirectoryTarget(Place('nas'), root)

def usb():
    return RemovableTarget(Place('usb1', kind='removable'), Search())

def said(answers):
    return ' '.join(type(answer).__name__ for answer in answers)

HOLDER = '''
import ctypes, sys
handle = ctypes.windll.kernel32.CreateFileW(sys.argv[1], 0x80000000, 0, None, 3, 0, None)
print('held' if handle != -1 else 'not held', flush=True)
sys.stdin.read()
'''

class held:
    '''A file that another process holds open, shared with nobody.'''
    def __init__(self, path):
        self.path = path
    def __enter__(self):
        self.other = subprocess.Popen([sys.executable, '-c', HOLDER, str(self.path)], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE)
        assert self.other.stdout.readline().strip() == b'held'
    def __exit__(self, *_):
        self.other.communicate()

"""


# Gives the letters that tests use to folders of this side, and takes away the others. It asks Wine's mount manager, as
# Wine's own settings do, and that lists them at once; a link made beside it is seen late, or removed by it.
DRIVES = r"""
import ctypes, json, os, struct, sys
wanted = json.loads(sys.argv[1])
define_unix_drive, fixed, none = 0x6DC080, 3, 1
windows = ctypes.windll.kernel32
manager = windows.CreateFileW(r'\\.\MountPointManager', 0xC0000000, 0, None, 3, 0, None)
assert manager != -1, ctypes.WinError()
for letter in 'EGH':
    folder = os.fsencode(wanted.pop(letter, ''))
    kind, offset = (fixed, 32) if folder else (none, 0)
    asked = struct.pack('<4IQ4H', 33 + len(folder), kind, 0, 0, 0, ord(letter.lower()), offset, 0, 0) + folder + b'\0'
    length = ctypes.c_ulong()
    done = windows.DeviceIoControl(manager, define_unix_drive, asked, len(asked), None, 0, ctypes.byref(length), None)
    assert done or not folder, ctypes.WinError()
    assert bool(windows.GetLogicalDrives() >> (ord(letter) - ord('A')) & 1) == bool(folder), letter
assert not wanted, wanted
"""


def lines(winpy: WindowsPython, program: str) -> list[str]:
    """What a program printed, without what Wine itself says of drives that are folders."""
    printed = winpy.run("-c", HEAD + program, code=0).out.splitlines()
    return [line for line in printed if not line.startswith("wine:")]


@contextlib.contextmanager
def drives(winpy: WindowsPython, **folders: Path) -> Iterator[None]:
    """Drive letters for folders of this side. A program that runs already may miss them for a second."""

    def give(letters: dict[str, str]) -> None:
        winpy.run("-c", DRIVES, json.dumps(letters), code=0)

    give({letter: str(folder) for letter, folder in folders.items()})
    try:
        yield
    finally:
        give({})


def test_a_disk_is_found_at_whatever_letter_it_gets(tmp_path: Path, winpy: WindowsPython) -> None:
    """Prepared as E:, back as G:, it is the same target with what it holds; its clone beside it is refused."""
    disk = tmp_path / "disk"
    disk.mkdir()
    with drives(winpy, E=disk):
        out = lines(
            winpy,
            "prepare(Path('E:/hometape'), 'usb1', clock=SYSTEM)\n"
            "disk = usb()\n"
            "print(disk.state().condition.value, disk.root)\n"
            "print(said(disk.put_many([parcel(0, b'x'), parcel(1, b'y')])))\n",
        )
        assert out == ["ready E:\\hometape", "NoneType NoneType"]
    with drives(winpy, G=disk):
        out = lines(
            winpy,
            "disk = usb()\n"
            "print(disk.state().condition.value, disk.root, len(list(disk.list())))\n"
            "print(said(disk.put_many([parcel(1, b'y'), parcel(2, b'z')])))\n"
            "done = disk.eject()\n"
            "print(done.done, done.hint)\n"
            "print(disk.state().reason)\n",
        )
        assert out[:2] == ["ready G:\\hometape 2", "AlreadyThere NoneType"]
        assert "Safely Remove" in out[2]
        assert "let go" in out[3]
    with drives(winpy, G=disk, H=disk):
        out = lines(winpy, "print(usb().state().condition.value, usb().state().reason)\n")
        assert out[0].startswith("refused")
        assert "G:\\hometape" in out[0]
        assert "H:\\hometape" in out[0]
    assert lines(winpy, "print(usb().state().condition.value)\n") == ["absent"]


def test_the_systems_drive_is_no_disk(tmp_path: Path, winpy: WindowsPython) -> None:
    """`mounted = true` takes another drive or a share, not a folder of C:."""
    with drives(winpy, E=tmp_path):
        out = lines(
            winpy,
            "from receiver.targets.mounts import own_mount\n"
            "for name in ('C:/somewhere', r'\\\\?\\C:\\somewhere', 'E:/tape', r'\\\\nas\\tape\\x',"
            " r'\\\\?\\UNC\\nas\\tape\\x'):\n"
            "    found = own_mount(Path(name))\n"
            "    print(found and found.path)\n",
        )
    assert out == ["None", "None", "E:\\", *["\\\\nas\\tape\\"] * 2]


@pytest.mark.parametrize("root", ["\\\\?\\Z:", "\\\\?\\unix"])
def test_a_folder_without_a_drive_letter_of_its_own(root: str, tmp_path: Path, winpy: WindowsPython) -> None:
    """Stored, proven, listed, set aside below a path that starts as a share does, of which Wine serves none."""
    out = lines(
        winpy,
        f"target = folder({root + windows_path(tmp_path / 'nas')[2:]!r})\n"
        "print(target.root.drive.startswith(2 * chr(92)), target.state().condition.value)\n"
        "items = [parcel(seq, b'%d' % seq) for seq in range(3)]\n"
        "print(said(target.put_many(items)), said(target.put_many(items[:1])))\n"
        "target.note_sums([(item.path, '0' * 64) for item in items])\n"
        "print([target.verify(item.path).digest == item.digest for item in items])\n"
        "print([entry.path for entry in target.list()] == [item.path for item in items])\n"
        "print(target.set_aside(items[0].path, 'why').split('/')[0], len(list(target.list())))\n"
        "print(len(target.sums('bot/s/date=2026-01-01')))\n",
    )
    assert out == [
        "True ready",
        "NoneType NoneType NoneType AlreadyThere",
        "[True, True, True]",
        "True",
        ".hometape-aside 2",
        "2",
    ]
    assert len(list((tmp_path / "nas" / "bot").rglob("*.parquet"))) == 2


def test_a_file_that_another_process_holds_open(tmp_path: Path, winpy: WindowsPython) -> None:
    """A segment or its sums held by a scanner: an error that names it, not a read-only target; later all is well."""
    out = lines(
        winpy,
        f"target = folder({windows_path(tmp_path / 'nas')!r})\n"
        "items = [parcel(seq, b'%d' % seq) for seq in range(2)]\n"
        "print(said(target.put_many(items)))\n"
        "target.note_sums([(item.path, '0' * 64) for item in items])\n"
        "def tried(call):\n"
        "    try:\n"
        "        call()\n"
        "        return 'done'\n"
        "    except Exception as error:\n"
        "        named = Path(items[0].path).name in str(error) or 'SHA256SUMS' in str(error)\n"
        "        return f'{type(error).__name__} {named}'\n"
        "with held(target.root / items[0].path):\n"
        "    print(tried(lambda: target.verify(items[0].path)))\n"
        "    print(tried(lambda: target.set_aside(items[0].path, 'why')))\n"
        "    print(said(target.put_many([items[0], parcel(2, b'2')])), target.state().condition.value)\n"
        "with held((target.root / items[0].path).parent / 'SHA256SUMS'):\n"
        "    print(tried(lambda: target.note_sums([(items[0].path, '0' * 64)])))\n"
        "print(tried(lambda: target.verify(items[0].path)), tried(lambda: target.set_aside(items[0].path, 'why')))\n"
        "print(target.state().condition.value, len(list(target.list())))\n",
    )
    assert out == [
        "NoneType NoneType",
        "DiskError True",
        "DiskError True",
        "AlreadyThere NoneType ready",
        "DiskError True",
        "done done",
        "ready 2",
    ]


def test_read_only_attributes(tmp_path: Path, winpy: WindowsPython) -> None:
    """A segment marked read-only can be read, proven and set aside, and its name is free again."""
    out = lines(
        winpy,
        f"target = folder({windows_path(tmp_path / 'nas')!r})\n"
        "item = parcel(0, b'x')\n"
        "target.put_many([item])\n"
        "target.note_sums([(item.path, '0' * 64)])\n"
        "os.chmod(target.root / item.path, 0o444)\n"
        "print(target.verify(item.path).size, target.state().condition.value)\n"
        "print(target.set_aside(item.path, 'why').split('/')[0])\n"
        "print(said(target.put_many([item])), target.sums('bot/s/date=2026-01-01'))\n",
    )
    assert out == ["1 ready", ".hometape-aside", "NoneType {}"]


def test_names_that_differ_in_case_are_one(tmp_path: Path, winpy: WindowsPython) -> None:
    """A file of the same name in capitals is there already: never replaced, never doubled."""
    out = lines(
        winpy,
        f"target = folder({windows_path(tmp_path / 'nas')!r})\n"
        "item = parcel(0, b'x')\n"
        "path = target.root / item.path\n"
        "path.parent.mkdir(parents=True)\n"
        "path.with_name(path.name.upper()).write_bytes(b'other')\n"
        "print(said(target.put_many([item])), [entry.size for entry in target.list()])\n",
    )
    assert out == ["AlreadyThere [5]"]
