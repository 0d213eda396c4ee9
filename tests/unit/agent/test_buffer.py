"""Cutting text into pieces: every byte once, whole lines, one day, bounded size, honest receive times."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.budget import BIG_ROWS, FRAGMENT
from agent.buffer import DAY_ROWS, Buffer, Cursor, Piece, frames_of_day
from tape.digest import xxh3

DAY = 86_400_000_000_000


def drained(buffer: Buffer, *, partial: bool = False, max_bytes: int = 1 << 40, max_rows: int = 1 << 40) -> list[Piece]:
    """All pieces that may leave now."""
    pieces = []
    while piece := buffer.cut(upto=buffer.whole, max_bytes=max_bytes, max_rows=max_rows, partial=partial):
        pieces.append(piece)
    return pieces


@given(
    st.lists(st.tuples(st.text("ab\n", max_size=12), st.integers(0, 3)), max_size=40),
    st.integers(1, 40),
    st.integers(1, 6),
)
def test_pieces_give_back_every_byte_with_its_time(
    chunks: list[tuple[str, int]], max_bytes: int, max_rows: int
) -> None:
    """Pieces are gapless, end at line ends, hold one day; a row's time is that of its last byte."""
    buffer = Buffer(7)
    times: list[int] = []
    stream = b""
    day = 0
    for text, days in chunks:
        day += days
        if text:
            stream += text.encode()
            times += [day * DAY + len(stream)] * len(text)
            buffer.add(text.encode(), day * DAY + len(stream))
    pieces = drained(buffer, max_bytes=max_bytes, max_rows=max_rows)
    whole = stream.rfind(b"\n") + 1
    assert b"".join(piece.data for piece in pieces) == stream[:whole]
    at = 0
    for piece in pieces:
        assert piece.data.endswith(b"\n")
        rows = piece.data.count(b"\n")
        assert rows <= max_rows
        assert rows == 1 or len(piece.data) <= max_bytes
        assert piece.marks[-1][0] == len(piece.data)
        assert [end for end, _ in piece.marks] == sorted({end for end, _ in piece.marks})
        days_seen = set()
        for end, byte in enumerate(piece.data, 1):
            if byte == ord("\n"):
                ns = next(ns for mark, ns in piece.marks if mark >= end)
                assert ns == times[at + end - 1]
                days_seen.add(ns // DAY)
        assert len(days_seen) == 1
        at += len(piece.data)
    rest = drained(buffer, partial=True)
    assert b"".join(piece.data for piece in rest) == stream[whole:]
    assert len(buffer) == 0
    assert buffer.cost == 0
    assert buffer.start == 7 + len(stream)


def test_one_byte_chunks_do_not_pile_up_marks() -> None:
    """The memory of receive marks grows with lines, not with chunks."""
    buffer = Buffer(0)
    for n in range(10_000):
        buffer.add(b"x", n)
    assert buffer.cost < 11_000
    assert buffer.cut(upto=buffer.whole, max_bytes=1 << 40, max_rows=1 << 40) is None


def test_an_overlong_line_leaves_in_fragments() -> None:
    """A line above 4 MiB leaves in fragments at once, its end as a rest; a line of exactly 4 MiB stays whole."""
    buffer = Buffer(0)
    line = b"y" * (FRAGMENT - 1) + b"\n"
    buffer.add(line, 1)
    assert [len(piece.data) for piece in drained(buffer)] == [FRAGMENT]
    for _ in range(9):
        buffer.add(b"z" * 2**20, 2)
    assert [len(piece.data) for piece in drained(buffer)] == [FRAGMENT, FRAGMENT]
    buffer.add(b"z\nnext\npart", 3)
    assert [piece.data[-5:] for piece in drained(buffer)] == [b"next\n"]
    assert bytes(drained(buffer, partial=True)[0].data) == b"part"


def test_an_overlong_line_that_came_at_once_is_cut_the_same_way() -> None:
    """A chunk with a whole 9 MiB line in it gives pieces of at most 4 MiB."""
    buffer = Buffer(0)
    buffer.add(b"a\n" + b"z" * (9 * 2**20) + b"\nb\n", 1)
    sizes = [len(piece.data) for piece in drained(buffer)]
    assert sizes == [2, FRAGMENT, FRAGMENT, 2**20 + 1 + 2]
    assert max(sizes) <= FRAGMENT


def test_short_rows_leave_in_pieces_of_few() -> None:
    """However short rows are, a piece has no more than BIG_ROWS of them: parsing takes memory for each."""
    buffer = Buffer(0)
    buffer.add(b"\n" * (BIG_ROWS * 2 + 5), 1)
    sizes = []
    while (piece := buffer.cut(upto=buffer.end, max_bytes=2**30, max_rows=2**30)) is not None:
        sizes.append(len(piece.data))
    assert sizes == [BIG_ROWS, BIG_ROWS, 5]


def test_a_wish_stops_at_its_offset() -> None:
    """`upto` leaves later lines in the buffer."""
    buffer = Buffer(0)
    buffer.add(b"a\nb\n", 1)
    upto = buffer.whole
    buffer.add(b"c\n", 2)
    piece = buffer.cut(upto=upto, max_bytes=1 << 40, max_rows=1 << 40)
    assert piece is not None
    assert piece.data == b"a\nb\n"
    assert buffer.cut(upto=upto, max_bytes=1 << 40, max_rows=1 << 40) is None
    assert buffer.whole == 6


@given(st.binary(max_size=9000), st.lists(st.integers(1, 5000), max_size=8))
def test_the_cursor_knows_head_and_tail(data: bytes, sizes: list[int]) -> None:
    """However the bytes come, head and tail are digests of the first and last 4096 bytes."""
    cursor = Cursor()
    at = 0
    for size in [*sizes, len(data)]:
        cursor = cursor.after(data[at : at + size])
        at = min(len(data), at + size)
    assert cursor.offset == len(data)
    assert (cursor.head_length, cursor.head) == (min(4096, len(data)), xxh3(data[:4096]))
    assert cursor.last == data[-4096:]
    assert cursor.mid_line == (bool(data) and not data.endswith(b"\n"))


def test_splitting_a_piece_keeps_its_times() -> None:
    """Both halves of a piece have marks that end at their ends."""
    piece = Piece(b"abcdef", ((2, 10), (4, 20), (6, 30)))
    before, after = piece.split(3)
    assert before == Piece(b"abc", ((2, 10), (3, 20)))
    assert after == Piece(b"def", ((1, 20), (3, 30)))
    before, after = piece.split(4)
    assert before.marks == ((2, 10), (4, 20))
    assert after.marks == ((2, 30),)


FIRST = 1_700_000_000 // 86_400 * 86_400


@pytest.mark.parametrize(
    ("seconds", "day", "taken"),
    [
        ([0, 1, 86_399], None, 3),
        ([0, 86_399, 86_400, 86_401], None, 2),
        ([86_399, 86_400], None, 1),
        ([0, 1], FIRST // 86_400 - 1, 0),
        ([0, 1], FIRST // 86_400, 2),
        ([0] * 500 + [90_000] * 700, None, 500),
    ],
)
def test_frames_are_cut_at_midnight_of_their_stamps(seconds: list[int], day: int | None, taken: int) -> None:
    """A run of frames ends where the UTC day of the stamps changes, if the segment has rows enough."""
    data = framed(seconds)
    found, first = frames_of_day(data, day, DAY_ROWS)
    assert found == len(framed(seconds[:taken]))
    assert first == (FIRST // 86_400 if day is None else day)


def framed(seconds: list[int]) -> bytes:
    """Frames of some moments."""
    return b"".join(f"{FIRST + s}000000000 {{}}\n".encode() for s in seconds)


@pytest.mark.parametrize("step", [3_600, 14_400, 86_400, 500_000])
def test_days_with_few_frames_share_a_segment(step: int) -> None:
    """However far apart the stamps are, a segment has as many rows as make it worth its file."""
    data = framed([n * step for n in range(4_500)])
    at, runs = 0, []
    while at < len(data):
        taken, _ = frames_of_day(data[at:], None)
        runs.append(data.count(b"\n", at, at + taken))
        at += taken
    assert min(runs[:-1]) >= DAY_ROWS
    assert max(runs) < DAY_ROWS + 25


def test_a_dense_day_begins_a_segment_of_its_own() -> None:
    """A few frames before midnight stay out of the segment of a day that has many; one that may have few goes on."""
    before = framed([86_390, 86_395])
    after = framed([86_400 + n for n in range(DAY_ROWS)])
    assert frames_of_day(before + after, None) == (len(before), FIRST // 86_400)
    assert frames_of_day(after, FIRST // 86_400, 2) == (0, FIRST // 86_400)
    assert frames_of_day(after[:-1], FIRST // 86_400, 2) == (len(after) - 1, FIRST // 86_400 + 1)


def test_stamps_of_an_earlier_day_end_nothing() -> None:
    """Late frames, and numbers that are no time, stay with the day they come in."""
    data = framed([90_000] * DAY_ROWS + [80_000, 90_000] * 10)
    assert frames_of_day(data, None) == (len(data), FIRST // 86_400 + 1)
    odd = framed([90_000]) + b"8389765514270012345 BUY\n0000000001 x\n"
    assert frames_of_day(odd, None, DAY_ROWS) == (len(odd), FIRST // 86_400 + 1)


def test_lines_without_stamps_go_with_the_day() -> None:
    """Garbage between frames changes nothing; garbage alone has no day."""
    stamp = f"{FIRST}000000000 x\n".encode()
    later = f"{FIRST + 90_000}000000000 x\n".encode()
    data = b"??\n" + stamp + b"##\n" + later
    assert frames_of_day(data, None, DAY_ROWS) == (len(data) - len(later), FIRST // 86_400)
    assert frames_of_day(b"a\nb\n", None) == (4, None)
    assert frames_of_day(b"a\nb\n", 5) == (4, 5)
    assert frames_of_day(stamp + b"part", None) == (len(stamp) + 4, FIRST // 86_400)
