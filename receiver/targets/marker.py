"""The marker that says which target a folder is, and the page for a stranger beside it.

A folder without its marker is never written to: an unmounted mount point looks just like an empty
disk. The marker is made by `prepare`, on a person's word, and never by itself.
"""

import json
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path

from receiver.targets.contract import MARKER, README
from receiver.targets.files import drop_pages
from receiver.targets.medium import GONE_HINT
from tape.clock import Clock
from tape.durable import DISK, Disk, named
from tape.errors import AlreadyThere, TargetAbsent, TargetError

FORMAT = 1
_MAX = 64 * 2**10

STRANGER = """\
This folder is one complete copy of a market tape, kept by Hometape. You need no Hometape to use it.

What is here
    <agent>/<stream>/date=YYYY-MM-DD/<epoch>-<number>-<digest>.parquet
    Each .parquet file ("segment") is a piece of one stream, never changed once written. `date` is the
    UTC day on which the ticks were received. Within one epoch the numbers run without a hole: a missing
    number is a missing piece. <digest> is the XXH3-128 of the file's bytes (`xxhsum -H2`, `xxh128sum`).

How to check it
    Each day's folder holds a file SHA256SUMS. On Linux or a Mac:
        cd <agent>/<stream>/date=YYYY-MM-DD && sha256sum -c SHA256SUMS          (Mac: shasum -a 256 -c)
    Everything at once:
        find . -name SHA256SUMS -execdir sha256sum -c --quiet SHA256SUMS \\;
    On Windows: Get-FileHash FILE, and compare with the line in SHA256SUMS.
    Files in .hometape-aside did not pass a check and are not part of the copy; .hometape-tmp holds
    unfinished work and may be deleted.

How to read it
    Any program that reads Parquet: DuckDB, Polars, pandas, Spark ... for example
        duckdb -c "select * from read_parquet('<agent>/<stream>/*/*.parquet') order by ts_recv limit 10"
    `ts_recv` is the time of receipt (UTC, nanoseconds). A row that could not be split into columns is kept
    whole in the column `raw`; a stream of messages has them in the column `payload`.
    The text from which the ticks were read can be rebuilt to the last byte: each file's Parquet metadata,
    key `hometape`, says in JSON how the columns were written, and which bytes of which file they were.
    With Hometape at hand:
        tape-receiver verify --folder THIS_FOLDER
        tape-receiver export AGENT/STREAM --from THIS_FOLDER --output RESTORED
"""


def read_marker(root: Path, target: str = "ID") -> dict[str, object]:
    """The marker of a folder, looked for as that of `target`; raises TargetAbsent if none is there, or readable."""
    path = root / MARKER
    try:
        with path.open("rb") as file:
            drop_pages(file.fileno())  # a disk that is gone still lives in memory
            data = file.read(_MAX)
    except FileNotFoundError:
        fact = f"{root} has no {MARKER}" if os.path.isdir(root) else f"{root} is not there"  # noqa: PTH112 - never raises
        prepare = f"if the folder is new, wiped or replaced: `tape-receiver resync {target} --prepare`"
        raise TargetAbsent(fact, hint=f"mount it; {prepare}") from None
    except OSError as error:
        raise TargetAbsent(f"{path} can't be read: {error.strerror or error}", hint=GONE_HINT) from error
    return parse_marker(data, str(path))


def check_marker(root: Path, target: str) -> str:
    """The instance of the folder; raises TargetAbsent unless it carries the marker of this target."""
    marker = read_marker(root, target)
    found = marker["id"]
    if found != target:
        raise TargetAbsent(
            f"{root} is marked as target {found!r}, not {target!r}",
            hint="another disk is mounted there, or the configuration names the wrong folder",
        )
    return str(marker.get("instance", ""))


def prepare(root: Path, target: str, *, clock: Clock, disk: Disk = DISK) -> bool:
    """Make a folder the root of a target: marker and README.txt; whether the marker is new.

    Whatever lies there stays. Raises TargetError if the folder is marked as another target, DiskError.
    """
    disk.make_dirs(root)
    try:
        found = read_marker(root)["id"]
    except TargetAbsent as absent:
        if (root / MARKER).exists():
            raise TargetError(str(absent), hint=absent.hint) from absent
        disk.write_new(root / MARKER, marker_text(target, clock))
        fresh = True
    else:
        if found != target:
            raise TargetError(
                f"{root} is marked as target {found!r} already, not {target!r}",
                hint="give this target another folder, or the id that the folder carries",
            )
        fresh = False
    write_readme(root, disk)
    return fresh


def marker_text(target: str, clock: Clock) -> bytes:
    """A fresh marker. Its instance tells this very place from another one that gets the same id later."""
    when = datetime.fromtimestamp(clock.now_ns() // 10**9, UTC).isoformat()
    plain = {"format": FORMAT, "id": target, "instance": secrets.token_hex(8), "prepared": when}
    return json.dumps(plain).encode() + b"\n"


def parse_marker(data: bytes, where: str) -> dict[str, object]:
    """A marker's content; raises TargetAbsent if it can't be one."""
    try:
        plain = json.loads(data)
    except ValueError as error:
        raise TargetAbsent(f"{where} can't be read: {error}") from error
    if not isinstance(plain, dict) or plain.get("format") != FORMAT or not isinstance(plain.get("id"), str):
        raise TargetAbsent(f"{where} is not a marker of format {FORMAT}", hint="update hometape, or check the folder")
    return plain


def write_readme(root: Path, disk: Disk) -> None:
    """Put README.txt there if no file of that name is; raises DiskError."""
    path = root / README
    if path.exists():
        return
    try:
        disk.write_new(path, STRANGER.encode("utf-8"))
    except AlreadyThere:
        return


def identity(root: Path) -> tuple[int, int, int, int]:
    """What changes when another disk, or none, stands at this path: device, inode, time, size of the marker.

    Raises DiskError.
    """
    path = root / MARKER
    with named(path, "looking at"):
        found = path.stat()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
