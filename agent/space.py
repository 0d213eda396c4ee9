"""Whether there is room to seal: spool, disk, and a disk that refused a moment ago."""

import shutil
from dataclasses import dataclass

from agent.budget import Pause, may_seal
from agent.outbox import Outbox
from agent.settings import SpoolSettings
from tape.errors import DiskError, DiskFull
from tape.log import get_logger

RETRY = 5.0  # seconds until a refusing disk is tried again

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Collecting:
    """What the collector is doing, for status. `waiting_s`: age of the oldest text that is in no sealed segment."""

    pause: Pause
    held_bytes: int
    origins: int
    open_segments: int
    waiting_s: float
    stuck: tuple[str, ...]


class Space:
    """The state of the room there is. Times are monotonic seconds."""

    def __init__(self, outbox: Outbox, settings: SpoolSettings) -> None:
        self._outbox = outbox
        self._settings = settings
        self.pause = Pause.NONE
        self._retry_at = 0.0

    def free(self) -> int:
        """Bytes free on the spool's file system."""
        return shutil.disk_usage(self._outbox.spool).free

    def paused(self) -> bool:
        """Whether nothing new may be started now; notices a spool that has just become full."""
        if not self.pause and self._outbox.spooled_bytes() >= self._settings.max_bytes:
            self._set(Pause.SPOOL_FULL)
        return self.pause is not Pause.NONE

    def refused(self, error: DiskError, now: float) -> None:
        """The disk refused a write: everything waits for a while."""
        self._retry_at = now + RETRY
        self._set(Pause.DISK_FULL if isinstance(error, DiskFull) else Pause.DISK_ERROR)

    def refusing(self, now: float) -> bool:
        """Whether the disk refused so recently that it is not asked again."""
        return now < self._retry_at

    def look(self, now: float, free: int) -> bool:
        """Judge again, with the free bytes of the file system; whether work may go on that had to wait."""
        if self.refusing(now):
            return False
        was = self.pause
        self._set(
            may_seal(
                spooled=self._outbox.spooled_bytes(),
                max_bytes=self._settings.max_bytes,
                free=free,
                keep_free=self._settings.keep_free,
            )
        )
        return was is not Pause.NONE and self.pause is Pause.NONE

    def _set(self, pause: Pause) -> None:
        if pause is self.pause:
            return
        self.pause = pause
        if pause:
            log.warning("sealing waits", why=pause.value, spooled=self._outbox.spooled_bytes())
        else:
            log.info("sealing goes on")
