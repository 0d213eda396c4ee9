"""Shared ground of the delivery tests: a real outbox and push against the real ingress, over a bad line if wanted."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agent.model import Origin, Spooled
from agent.outbox import Outbox
from agent.push import Push
from agent.settings import ReceiverSettings
from receiver.model import Answer, Outcome, Upload
from tape import keys
from tape.clock import SYSTEM, Clock
from tape.names import BundleName
from tests.support import wait_until_async
from tests.support.ingress import House, Store, parts_of
from tests.support.proxy import Proxy
from tests.unit.agent.outboxes import ORIGIN, open_outbox, place_and_commit


class Home(Store):
    """A store that opens bundles, and says no where it is told to.

    `answers`: by (stream, seq), what to say instead of keeping it; `once`: forget the answer after it was given.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.answers: dict[tuple[str, int], Outcome] = {}
        self.once = False
        self.bundles = 0

    @property
    def sign_key(self) -> Any:
        """The key that signs receipts."""
        return self._key

    async def commit(self, upload: Upload) -> Outcome:
        """Keep an upload, or each segment of a bundle; the worst answer is a bundle's."""
        if isinstance(upload.name, BundleName):
            self.bundles += 1
            self.uploads.append(upload)
            outcomes = [await self._one(part) for part in await asyncio.to_thread(parts_of, upload)]
            return next((outcome for outcome in outcomes if not outcome.ok), outcomes[0])
        return await self._one(upload)

    async def _one(self, upload: Upload) -> Outcome:
        assert not isinstance(upload.name, BundleName)
        key = (upload.stream, upload.name.seq)
        answer = self.answers.pop(key, None) if self.once else self.answers.get(key)
        if answer is not None:
            self.uploads.append(upload)
            upload.path.unlink()
            return answer
        return await super().commit(upload)

    def seqs(self, stream: str = ORIGIN.stream, agent: str = "alpha") -> list[int]:
        """The numbers held of a stream."""
        return [name.seq for name in self.held(agent, stream)]


def fill(outbox: Outbox, count: int, size: int, stream: str = ORIGIN.stream) -> list[Spooled]:
    """Segments of a stream in an outbox, each different, about `size` bytes long."""
    file_id = hashlib.md5(stream.encode(), usedforsecurity=False).hexdigest()
    origin = Origin(file_id, "feed", stream, "/data/ticks.csv", "csv")
    block = bytes(range(256)) * (size // 256 + 1)
    return [place_and_commit(outbox, origin, data=block[:size]) for _ in range(count)]


class Pauses(Clock):
    """The real clock, which notes every pause that is asked for, in seconds."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def sleep(self, seconds: float) -> None:
        """Note it and wait."""
        self.asked.append(seconds)
        await super().sleep(seconds)


class Delivery:
    """Everything for one test: `home`, `house`, `outbox`, `push`, and the `proxy` between them."""

    def __init__(self, folder: Path, home: Home, house: House, proxy: Proxy) -> None:
        self.folder = folder
        self.home = home
        self.house = house
        self.proxy = proxy
        self.outbox: Outbox = open_outbox(folder / "agent", clock=SYSTEM, agent="alpha")
        self.key = folder / "client_key"
        self.key.write_bytes(house.keys["alpha"].export_private_key())
        self.push: Push | None = None
        self.running: asyncio.Task[None] | None = None

    def settings(self, **more: Any) -> ReceiverSettings:
        """Quick retries; `more` replaces."""
        defaults: dict[str, Any] = {
            "host": self.proxy.host,
            "port": self.proxy.port,
            "host_key": keys.public_line(self.house.host_key),
            "connections": 2,
            "retry_min": 0.05,
            "retry_max": 0.4,
            "receipts_every": 0.1,
        }
        return ReceiverSettings(**{**defaults, **more})

    def seal(self, count: int = 1, size: int = 1000, stream: str = ORIGIN.stream) -> list[Spooled]:
        """Segments in the outbox."""
        return fill(self.outbox, count, size, stream)

    def start(self, *, receipt_key: Ed25519PublicKey | None = None, clock: Clock = SYSTEM, **more: Any) -> Push:
        """Start delivering."""
        self.push = Push(
            self.outbox,
            self.settings(**more),
            agent="alpha",
            key=self.key,
            receipt_key=receipt_key or self.home.sign_key.public_key(),
            clock=clock,
        )
        self.running = asyncio.ensure_future(self.push.run())
        return self.push

    async def stop(self) -> None:
        """Stop delivering; an error of `run` comes out here."""
        if self.push is not None and self.running is not None:
            await self.push.stop(grace=0)
            await asyncio.wait([self.running])
            if not self.running.cancelled():
                self.running.result()
            self.push = None

    async def until_held(self, within: float = 20.0) -> None:
        """Wait until the outbox knows that home holds everything."""

        def done() -> bool:
            if self.running is not None and self.running.done():
                self.running.result()
            return self.outbox.waiting() == (0, 0)

        await wait_until_async(done, within=within, what="everything to be held")


@asynccontextmanager
async def delivery(folder: Path, **limits: Any) -> AsyncIterator[Delivery]:
    """A home, a line and an outbox; nothing is sent before `start`."""
    folder.mkdir(exist_ok=True)
    home = Home(folder / "store")
    async with House(folder, store=home, **limits) as house, Proxy(house.port) as proxy:
        made = Delivery(folder, home, house, proxy)
        try:
            yield made
        finally:
            await made.stop()
            made.outbox.close()


REFUSED = Outcome(Answer.QUARANTINED, "its footer can't be read")
RESEND = Outcome(Answer.RESEND, "no space left at home")
CONFLICT = Outcome(Answer.CONFLICT, "other bytes are held under that number")
