"""The sealer: what a segment says of itself is what the outbox knows, and nothing half-made stays."""

import sys
import tracemalloc
from pathlib import Path

import pytest

from agent.buffer import Cursor, Piece
from agent.clock_state import ClockSteps, clock_state
from agent.model import Origin
from agent.outbox import Outbox
from agent.sealer import Kept, OpenSegment, Place, Sealer, Shaped, cursor_of
from tape import digest
from tape.clock import ManualClock
from tape.durable import Disk
from tape.errors import DiskFull
from tape.footer import Footer
from tape.layout import Shape
from tape.segment import verify
from tests.unit.agent.outboxes import open_outbox

ONE = Origin("1" * 32, "feed", "demo/ticks", "/data/a\udcff.csv")
PLACE = Place("/data/a.csv", 1, 2)
TEXT = b"time,price\n" + b"".join(b"%d,%d.25\n" % (n, n) for n in range(300))
NS = 1_700_000_000_123_456_789


def piece(data: bytes) -> Piece:
    """Data that was read at one moment."""
    return Piece(data, ((len(data), NS),))


def started(sealer: Sealer, text: bytes, cursor: Cursor | None = None, shaped: Shaped | None = None) -> OpenSegment:
    """A segment with one piece in it."""
    segment = sealer.open(ONE, cursor or Cursor(), text, shaped or Shaped(), plain=False)
    assert sealer.append(segment, piece(text)) == len(text)
    return segment


def test_footer_row_and_cursor_agree(tmp_path: Path) -> None:
    """Identity, chain, range, head and tail in file, outbox row and cursor are one story."""
    outbox = open_outbox(tmp_path)
    sealer = Sealer(outbox, level=1, clock=ManualClock())
    segment = started(sealer, TEXT)
    first = sealer.seal(segment, PLACE, final=False)
    second = sealer.seal(started(sealer, b"9,9.25\n", segment.cursor, segment.shaped), PLACE, final=True)
    footers: list[Footer] = [verify(outbox.spool / one.path) for one in (first, second)]
    assert [(f.agent, f.stream, f.epoch, f.seq) for f in footers] == [
        ("bot", ONE.stream, outbox.epoch, n) for n in (0, 1)
    ]
    assert footers[0].previous == digest.genesis("bot", ONE.stream, outbox.epoch)
    assert footers[1].previous == first.chain
    assert [f.row_first for f in footers] == [0, footers[0].rows]
    assert [(f.source.start, f.source.end, f.source.final) for f in footers] == [
        (0, len(TEXT), False),
        (len(TEXT), len(TEXT) + 7, True),
    ]
    assert footers[0].source.file == ONE.name
    assert (footers[0].source.head.length, footers[0].source.head.xxh3) == (
        min(4096, len(TEXT)),
        digest.xxh3(TEXT[:4096]),
    )
    assert footers[0].source.digest == digest.xxh3(TEXT)
    assert footers[0].recv_first_ns == footers[0].recv_last_ns == NS
    assert str(footers[0].day) == "2023-11-14"
    stored = outbox.file(ONE.file_id)
    assert stored is not None
    assert stored.known.finished
    assert stored.known.tail == digest.xxh3((TEXT + b"9,9.25\n")[-4096:])
    assert cursor_of(stored).offset == len(TEXT) + 7
    assert [column["name"] for column in footers[1].layout["columns"]] == ["time", "price"]
    outbox.close()


def test_shapes_survive_as_text(tmp_path: Path) -> None:
    """Layout and encodings come back from the outbox as they were."""
    outbox = open_outbox(tmp_path)
    sealer = Sealer(outbox, level=1, clock=ManualClock())
    segment = started(sealer, TEXT)
    sealer.seal(segment, PLACE, final=False)
    stored = outbox.file(ONE.file_id)
    assert stored is not None
    assert Shaped.load(stored.layout, stored.plan) == segment.shaped
    assert segment.shaped.plan is not None
    assert Shaped.load("", "") == Shaped()
    assert Shaped.load(*outbox.last_form(ONE.stream)) == segment.shaped
    outbox.close()


