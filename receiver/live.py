"""What only the running service knows, left in the state folder for commands of other processes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tape.clock import Clock
from tape.durable import Disk

FILE = "live.json"
STALE_AFTER_NS = 30_000_000_000


def write_live(state: Path, facts: Mapping[str, Any], *, clock: Clock, disk: Disk) -> None:
    """Leave the facts, with the time; raises DiskError."""
    data = json.dumps({**facts, "written_ns": clock.now_ns()}).encode("utf-8")
    disk.replace_loosely(state / FILE, data)


def read_live(state: Path, *, clock: Clock) -> dict[str, Any]:
    """What the running service left; empty if none runs or it has not reported lately."""
    try:
        facts: dict[str, Any] = json.loads((state / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if clock.now_ns() - facts["written_ns"] < STALE_AFTER_NS else {}


def clear_live(state: Path, *, disk: Disk) -> None:
    """The service ends: nothing is live any more; raises DiskError."""
    disk.remove(state / FILE)
