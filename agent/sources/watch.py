"""File events: a hint where to look, never more. What they miss the poll finds."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath

from watchfiles import Change, awatch

from tape.clock import Clock
from tape.log import get_logger

_log = get_logger(__name__)
STEP_MS = 20
DEBOUNCE_MS = 50
_RETRY = 1.0


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
        self._reason = ""

    def watch(self, folders: Mapping[str, tuple[int, int]], files: Iterable[str]) -> bool:
        """Watch these folders from now on; a folder with another identity is a new one.

        False if some are left out: the library fails on names that are not UTF-8, its own folders' included.
        """
        odd = {path for path in (*folders, *files) if _shy(path)}
        shy = {path if path in folders else str(PurePath(path).parent) for path in odd}
        usable = {path: key for path, key in folders.items() if path not in shy}
        if usable != self._folders:
            self._folders = usable
            self._stop.set()
            self._changed.set()
        return not shy

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
            except (OSError, RuntimeError, ExceptionGroup) as error:
                reason = str(error.exceptions[0] if isinstance(error, ExceptionGroup) else error)
                if reason != self._reason:
                    self._reason = reason
                    _log.warning("file events failed, polling in between", folders=len(folders), reason=reason)
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


def _shy(path: str) -> bool:
    """Whether a name is not UTF-8."""
    return not path.isascii() and any("\udc80" <= letter <= "\udcff" for letter in path)
