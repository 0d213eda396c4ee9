"""Real disks for tests: file systems in images, mounted through loop devices, pulled and put back."""

import contextlib
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from receiver.targets.mounts import mounts
from tests.support.needs import missing, need_program
from tests.support.waiting import wait_until

# kind -> (program that makes it, its package, its arguments, smallest size in MiB)
_MAKERS: dict[str, tuple[str, str, list[str], int]] = {
    "ext4": ("mkfs.ext4", "e2fsprogs", ["-q", "-F", "-m", "0"], 4),
    "xfs": ("mkfs.xfs", "xfsprogs", ["-q", "-f"], 320),
    "btrfs": ("mkfs.btrfs", "btrfs-progs", ["-q", "-f"], 128),
    "exfat": ("mkfs.exfat", "exfatprogs", [], 8),
    "ntfs": ("mkfs.ntfs", "ntfs-3g", ["-q", "-Q", "-F"], 8),
}
_HELPERS = {"exfat": ("mount.exfat-fuse", "exfat-fuse"), "ntfs": ("ntfs-3g", "ntfs-3g")}
_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, which XFS knows by the same number
_AT_ONCE = 2


LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="disks in images need Linux")


def need_disks(*kinds: str) -> None:
    """Skip (in CI: fail) unless file systems of these kinds can be made and mounted here."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or not Path("/dev/loop-control").exists():
        missing("root with loop devices", "run this test as root on Linux")
    for program in ("losetup", "mount", "umount"):
        need_program(program, package="mount")
    for kind in kinds:
        need_program(_MAKERS[kind][0], package=_MAKERS[kind][1])
        if kind in _HELPERS:
            need_program(_HELPERS[kind][0], package=_HELPERS[kind][1])


@dataclass
class LoopDisk:
    """A disk in an image file of so many MiB. As a context manager it is gone at the end, whatever happened to it."""

    image: Path
    kind: str = "ext4"
    size: int = 16
    where: Path | None = None
    device: str = ""

    def __post_init__(self) -> None:
        need_disks(self.kind)
        program, package, words, least = _MAKERS[self.kind]
        with self.image.open("wb") as file:
            file.truncate(max(self.size, least) * 2**20)
        _run(need_program(program, package=package), *words, str(self.image))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self.pull()
        self.image.unlink(missing_ok=True)

    def plug(self, where: Path, *, options: str = "") -> Path:
        """Mount it; returns the mount point."""
        assert self.where is None, "it is plugged in already"
        if not where.exists():
            where.mkdir(parents=True)
        self.device = _run(need_program("losetup"), "--find", "--show", str(self.image)).strip()
        try:
            if self.kind in _HELPERS:
                _run(
                    need_program(_HELPERS[self.kind][0]), self.device, str(where), *(["-o", options] if options else [])
                )
            else:
                _run("mount", *(["-o", options] if options else []), self.device, str(where))
        except subprocess.CalledProcessError:
            self._free()
            raise
        self.where = where
        return where

    def pull(self) -> None:
        """Take it away this instant, whatever is being written (`umount -l`), as if it had been pulled out."""
        if self.where is not None:
            if self.mounted:
                _run("umount", "-l", str(self.where))
            self.where = None
        self._free()

    def unmounted(self) -> None:
        """Somebody else has unmounted it: let go of the device."""
        assert self.where is not None
        assert not self.mounted
        self.where = None
        self._free()

    @property
    def mounted(self) -> bool:
        """Whether the kernel has it mounted, alive or not."""
        return self.where in {mount.path for mount in mounts()}

    def remount(self, options: str) -> None:
        """Mount it anew with other options, e.g. `ro`."""
        _run("mount", "-o", f"remount,{options}", str(self.where))

    def break_down(self) -> None:
        """Every access fails from now on, while it stays mounted: a cable that came loose (ext4, XFS)."""
        import fcntl

        number = os.open(self.where or "", os.O_RDONLY)
        try:
            fcntl.ioctl(number, _SHUTDOWN, struct.pack("I", _AT_ONCE))
        finally:
            os.close(number)

    def lose(self) -> None:
        """What is read from it fails from now on, though the kernel has not noticed yet: memory alone answers."""
        with self.image.open("r+b") as file:
            file.truncate(0)

    def find_fault(self) -> None:
        """The kernel finds an error in it and, as mounted with `errors=remount-ro`, takes no more writes (ext4)."""
        switch = Path("/sys/fs/ext4") / Path(self.device).name / "trigger_fs_error"
        switch.write_text("found by a test", encoding="utf-8", newline="")

    def bytes_read(self) -> int:
        """What its device has been asked for since it was plugged in."""
        return 512 * int((Path("/sys/block") / Path(self.device).name / "stat").read_text(encoding="ascii").split()[2])

    def clone(self, image: Path) -> "LoopDisk":
        """A second disk with the same bytes, as `dd` makes it."""
        image.write_bytes(self.image.read_bytes())
        other = object.__new__(LoopDisk)
        other.image, other.kind, other.size, other.where, other.device = image, self.kind, self.size, None, ""
        return other

    def _free(self) -> None:
        if self.device:
            device, self.device = self.device, ""

            def gone() -> bool:  # a program that serves it may need a moment to end
                return subprocess.run(["losetup", "-d", device], capture_output=True, check=False).returncode == 0

            with contextlib.suppress(AssertionError):
                wait_until(gone, within=10, what=f"{device} to be free")


@contextlib.contextmanager
def plugged(
    folder: Path, kind: str = "ext4", *, size: int = 16, name: str = "disk", options: str = ""
) -> Iterator[LoopDisk]:
    """A fresh disk, mounted at `folder/name`."""
    with LoopDisk(folder / f"{name}.img", kind, size) as disk:
        disk.plug(folder / name, options=options)
        yield disk


def in_memory(path: Path) -> bool:
    """Whether the first page of a file lies in the page cache."""
    with path.open("rb", buffering=0) as file:
        try:
            return os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT) == 1  # type: ignore[attr-defined,unused-ignore]  # Linux
        except BlockingIOError:
            return False


def _run(*words: str) -> str:
    return subprocess.run(words, capture_output=True, check=True, text=True, encoding="utf-8").stdout
