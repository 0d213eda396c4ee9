"""A canary: one tiny segment of its own epoch that goes the whole way home, so that `check` proves the path.

It is built, sealed, uploaded and receipted like any other, in the stream `hometape/canary`; nothing of the
outbox is touched, so it may fly while the service runs.
"""

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from agent.body import SpoolFile
from agent.login import connect
from agent.settings import AgentSettings
from agent.sftp import Connection
from agent.throttle import Throttle
from tape import __version__, digest
from tape.clock import Clock
from tape.errors import ReceiptError
from tape.footer import Footer, Head, SourceRange
from tape.layout import Format, detect
from tape.names import SegmentName, new_epoch, upload_path, utc_day
from tape.receipt import EpochReceipt, load_public, open_receipt
from tape.segment import SegmentWriter

STREAM = "hometape/canary"
_LIMIT = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Flight:
    """How far the canary came. `receipt` is None where no receipt key is pinned; times in s since the upload began."""

    server: str
    ours: bool
    uploaded_s: float
    receipt: EpochReceipt | None
    receipt_s: float


async def fly(
    settings: AgentSettings, key: Path, *, clock: Clock, wait_s: float, said: Callable[[str], None]
) -> Flight:
    """Send a canary and wait up to `wait_s` seconds until its receipt says safe, or at least held.

    Raises LinkError, AuthError, Refused, Resend, ReceiptError, ConfigError.
    """
    receiver = settings.receiver
    throttle = Throttle(receiver.in_flight, clock=clock)
    with tempfile.TemporaryDirectory(prefix="hometape-canary-") as folder, ThreadPoolExecutor(1) as readers:
        name, body = build(Path(folder), settings.agent, clock)
        line = await connect(receiver, agent=settings.agent, key=key, throttle=throttle, clock=clock, readers=readers)
        try:
            said(f"connected to {receiver.host}:{receiver.port} ({line.server})")
            began = clock.monotonic()
            await line.upload(upload_path(STREAM, name), body)
            uploaded = clock.monotonic() - began
            said(f"canary delivered in {uploaded:.2f} s")
            receipt = None
            if receiver.receipt_key:
                receipt = await _receipt(settings, line, name, clock, wait_s)
            return Flight(line.server, line.ours, uploaded, receipt, clock.monotonic() - began)
        finally:
            await line.close()


async def _receipt(
    settings: AgentSettings, line: Connection, name: SegmentName, clock: Clock, wait_s: float
) -> EpochReceipt:
    key = load_public(settings.receiver.receipt_key)
    until = clock.monotonic() + wait_s
    best: EpochReceipt | None = None
    while clock.monotonic() < until and not (best and best.safe):
        data = await line.read(f"/.receipts/{STREAM}.json", _LIMIT)
        if data is not None:
            receipt = open_receipt(data, key, agent=settings.agent, stream=STREAM)
            best = receipt.epochs.get(name.epoch, best)
            if best and best.refused:
                break
        if not (best and best.safe):
            await clock.sleep(0.2)
    if best is None:
        raise ReceiptError(
            f"no receipt for the canary within {wait_s:.0f} s", hint="is a receiver watching this folder?"
        )
    return best


def build(folder: Path, agent: str, clock: Clock) -> tuple[SegmentName, SpoolFile]:
    """A real segment of one row; raises DiskError."""
    now = clock.now_ns()
    epoch = new_epoch()
    line = f'{now} {{"canary":"{epoch}"}}\n'.encode("ascii")
    writer = SegmentWriter(folder / "canary", detect(line, Format.FRAMES, at_start=True, prior=None), level=3)
    writer.append(line, [(len(line), now)])
    head = Head(len(line), digest.xxh3(line))
    footer = Footer(
        agent=agent,
        stream=STREAM,
        epoch=epoch,
        seq=0,
        previous=digest.genesis(agent, STREAM, epoch),
        day=utc_day(now),
        sealed_ns=now,
        row_first=0,
        source=SourceRange("canary", "canary", epoch * 2, 0, len(line), head, final=True),
        agent_version=__version__,
    )
    sealed = writer.close(footer)
    return SegmentName(epoch, 0, sealed.digest), SpoolFile(folder / "canary", sealed.size, sealed.digest)
