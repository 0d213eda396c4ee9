"""Delivery to a plain OpenSSH server: the agent finds out by itself, and nothing is lost there either."""

import asyncio
import io
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent.model import State
from agent.outbox import Outbox
from agent.push import Push
from agent.resync import Resync
from agent.resync_desk import Ask
from agent.resync_rules import Fate
from agent.settings import ReceiverSettings
from tape.bundle import BundleReader
from tape.clock import SYSTEM
from tape.receipt import EpochReceipt, Receipt, new_key, to_ranges
from tests.support import Program, Proxy, Sshd, wait_until, wait_until_async
from tests.unit.agent.deliveries import fill
from tests.unit.agent.outboxes import open_outbox

pytestmark = pytest.mark.process


class Road:
    """An outbox, a line and a plain server."""

    def __init__(self, folder: Path, sshd: Sshd, proxy: Proxy) -> None:
        self.sshd = sshd
        self.proxy = proxy
        self.state = folder / "agent"
        self.outbox = open_outbox(self.state, clock=SYSTEM, agent="alpha")
        self.push: Push | None = None
        self._running: asyncio.Task[None] | None = None

    @property
    def inbox(self) -> Path:
        """Where the server puts what it gets."""
        return self.sshd.inbox

    def settings(self, **more: Any) -> ReceiverSettings:
        """Quick retries; `more` replaces."""
        defaults: dict[str, Any] = {
            "host": self.proxy.host,
            "port": self.proxy.port,
            "user": self.sshd.user,
            "host_key": self.sshd.host_key,
            "path": self.sshd.base,
            "connections": 2,
            "retry_min": 0.05,
            "retry_max": 0.4,
        }
        return ReceiverSettings(**{**defaults, **more})

    def start(self, **more: Any) -> Push:
        """Start delivering."""
        settings = self.settings(**more)
        key = self.sshd.client_key
        self.push = Push(self.outbox, settings, agent="alpha", key=key, receipt_key=None, clock=SYSTEM)
        self._running = asyncio.ensure_future(self.push.run())
        return self.push

    async def stop(self) -> None:
        """Stop delivering."""
        if self.push is not None and self._running is not None:
            await self.push.stop(grace=0)
            await asyncio.wait([self._running])

    async def until_held(self, within: float = 30.0) -> None:
        """Wait until the outbox knows that everything was delivered."""
        await wait_until_async(lambda: self.outbox.waiting() == (0, 0), within=within, what="everything to be held")

    def delivered(self) -> dict[str, bytes]:
        """What lies in the inbox, by stream and name; bundles opened, unfinished uploads left out."""
        found = {}
        for path in self.inbox.rglob("*.parquet"):
            found[path.relative_to(self.inbox).as_posix()] = path.read_bytes()
        for path in self.inbox.rglob("*.bundle"):
            with path.open("rb") as file:
                reader = BundleReader(file, path.stat().st_size)
                for item in reader.items:
                    sink = io.BytesIO()
                    reader.copy(sink)
                    found[item.path.lstrip("/")] = sink.getvalue()
        return found

    def spooled(self) -> dict[str, bytes]:
        """What the spool holds, by stream and name."""
        spool = self.outbox.spool
        return {path.relative_to(spool).as_posix(): path.read_bytes() for path in spool.rglob("*.parquet")}


@asynccontextmanager
async def a_road(folder: Path, sshd: Sshd) -> AsyncIterator[Road]:
    """The parts put together."""
    async with Proxy(sshd.port) as proxy:
        road = Road(folder, sshd, proxy)
        try:
            yield road
        finally:
            await road.stop()
            road.outbox.close()


@pytest.fixture
async def road(tmp_path: Path, sshd: Sshd) -> AsyncIterator[Road]:
    """An outbox, a line and a plain server."""
    async with a_road(tmp_path, sshd) as made:
        yield made


async def test_a_plain_server_gets_everything(road: Road) -> None:
    """Large and small segments of several streams arrive whole, folders are made, nothing unfinished is left."""
    fill(road.outbox, 30, 700)
    fill(road.outbox, 2, 2_500_000, "deep/er/stream.x")
    fill(road.outbox, 3, 300_000, "other")
    push = road.start()
    await road.until_held()
    assert road.delivered() == road.spooled()
    assert len(road.delivered()) == 35
    assert sum(one.unconfirmed for one in road.outbox.totals()) == 35, "only a receipt confirms it"
    assert not list(road.inbox.rglob("*.part"))
    assert "OpenSSH" in push.progress.server
    assert push.progress.bundles >= 1


