"""Shared ground of the outbox tests: small segments of arbitrary bytes, committed as the sealer does it."""

from pathlib import Path

from agent.model import KnownFile, Origin, Spooled
from agent.outbox import Outbox
from agent.outbox_rows import NewSegment, StoredFile
from tape import digest
from tape.clock import Clock, ManualClock
from tape.durable import DISK, Disk
from tape.names import SegmentName
from tape.receipt import EpochReceipt, Ranges, Receipt

ORIGIN = Origin("0" * 31 + "1", "feed", "demo/ticks", "/data/ticks.csv", "csv")


def open_outbox(state: Path, *, clock: Clock | None = None, disk: Disk = DISK, agent: str = "bot") -> Outbox:
    """An outbox in a folder, with a clock that stands still unless one is given."""
    return Outbox.open(state, agent, clock=clock or ManualClock(), disk=disk)


def known(origin: Origin, offset: int, *, finished: bool = False) -> KnownFile:
    """A cursor at `offset` with digests that need not be true."""
    length = min(offset, 4096)
    return KnownFile(origin, origin.name, 5, 2**63 + 7, offset, length, "a" * 32, length, "b" * 32, finished)


def place_and_commit(
    outbox: Outbox,
    origin: Origin = ORIGIN,
    *,
    data: bytes = b"x" * 10,
    length: int = 100,
    start: int | None = None,
    seq: int | None = None,
) -> Spooled:
    """A segment file in the spool and its commit, `length` source bytes further; `start`, `seq`: other than due."""
    stored = outbox.file(origin.file_id)
    if start is None:
        start = stored.known.offset if stored else 0
    head = outbox.head(origin.stream)
    both = digest.BothDigests()
    both.update(data + str(head.next_seq).encode())
    name = SegmentName(outbox.epoch, head.next_seq if seq is None else seq, both.digest)
    path = outbox.spool / origin.stream / str(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data + str(head.next_seq).encode())
    file = StoredFile(known(origin, start + length), b"t" * 5, '{"layout":1}', "")
    new = NewSegment(origin.stream, name, both.size, both.sha256, 7, 1_000, 900, start, file)
    return outbox.commit(new)


def receipt(outbox: Outbox, issued_ns: int, stream: str = ORIGIN.stream, *, epoch: str = "", **said: object) -> Receipt:
    """A receipt for one epoch; `safe=[0, 1]` and the like as plain seqs, `refused=[(seq, why)]`."""
    parts: dict[str, Ranges] = {
        key: tuple((n, n) for n in value)  # type: ignore[attr-defined]  # lists of seqs, given by the test
        for key, value in said.items()
        if key != "refused"
    }
    refused = tuple(said.get("refused", ()))  # type: ignore[arg-type,var-annotated]  # pairs, given by the test
    return Receipt(outbox.agent, stream, issued_ns, {epoch or outbox.epoch: EpochReceipt(refused=refused, **parts)})