def test_a_kept_piece_comes_back_as_it_was() -> None:
    """Packing loses nothing."""
    one = Piece(TEXT, ((5, 1), (len(TEXT), 2)))
    assert Kept.of(one).piece() == one
    assert Kept.of(one).size == len(TEXT)
    assert len(Kept.of(one).packed) < len(TEXT)


def test_kept_pieces_take_no_more_memory_than_they_need() -> None:
    """A packed piece does not hold on to the compressor's output buffer."""
    big = piece(TEXT * 1000)
    tracemalloc.start()
    try:
        kept = [Kept.of(big) for _ in range(5)]
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 2 * sum(len(one.packed) for one in kept) + 100_000


class Full(Disk):
    """Full from the first naming on."""

    def place(self, temp: Path, final: Path) -> None:
        """No."""
        raise DiskFull("full")


def test_a_failed_seal_leaves_nothing(tmp_path: Path) -> None:
    """After an error no file stays, the seq is free and the cursor has not moved."""
    outbox = open_outbox(tmp_path)
    sealer = Sealer(outbox, level=1, clock=ManualClock(), disk=Full())
    with pytest.raises(DiskFull):
        sealer.seal(started(sealer, TEXT), PLACE, final=False)
    assert [path for path in outbox.spool.rglob("*") if path.is_file()] == []
    assert outbox.head(ONE.stream).next_seq == 0
    assert outbox.file(ONE.file_id) is None
    outbox.close()


def test_plain_means_lines(tmp_path: Path) -> None:
    """`plain` seals text as it stands, whatever it looks like."""
    outbox = open_outbox(tmp_path)
    sealer = Sealer(outbox, level=1, clock=ManualClock())
    segment = sealer.open(ONE, Cursor(), TEXT, Shaped(), plain=True)
    sealer.append(segment, piece(TEXT))
    assert segment.writer.layout.shape is Shape.LINES
    made = sealer.seal(segment, PLACE, final=False)
    assert verify(outbox.spool / made.path).source.digest == digest.xxh3(TEXT)
    outbox.close()


def test_two_streams_have_two_chains(tmp_path: Path) -> None:
    """seq, rows and chain count per stream."""
    outbox = open_outbox(tmp_path)
    sealer = Sealer(outbox, level=1, clock=ManualClock())
    other = Origin("2" * 32, "feed", "demo/other", "/data/b.csv")
    sealer.seal(started(sealer, TEXT), PLACE, final=False)
    segment = sealer.open(other, Cursor(), TEXT, Shaped(), plain=False)
    sealer.append(segment, piece(TEXT))
    made = sealer.seal(segment, PLACE, final=False)
    assert made.name.seq == 0
    assert verify(outbox.spool / made.path).previous == digest.genesis("bot", "demo/other", outbox.epoch)
    outbox.close()


def test_the_kernel_tells_its_clock_state() -> None:
    """On Linux the footer knows whether the clock is synchronised; elsewhere it says that it does not know."""
    state = clock_state()
    if sys.platform.startswith("linux"):
        assert state.synchronised in (True, False)
        assert state.max_error_us is not None
        assert 0 <= state.max_error_us <= 16_000_000
    else:
        assert state.synchronised is None


def test_clock_steps_are_noticed_once() -> None:
    """A jump is told once with its size and sign; small drift is not."""
    clock = ManualClock()
    steps = ClockSteps(clock)
    clock.advance(100)
    assert steps.seen() is None
    clock.wall_ns -= 2_500_000_000
    assert steps.seen() == -2500
    assert steps.seen() is None
    clock.wall_ns += 100_000_000
    assert steps.seen() is None


def test_an_outbox_refuses_a_cursor_that_jumps(tmp_path: Path) -> None:
    """A segment whose start is not the committed cursor is not sealed, and leaves nothing behind."""
    outbox = open_outbox(tmp_path)
    sealer = Sealer(outbox, level=1, clock=ManualClock())
    with pytest.raises(Exception, match="does not continue"):
        sealer.seal(started(sealer, TEXT, Cursor(5, 5, "a" * 32, b"abcd\n")), PLACE, final=False)
    assert [path for path in outbox.spool.rglob("*") if path.is_file()] == []
    assert isinstance(outbox, Outbox)
    outbox.close()