async def test_a_server_that_grants_one_session_gets_everything(tmp_path: Path) -> None:
    """`MaxSessions 1`, as some hosts have it: slower, and all the same."""
    with Sshd() as sshd:
        config = sshd.folder / "config"
        text = config.read_text(encoding="utf-8").replace("MaxSessions 64", "MaxSessions 1")
        config.write_text(text, encoding="utf-8", newline="\n")
        sshd.stop()
        sshd.start()
        async with a_road(tmp_path, sshd) as road:
            fill(road.outbox, 30, 700)
            fill(road.outbox, 2, 2_500_000, "deep/er/stream.x")
            road.start()
            await road.until_held()
            assert road.delivered() == road.spooled()


async def test_a_resync_with_a_drop_box_goes_by_its_receipts(road: Road) -> None:
    """A plain server has no inventory: what its receiver's receipt lacks is sent again, and then told as held."""
    made = fill(road.outbox, 6, 300_000)
    push = road.start()
    await road.until_held()
    key = new_key()

    def sign(seqs: list[int]) -> None:
        parts = {road.outbox.epoch: EpochReceipt(held=to_ranges(seqs))}
        folder = road.inbox / ".receipts" / Path(made[0].stream).parent
        folder.mkdir(parents=True, exist_ok=True)
        data = Receipt("alpha", made[0].stream, SYSTEM.now_ns(), parts).sign(key)
        (folder / f"{Path(made[0].stream).name}.json").write_bytes(data)

    for one in (made[2], made[5]):
        (road.inbox / one.path).unlink()
    sign([0, 1, 3, 4])
    resync = Resync(road.outbox, push, receipt_key=key.public_key(), clock=SYSTEM)
    running = asyncio.ensure_future(resync.run(Ask("0" * 16, 0)))
    await wait_until_async(lambda: all((road.inbox / one.path).exists() for one in made), what="both to come again")
    await road.until_held()
    sign(list(range(6)))
    facts = await running
    assert facts.plan is not None
    assert facts.plan.by_receipts
    assert facts.plan.streams[made[0].stream].counts[Fate.MISSING].ranges == {road.outbox.epoch: [(2, 2), (5, 5)]}
    assert (facts.exit_code, facts.again[0]) == (0, 2)


async def test_what_an_earlier_attempt_left_is_written_anew(road: Road) -> None:
    """A leftover `.part`, shorter or longer than the segment, does not end up in it."""
    short, long = fill(road.outbox, 2, 400_000)
    for one, junk in ((short, b"junk"), (long, b"x" * 500_000)):
        path = road.inbox / f"{one.path}.part"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(junk)
    road.start()
    await road.until_held()
    assert road.delivered() == road.spooled()
    assert not list(road.inbox.rglob("*.part"))


async def test_what_is_there_already_counts_if_its_size_is_right(road: Road) -> None:
    """A segment whose OK was lost is not sent again; one in whose place other bytes lie is refused, not replaced."""
    there, other = fill(road.outbox, 2, 400_000)
    for one in (there, other):
        (road.inbox / one.path).parent.mkdir(parents=True, exist_ok=True)
    (road.inbox / there.path).write_bytes((road.outbox.spool / there.path).read_bytes())
    (road.inbox / other.path).write_bytes(b"something else")
    road.start()
    await road.until_held()
    assert road.proxy.sent < 400_000
    assert (road.inbox / other.path).read_bytes() == b"something else"
    (stream,) = road.outbox.totals()
    assert {state: count for state, (count, _) in stream.states.items()} == {State.HELD: 1, State.REFUSED: 1}
    assert "conflict: " in stream.reasons[0]
    assert not list(road.inbox.rglob("*.part"))


async def test_an_inbox_that_is_missing_is_said_plainly(road: Road) -> None:
    """A wrong `receiver.path` is named with the key to change; once it is there, all arrives."""
    fill(road.outbox, 2, 300_000)
    base = road.sshd.base.rstrip("/") + "/not/there"
    push = road.start(path=base)
    await wait_until_async(lambda: f"no folder {base}" in push.progress.last_error)
    (road.inbox / "not/there").mkdir(parents=True)
    await road.until_held()
    assert len(list((road.inbox / "not/there").rglob("*.parquet"))) == 2


