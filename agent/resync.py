"""Resync toward home: compares everything this outbox ever made with what home holds, and sends again what it lacks.

Compared are sets, not logs: a tree of digests (`tape.inventory`), so what it costs follows what differs. What home
lacks and is still here goes back to the ordinary push, behind what is new; what is here no more is told, for another
target at home may have it. Nothing but the outbox is state: a resync that was cut off is simply done again.
"""

import asyncio
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agent.model import State
from agent.outbox import Outbox
from agent.outbox_inventory import OutboxInventory
from agent.push import RECEIPT_LIMIT, Push
from agent.resync_desk import Ask
from agent.resync_rules import Fate, Plan, Row, StreamPlan, Told, Verdict, judge
from agent.sftp import Connection
from tape.clock import Clock
from tape.errors import ConfigError, LinkError, NotFound, Resend
from tape.inventory import MAX_PAGE, ROOT, Comparison, Difference, Page
from tape.log import get_logger
from tape.receipt import EpochReceipt, open_receipt

log = get_logger(__name__)

LOOK_EVERY = 0.5
_TRIES = 5
_AGAIN_AFTER = 1.0
_AFTER_LOSS = 0.05
_RECEIPT_TRIES = 30


class Phase(StrEnum):
    """How far a resync is."""

    CONNECTING = "waiting for home"
    COMPARING = "comparing"
    SENDING = "sending"
    CHECKING = "comparing again"
    DONE = "done"


@dataclass(slots=True)
class Facts:
    """What is told of a resync while it goes on, and at its end. Sizes in bytes, `rate` in bytes a second.

    `left`/`total`: segments and bytes home is to get, what waited already included. `again`: of those, the ones it
    had lost. `after`: the plan of a second comparison, once all was sent. `link`: why there is no connection now.
    """

    phase: Phase = Phase.CONNECTING
    link: str = ""
    plan: Plan | None = None
    after: Plan | None = None
    again: tuple[int, int] = (0, 0)
    total: tuple[int, int] = (0, 0)
    left: tuple[int, int] = (0, 0)
    rate: float = 0.0
    pages: int = 0
    page_bytes: int = 0
    error: str = ""
    hint: str = ""
    code: str = ""

    @property
    def exit_code(self) -> int:
        """0 level, 1 not level yet, 2 something is gone, wrong, foreign or refused."""
        last = self.after or self.plan
        return 1 if last is None else last.exit_code

    def to_plain(self, *, ranges: bool) -> dict[str, Any]:
        """For JSON; `ranges`: name every segment."""
        return {
            "phase": self.phase.value,
            "link": self.link,
            "plan": self.plan.to_plain(ranges=ranges) if self.plan else None,
            "after": self.after.to_plain(ranges=ranges) if self.after else None,
            "again_segments": self.again[0],
            "again_bytes": self.again[1],
            "total_segments": self.total[0],
            "total_bytes": self.total[1],
            "left_segments": self.left[0],
            "left_bytes": self.left[1],
            "rate_bytes_s": round(self.rate),
            "pages": self.pages,
            "page_bytes": self.page_bytes,
            "error": self.error,
            "hint": self.hint,
            "code": self.code,
            "exit_code": self.exit_code,
        }


Tell = Callable[[Facts], None]


@dataclass(slots=True)
class _Findings:
    """What a comparison gathers: the plan, and the ids of what is to be sent again."""

    plan: Plan = field(default_factory=Plan)
    again: "array[int]" = field(default_factory=lambda: array("q"))

    def add(self, stream: str, epoch: str, verdicts: Iterable[Verdict]) -> None:
        """What one block showed. Wrong ones are sent too: home then has both, and says so durably."""
        kept = list(verdicts)
        self.plan.add(stream, epoch, kept)
        for one in kept:
            held = one.row is not None and one.row.state in (State.HELD, State.SAFE)
            if one.row is not None and held and one.fate in (Fate.MISSING, Fate.WRONG):
                self.again.append(one.row.id)


