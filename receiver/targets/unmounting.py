"""Taking a disk out of the file system, with whatever the system lets this user do."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from receiver.targets.mounts import Mount, own_mount
from tape.clock import SYSTEM, Clock

_WITHIN = 60.0
_TRIES, _PAUSE = 5, 0.5


@dataclass(frozen=True, slots=True)
class Unmounted:
    """What became of it. `done`: it is unmounted; else `why` not, and what to do. All that was written is on it."""

    where: Path
    done: bool
    why: str = ""
    hint: str = ""


def unmount(root: Path, *, clock: Clock = SYSTEM, explicitly: bool = False) -> Unmounted:
    """Unmount the disk that a folder lies on. On Windows only if `explicitly`: the volume's mount point is dropped."""
    try:
        mount = own_mount(root)
    except OSError as error:
        return Unmounted(root, done=False, why=error.strerror or str(error))
    if mount is None:
        return Unmounted(root, done=False, why=f"{root} is a plain folder, not a disk of its own")
    if sys.platform == "win32" and not explicitly:
        return Unmounted(
            mount.path, done=False, why="Windows takes it out", hint="use `Safely Remove Hardware` in the task bar"
        )
    why = ""
    for number in range(_TRIES):
        if number:
            clock.wait(_PAUSE)
        why = _try(mount)
        if not why or own_mount(root) != mount:
            return Unmounted(mount.path, done=True)
    return Unmounted(mount.path, done=False, why=why, hint=_hint(mount))


def _commands(mount: Mount) -> list[list[str]]:
    """What may unmount it, the plainest first; argument lists, never a shell."""
    if sys.platform == "win32":
        return [["mountvol", str(mount.path), "/P"]]
    if sys.platform == "darwin":
        return [["diskutil", "unmount", str(mount.path)]]
    by_user = ["udisksctl", "unmount", "--no-user-interaction", "--block-device", mount.device]
    return [["umount", "--", str(mount.path)], by_user]


def _try(mount: Mount) -> str:
    """Empty if it worked, else what the last program said."""
    reasons = []
    for command in _commands(mount):
        program = shutil.which(
            command[0], path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
        )
        if program is None:
            continue
        try:
            ended = subprocess.run(
                [program, *command[1:]],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_WITHIN,
                check=False,
                env={**os.environ, "LC_ALL": "C"},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            reasons.append(f"{command[0]}: {error}")
            continue
        if ended.returncode == 0:
            return ""
        said = (ended.stderr or ended.stdout).decode("utf-8", "replace").strip().splitlines()
        reasons.append(said[-1] if said else f"{command[0]} ended with {ended.returncode}")
    return reasons[0] if reasons else "no program to unmount with was found"


def _hint(mount: Mount) -> str:
    if sys.platform == "win32":
        return "close what has files open there, then use `Safely Remove Hardware`"
    return f"close what has files open there (`fuser -vm {mount.path}`), then run `umount {mount.path}` as root"