async def test_folders_that_vanish_are_made_again(road: Road) -> None:
    """Whoever empties the inbox may take the folders with the files."""
    fill(road.outbox, 1, 300_000)
    road.start(connections=1)
    await road.until_held()
    (path,) = road.inbox.rglob("*.parquet")
    path.unlink()
    path.parent.rmdir()
    fill(road.outbox, 1, 300_000)
    await road.until_held()
    assert len(list(road.inbox.rglob("*.parquet"))) == 1


async def test_cuts_and_a_killed_server_lose_nothing(road: Road) -> None:
    """The line is cut in the middle of uploads and the server killed and started again: all arrives, whole."""
    fill(road.outbox, 20, 600_000)
    road.start()
    for number in range(4):
        cuts = road.proxy.cuts
        road.proxy.cut_after(1_500_000)
        await wait_until_async(lambda: road.proxy.cuts > cuts or road.outbox.waiting() == (0, 0))  # noqa: B023 - awaited at once
        if number == 1:
            await asyncio.to_thread(road.sshd.stop)
            road.proxy.cut()
            await asyncio.to_thread(road.sshd.start)
    await road.until_held()
    assert road.proxy.cuts >= 4
    assert road.delivered() == road.spooled()


async def test_a_flipped_bit_never_reaches_a_file(road: Road) -> None:
    """Bits that flip on the way break connections, and what is delivered is right."""
    fill(road.outbox, 6, 500_000)
    for at in (300_000, 1_000_000, 1_800_000):
        road.proxy.flip(at)
    road.start()
    await road.until_held()
    assert road.proxy.flipped == 3
    assert road.delivered() == road.spooled()


_AGENT = """
import asyncio, sys
from pathlib import Path
from agent.outbox import Outbox
from agent.push import Push
from agent.resync import Resync
from agent.resync_desk import Ask
from agent.resync_rules import Fate
from agent.settings import ReceiverSettings
from tape.clock import SYSTEM

async def main() -> None:
    outbox = Outbox.open(Path(sys.argv[1]), "alpha", clock=SYSTEM)
    settings = ReceiverSettings.model_validate_json(sys.argv[2])
    await Push(outbox, settings, agent="alpha", key=Path(sys.argv[3]), receipt_key=None, clock=SYSTEM).run()

asyncio.run(main())
"""


def held(outbox: Outbox) -> int:
    """How many segments the outbox has as held."""
    return sum(stream.states.get(State.HELD, (0, 0))[0] for stream in outbox.totals())


@pytest.fixture
def quiet_proxy(sshd: Sshd) -> Iterator[Proxy]:
    """A line with a thread of its own."""
    with Proxy(sshd.port, rate=3_000_000) as proxy:
        yield proxy


def test_an_agent_killed_in_the_middle_goes_on_where_it_was(tmp_path: Path, sshd: Sshd, quiet_proxy: Proxy) -> None:
    """SIGKILL again and again: after each start only what is not on record as held is sent, and all arrives."""
    made = Road(tmp_path, sshd, quiet_proxy)
    fill(made.outbox, 24, 400_000)
    whole = sum(len(data) for data in made.spooled().values())
    made.outbox.close()
    argv = [sys.executable, "-c", _AGENT, str(made.state), made.settings().model_dump_json(), str(sshd.client_key)]
    before: list[int] = []

    def passed(mark: int, agent: Program) -> bool:
        return quiet_proxy.sent > mark or not agent.running or len(list(sshd.inbox.rglob("*.parquet"))) == 24

    done = False
    while not done:
        with Program(argv) as agent:
            mark = quiet_proxy.sent + 2_500_000
            wait_until(partial(passed, mark, agent))
            assert agent.running, agent.report()
            done = len(list(sshd.inbox.rglob("*.parquet"))) == 24
        made.outbox = open_outbox(made.state, clock=SYSTEM, agent="alpha")
        before.append(held(made.outbox))
        made.outbox.close()
    made.outbox = open_outbox(made.state, clock=SYSTEM, agent="alpha")
    assert made.delivered() == made.spooled()
    made.outbox.close()
    assert len(before) >= 2
    assert before == sorted(before)
    assert before[-1] > 0
    # Each kill may cost what was under way, never what was held.
    assert quiet_proxy.sent < whole + len(before) * 3_000_000
