"""Bytes a second that a target is expected to take: its limit, what the service sees, or what the last resync did."""

import json
from collections.abc import Mapping
from pathlib import Path

from receiver.live import read_live
from receiver.settings import ReceiverSettings
from receiver.targets.wrappers_paced import Bucket
from receiver.timetable import Timetable
from tape.clock import Clock
from tape.durable import Disk

FILE = "resync-rates.json"


def expected(settings: ReceiverSettings, *, clock: Clock) -> dict[str, float]:
    """Bytes a second by target, as far as anything is known."""
    found = _last(settings.state)
    for lane in read_live(settings.state, clock=clock).get("lanes", []):
        if lane.get("bytes_s"):
            found[lane["target"]] = float(lane["bytes_s"])
    for entry in settings.target:
        limit = Bucket(Timetable.parse(entry.bandwidth), clock=clock).rate() if entry.bandwidth else None
        if limit is not None:
            found[entry.id] = min(float(limit), found.get(entry.id, float(limit)))
    return found


def _last(state: Path) -> dict[str, float]:
    try:
        plain = json.loads((state / FILE).read_text(encoding="ascii"))
        return {str(name): float(rate) for name, rate in plain.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def remember(state: Path, rates: Mapping[str, float], *, disk: Disk) -> None:
    """Keep what was measured for the next plan; raises DiskError."""
    data = json.dumps({**_last(state), **rates}).encode("ascii")
    disk.replace_loosely(state / FILE, data)