class _Walk(Comparison):
    """The comparison of trees, judged by the rules of the outbox: what was compacted has no digests any more."""

    def __init__(self, own: OutboxInventory, found: _Findings, skip: Callable[[Row], bool]) -> None:
        super().__init__(own, own.epochs(), partly=own.partly())
        self._inventory = own
        self._found = found
        self._skip = skip

    def differing(self, stream: str, epoch: str, block: int, there: Mapping[int, bytes]) -> Iterable[Difference]:
        """Judge a block; the findings are kept aside."""
        known = self._inventory.known(stream, epoch, block)
        self._found.add(stream, epoch, judge(known, dict(there), skip=self._skip))
        return ()


class Resync:
    """One resync over a running push. `receipt_key` is needed where home has no inventory."""

    def __init__(
        self,
        outbox: Outbox,
        push: Push,
        *,
        receipt_key: Ed25519PublicKey | None,
        clock: Clock,
        tell: Tell = lambda _: None,
    ) -> None:
        self._outbox = outbox
        self._push = push
        self._receipt_key = receipt_key
        self._clock = clock
        self._tell = tell
        self.facts = Facts()

    async def run(self, ask: Ask) -> Facts:
        """Compare, send what is missing, compare again. Waits for home as long as it takes.

        Raises NotFound, InventoryError, ReceiptError, ConfigError, StoreError, DiskError.
        """
        inventory = self._outbox.inventory
        if ask.streams:
            await asyncio.to_thread(self._check, ask.streams)
            inventory = inventory.only(lambda name: any(fnmatchcase(name, pattern) for pattern in ask.streams))
        newest = await asyncio.to_thread(inventory.newest)
        found = await self._compare(inventory, newest, Phase.COMPARING)
        self.facts.plan = found.plan
        self._say()
        if ask.dry_run or not found.plan.total(Fate.MISSING, Fate.WAITING, Fate.WRONG)[0]:
            return self._done()
        pace = self._push.lines.throttle.behind
        pace.rate = ask.bandwidth
        try:
            self.facts.again = await asyncio.to_thread(inventory.send_again, found.again)
            log.info("sent again", segments=self.facts.again[0], bytes=self.facts.again[1])
            await self._follow(inventory, newest)
        finally:
            pace.rate = 0
        for _ in range(_RECEIPT_TRIES):
            self.facts.after = after = (await self._compare(inventory, newest, Phase.CHECKING)).plan
            if not after.by_receipts or not after.total(Fate.MISSING)[0]:
                break
            await self._clock.sleep(_AGAIN_AFTER)  # a drop box takes its time until its receipt tells
        return self._done()

    def _check(self, patterns: Iterable[str]) -> None:
        names = self._outbox.streams()
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise NotFound(f"no stream here is called {pattern}", hint=f"streams are {', '.join(names) or 'none'}")

    def _say(self, phase: Phase | None = None) -> None:
        self.facts.phase = phase or self.facts.phase
        self._tell(self.facts)

    def _done(self) -> Facts:
        self._say(Phase.DONE)
        return self.facts

    async def _follow(self, inventory: OutboxInventory, newest: int) -> None:
        """Wait until home has everything that was to be sent when this began."""
        total, added = inventory.to_send(), inventory.added()
        self.facts.total = total
        while await asyncio.to_thread(inventory.unsent_since, newest):
            now, since = inventory.to_send(), inventory.added()
            left = [min(max(now[n] - (since[n] - added[n]), 0), total[n]) for n in (0, 1)]
            self.facts.left = left[0], left[1]
            self.facts.rate = self._push.progress.rate
            self.facts.link = self._link()
            self._say(Phase.SENDING)
            await self._clock.sleep(LOOK_EVERY)
        self.facts.left = (0, 0)

    # ---- comparing

    async def _compare(self, inventory: OutboxInventory, newest: int, phase: Phase) -> _Findings:
        line = await self._line()
        self._say(phase)
        with inventory.watched() as moved:
            found = _Findings()

            def skip(row: Row) -> bool:
                return row.id > newest or row.id in moved

            root = await self._page(ROOT) if line.ours else None
            if root is None:
                found.plan.by_receipts = True
                await self._by_receipts(inventory, found, skip)
            else:
                await self._by_tree(inventory, found, skip, root)
            await asyncio.to_thread(_count_made, inventory, found.plan)
        return found

    async def _by_tree(
        self, inventory: OutboxInventory, found: _Findings, skip: Callable[[Row], bool], root: bytes
    ) -> None:
        walk = await asyncio.to_thread(_Walk, inventory, found, skip)
        known: dict[Page, bytes | None] = {ROOT: root}
        while pages := walk.wanted():
            wanted = [page for page in pages if not page.stream or inventory.wants(page.stream)]
            bodies = await asyncio.gather(*(self._page(page) for page in wanted if page not in known))
            answers = known | dict(zip((page for page in wanted if page not in known), bodies, strict=True))
            known = {}
            await asyncio.to_thread(_take, walk, answers)
            self._say()
        found.plan.others = walk.others

    async def _by_receipts(self, inventory: OutboxInventory, found: _Findings, skip: Callable[[Row], bool]) -> None:
        key = self._receipt_key
        if key is None:
            raise ConfigError(
                "home has no inventory, and no receipt key is pinned to compare by receipts",
                hint="set receiver.receipt_key in agent.toml",
            )
        for stream in filter(inventory.wants, await asyncio.to_thread(self._outbox.streams)):
            data = await self._read(f"/.receipts/{stream}.json", RECEIPT_LIMIT)
            said: dict[str, EpochReceipt] = {}
            if data is not None:
                last = await asyncio.to_thread(self._outbox.last_receipt_ns, stream)
                said = open_receipt(data, key, agent=self._outbox.agent, stream=stream, newer_than_ns=last).epochs
            await asyncio.to_thread(_by_receipt, inventory, stream, said, found, skip)
            self._say()

    # ---- reading

    def _link(self) -> str:
        lines = self._push.lines
        return "" if lines.up else str(lines.error or "not connected yet")

    async def _line(self) -> Connection:
        """A connection, as soon as there is one."""
        while (line := self._push.lines.calmest()) is None:
            self.facts.link = self._link()
            self._say(Phase.CONNECTING)
            await self._clock.sleep(LOOK_EVERY)
        self.facts.link = ""
        return line

    async def _page(self, page: Page) -> bytes | None:
        data = await self._read(str(page), MAX_PAGE)
        self.facts.pages += 1
        self.facts.page_bytes += len(data or b"")
        return data

    async def _read(self, path: str, limit: int) -> bytes | None:
        """A small file at home; again where home or the line could not give it now."""
        tries = 0
        while True:
            line = await self._line()
            try:
                return await line.read(path, limit)
            except LinkError:
                await self._clock.sleep(_AFTER_LOSS)
            except Resend:
                tries += 1
                if tries >= _TRIES:
                    raise
                await self._clock.sleep(_AGAIN_AFTER)


def _take(walk: _Walk, answers: Mapping[Page, bytes | None]) -> None:
    """Look at the pages that came; what differs is kept by the walk itself."""
    deque(walk.take(answers), maxlen=0)


def _count_made(inventory: OutboxInventory, plan: Plan) -> None:
    """How many segments of each stream were compared."""
    for epoch in inventory.epochs():
        for stream, node in inventory.streams(epoch):
            plan.streams.setdefault(stream, StreamPlan(stream)).made += node.count


def _by_receipt(
    inventory: OutboxInventory,
    stream: str,
    said: Mapping[str, EpochReceipt],
    found: _Findings,
    skip: Callable[[Row], bool],
) -> None:
    """Compare one stream with what its receipt says is held."""
    partly = set(inventory.partly())
    for epoch in inventory.epochs():
        told = Told(said.get(epoch, EpochReceipt()).held)
        own = [number for number, _ in inventory.blocks(stream, epoch)]
        last = max(own, default=-1)
        beyond = range(last + 1, told.last_block + 1) if epoch not in partly else range(0)
        for number in (*own, *beyond):
            found.add(stream, epoch, judge(inventory.known(stream, epoch, number), told.of(number), skip=skip))
