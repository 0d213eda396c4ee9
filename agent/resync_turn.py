"""Whoever has the outbox open takes its turn at the desk: the service for as long as it runs, or one command."""

import asyncio
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agent.outbox import Outbox
from agent.push import Push
from agent.resync import Facts, Phase, Resync
from agent.resync_desk import Ask, Desk
from tape.clock import Clock
from tape.errors import DiskError, HometapeError, StoreError, SyncFailed
from tape.log import get_logger

log = get_logger(__name__)

LOOK_EVERY = 0.5
_TELL_EVERY = 0.25


class Turn:
    """Does what lies on the desk, one after the other. `seen` is told too, while it goes on."""

    def __init__(
        self,
        desk: Desk,
        outbox: Outbox,
        push: Push,
        *,
        receipt_key: Ed25519PublicKey | None,
        clock: Clock,
        seen: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> None:
        self._desk = desk
        self._outbox = outbox
        self._push = push
        self._receipt_key = receipt_key
        self._clock = clock
        self._seen = seen
        self._told = 0.0
        self._phase: Phase | None = None

    async def serve(self) -> None:
        """Everything that is asked for, for ever. Raises StoreError, SyncFailed."""
        await asyncio.to_thread(self._tidy)
        while True:
            for ask in await asyncio.to_thread(self._desk.waiting):
                await self.attend(ask)
            await self._clock.sleep(LOOK_EVERY)

    async def attend(self, ask: Ask) -> dict[str, Any]:
        """Do one, and leave the last word on the desk; returns it. Raises StoreError, SyncFailed."""
        log.info("resync begins", ask=ask.id, streams=list(ask.streams), dry_run=ask.dry_run)
        resync = Resync(
            self._outbox,
            self._push,
            receipt_key=self._receipt_key,
            clock=self._clock,
            tell=lambda facts: self._tell(ask, facts),
        )
        facts = resync.facts
        try:
            await resync.run(ask)
        except (StoreError, SyncFailed):
            raise
        except HometapeError as error:
            facts.phase, facts.error, facts.hint, facts.code = Phase.DONE, str(error), error.hint, error.code
            log.error("resync failed", ask=ask.id, error=str(error), hint=error.hint)
        except Exception as error:
            log.exception("resync failed in an unforeseen way", ask=ask.id)
            facts.phase, facts.error = Phase.DONE, f"the resync failed: {error!r}"
        else:
            log.info("resync done", ask=ask.id, again=facts.again[0], exit_code=facts.exit_code)
        plain = facts.to_plain(ranges=True)
        await asyncio.to_thread(self._finish, ask, plain)
        return plain

    def _tell(self, ask: Ask, facts: Facts) -> None:
        now = self._clock.monotonic()
        if now - self._told < _TELL_EVERY and facts.phase is self._phase:
            return
        self._told, self._phase = now, facts.phase
        plain = facts.to_plain(ranges=False)
        self._seen(plain)
        try:
            self._desk.tell(ask, plain)
        except DiskError as error:  # a full disk must not end it
            log.warning("the progress of a resync can't be written", error=str(error))

    def _finish(self, ask: Ask, plain: dict[str, Any]) -> None:
        try:
            self._desk.finish(ask, plain)
        except DiskError as error:
            log.warning("the end of a resync can't be written", error=str(error))

    def _tidy(self) -> None:
        try:
            self._desk.tidy()
        except (DiskError, OSError) as error:
            log.warning("old words about resyncs can't be deleted", error=str(error))
