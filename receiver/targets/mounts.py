"""Which file system a folder lies on, and where disks appear: what each system says of its mounts.

A mount point on which nothing is mounted is a folder of the system's own disk. What counts as a mount of
its own: anything but the root of the system (the drive it started from), and not a folder that was only
mounted onto itself, as systemd does for the paths a service may write.
"""

import os
import re
import string
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePath

LOOK_IN = {
    "win32": [f"{letter}:\\" for letter in string.ascii_uppercase[2:]],
    "darwin": ["/Volumes/*"],
    "linux": ["/media/*", "/media/*/*", "/run/media/*/*", "/mnt/*"],
}
TABLE = Path("/proc/self/mountinfo")
FAT_MOST = 4 * 2**30 - 1
_FAT = {"vfat", "msdos", "fat", "fat32", "fat16"}
_NETWORK = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|afpfs|webdav|9p|ceph|fuse\.(sshfs|rclone|s3fs|davfs)|davfs|glusterfs|afs"
)
_LONG = re.compile(r"^\\\\\?\\((?P<share>UNC\\)|(?=[a-z]:))", re.IGNORECASE)  # Windows: another way to write the same
_ESCAPED = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted file system: where, what device, of which kind. `root`: the folder of it that is seen there."""

    path: Path
    device: str
    system: str
    number: str = ""
    root: str = "/"

    @property
    def network(self) -> bool:
        """Whether it is another machine's: never looked at in search of a disk, since it may hang."""
        return _NETWORK.fullmatch(self.system) is not None

    @property
    def file_system(self) -> str:
        """Its kind. `fuseblk` is any kind that a program serves: the disk itself says which, if we may look."""
        return (_on_disk(self.device) if self.system == "fuseblk" else "") or self.system

    @property
    def max_file(self) -> int | None:
        """The largest file it holds, where that is little."""
        return FAT_MOST if self.file_system.lower() in _FAT else None


def mounts() -> list[Mount]:
    """What is mounted now; of two on one place, the one on top. Asks no disk."""
    try:
        data = TABLE.read_bytes() if sys.platform == "linux" else b""
    except OSError:
        data = b""
    if not data:
        return _elsewhere()
    return list({mount.path: mount for mount in _parse(data)}.values())


def own_mount(folder: Path) -> Mount | None:
    """The mount of its own that a folder lies on; None if it lies on the system's. Raises OSError."""
    if sys.platform == "win32":
        return _own_drive(folder)
    real = Path(os.path.realpath(folder))
    lines = {mount.path: mount for mount in mounts()}
    above = [lines[place] for place in (real, *real.parents) if place in lines]
    for mount, outer in pairwise(above):
        if not _onto_itself(mount, outer):
            return mount
    return None


def disks(look_in: Sequence[str], *, mounted: bool = True) -> list[Path]:
    """Places where a removable disk may be now: mount points (or, if not `mounted`, folders) that fit a pattern."""
    if not mounted:
        return [place for pattern in patterns(look_in) for place in _matching(pattern)]
    local = [mount.path for mount in mounts() if not mount.network]
    return sorted(path for path in local if any(_fits(path, pattern) for pattern in patterns(look_in)))


def patterns(look_in: Sequence[str]) -> list[str]:
    """Where disks are looked for; by default where this system mounts them."""
    return list(look_in) or LOOK_IN.get(sys.platform, LOOK_IN["linux"])


def _fits(path: Path, pattern: str) -> bool:
    return PurePath(pattern).is_absolute() and len(path.parts) == len(PurePath(pattern).parts) and path.match(pattern)


def _matching(pattern: str) -> Iterator[Path]:
    path = Path(pattern)
    try:
        yield from sorted(one for one in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if one.is_dir())
    except (OSError, ValueError, NotImplementedError):
        return


def _onto_itself(mount: Mount, outer: Mount) -> bool:
    """Whether it shows what would be seen there without it."""
    below = mount.path.relative_to(outer.path).as_posix()
    return mount.number == outer.number and PurePath(mount.root) == PurePath(outer.root) / below


def _parse(data: bytes) -> Iterator[Mount]:
    """The lines of mountinfo(5)."""
    for line in data.splitlines():
        before, _, after = line.partition(b" - ")
        fields, more = before.split(b" "), after.split(b" ")
        if len(fields) < 6 or len(more) < 2:
            continue
        yield Mount(Path(_text(fields[4])), _text(more[1]), _text(more[0]), _text(fields[2]), _text(fields[3]))


def _text(field: bytes) -> str:
    return os.fsdecode(_ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), field))


def _on_disk(device: str) -> str:
    try:
        with Path(device).open("rb", buffering=0) as disk:
            head = disk.read(512)
    except OSError:
        return ""
    name = head[3:11].strip().lower()
    return {b"exfat": "exfat", b"ntfs": "ntfs"}.get(name, "vfat" if b"FAT" in head[54:90] else "")


def _elsewhere() -> list[Mount]:
    import psutil

    return [
        Mount(Path(one.mountpoint), one.device, "cifs" if "remote" in one.opts.split(",") else one.fstype.lower())
        for one in psutil.disk_partitions(all=False)
    ]


def _own_drive(folder: Path) -> Mount | None:
    """Windows: a share, a drive other than the system's, or a disk mounted into a folder."""
    real = Path(_LONG.sub(lambda found: "\\\\" if found["share"] else "", os.path.realpath(folder)))
    drive = real.drive
    if drive.startswith("\\\\"):
        return Mount(Path(real.anchor), drive, "cifs")
    known = {str(mount.path).rstrip("\\").lower(): mount for mount in _elsewhere()}
    for place in (real, *real.parents):
        if place != Path(real.anchor) and os.path.ismount(place):
            return known.get(str(place).rstrip("\\").lower(), Mount(place, str(place), ""))
    if drive.lower() == os.environ.get("SYSTEMDRIVE", "C:").lower():
        return None
    return known.get(drive.lower(), Mount(Path(real.anchor), drive, ""))
