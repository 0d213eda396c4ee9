"""File events: a hint where to look, never more. What they miss the poll finds."""

import asyncio
from collections.abc import Callable

from watchfiles import Change, awatch

from tape.clock import Clock
from tape.log import get_logger

_log = get_logger(__name__)
STEP_MS = 20
DEBOUNCE_MS = 50
_RETRY = 5.0


class Watcher:
    """Watches folders, each for itself (not what is below), and reports changes in batches.

    `report(changes)` is called in the event loop with (path, whether a name came or went). `lost()` is called
    when events may have been missed: after a new set of folders, and after an error of the system.
    """

    def __init__(
        self, clock: Clock, report: Callable[[list[tuple[str, bool]]], None], lost: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._report = report
        self._lost = lost
        self._folders: dict[str, tuple[int, int]] = {}
        self._stop = asyncio.Event()
        self._changed = asyncio.Event()

    def watch(self, folders: dict[str, tuple[int, int]]) -> None:
        """Watch these folders from now on; a folder with another identity is a new one."""
        usable = {path: key for path, key in folders.items() if _speakable(path)}
        if usable != self._folders:
            self._folders = usable
            self._stop.set()
            self._changed.set()

    async def run(self) -> None:
        """Watch until cancelled. A system without events (limits, odd file systems) leaves all to the poll."""
        while True:
            self._changed.clear()
            self._stop = asyncio.Event()
            folders = list(self._folders)
            if not folders:
                await self._changed.wait()
                continue
            try:
                await self._follow(folders)
            except (OSError, RuntimeError) as error:
                _log.warning("file events not available, polling", folders=len(folders), reason=str(error))
                self._lost()
                await self._clock.sleep(_RETRY)

    async def _follow(self, folders: list[str]) -> None:
        changes = awatch(
            *folders,
            watch_filter=None,
            debounce=DEBOUNCE_MS,
            step=STEP_MS,
            stop_event=self._stop,
            recursive=False,
            ignore_permission_denied=True,
        )
        following = asyncio.ensure_future(anext(changes, None))
        try:
            await self._clock.sleep(0)  # it has begun to watch when it first waits
            self._lost()
            while (batch := await following) is not None:
                self._report([(path, change is not Change.modified) for change, path in batch])
                following = asyncio.ensure_future(anext(changes, None))
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await changes.aclose()


def _speakable(path: str) -> bool:
    """Names that are not UTF-8 can't be told to the watching library; the poll looks there."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
