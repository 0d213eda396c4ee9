"""Text of one origin on its way to a segment, and where it may be cut. Pure.

A piece ends at a line end wherever possible, holds rows of one UTC day of receipt only, and is small
enough to be parsed at once. A line longer than FRAGMENT leaves in fragments of that size.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np

from agent.budget import BIG_PIECE, BIG_ROWS, FRAGMENT
from tape.digest import xxh3
from tape.footer import LATEST_NS

MARK_COST = 100  # what one receive mark takes in memory, about
_DAY = 86_400_000_000_000
FINGERPRINT = 4096
DAY_ROWS = 1000
_FIRST_SECOND, _LAST_SECOND = 10**9, LATEST_NS // 10**9


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive bytes of an origin. `marks`: (end offset in data, receive time in ns), the last at its end."""

    data: bytes
    marks: tuple[tuple[int, int], ...]

    def split(self, at: int) -> tuple["Piece", "Piece"]:
        """The bytes before and from `at` on; neither may be empty."""
        before = [(end, ns) for end, ns in self.marks if end < at]
        covering = next(ns for end, ns in self.marks if end >= at)
        after = tuple((end - at, ns) for end, ns in self.marks if end > at)
        return Piece(self.data[:at], (*before, (at, covering))), Piece(self.data[at:], after)


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in an origin with what recognises the file there.

    `head`: XXH3-128 of the first `head_length` bytes; `last`: the last min(offset, 4096) bytes before
    `offset`, fewer where they are not known any more.
    """

    offset: int = 0
    head_length: int = 0
    head: str = xxh3(b"")
    last: bytes = b""

    def after(self, data: bytes) -> "Cursor":
        """The place behind some more bytes."""
        head_length, head = self.head_length, self.head
        if head_length < FINGERPRINT and len(self.last) == self.offset:
            first = self.last + data[: FINGERPRINT - len(self.last)]
            head_length, head = len(first), xxh3(first)
        last = data[-FINGERPRINT:] if len(data) >= FINGERPRINT else (self.last + data)[-FINGERPRINT:]
        return Cursor(self.offset + len(data), head_length, head, last)

    @property
    def mid_line(self) -> bool:
        """Whether the next byte continues a line."""
        return bool(self.last) and not self.last.endswith(b"\n")


class Buffer:
    """What was taken of an origin and is not in a piece yet. Offsets are those of the origin's content."""

    __slots__ = ("_data", "_line_in_last", "_marks", "_whole", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        self._data = bytearray()
        self._marks: deque[tuple[int, int]] = deque()
        self._whole = start
        self._line_in_last = False

    def __len__(self) -> int:
        return len(self._data)

    @property
    def end(self) -> int:
        """The offset after the last byte taken."""
        return self.start + len(self._data)

    @property
    def whole(self) -> int:
        """The offset after the last line end taken; `start` if there is none."""
        return self._whole

    @property
    def partial(self) -> int:
        """Bytes of an unfinished last line."""
        return self.end - self._whole

    @property
    def cost(self) -> int:
        """Memory held, bytes."""
        return len(self._data) + MARK_COST * len(self._marks)

    def add(self, data: bytes, ns: int) -> None:
        """Bytes that follow, and when they were read. A row counts as received when its last byte was."""
        before = self.end
        self._data += data
        line_end = data.rfind(b"\n")
        if line_end >= 0:
            self._whole = before + line_end + 1
        if self._marks and (not self._line_in_last or self._marks[-1][1] == ns):
            self._line_in_last = (self._line_in_last and self._marks[-1][1] == ns) or line_end >= 0
            self._marks[-1] = (self.end, ns)
        else:
            self._line_in_last = line_end >= 0
            self._marks.append((self.end, ns))

    def day(self) -> int | None:
        """The UTC day (days since 1970) on which the first row was received; None if there is no row."""
        end = self._first_line_end()
        return next((ns // _DAY for mark, ns in self._marks if mark >= end), None) if end else None

    def cut(self, *, upto: int, max_bytes: int, max_rows: int, partial: bool = False) -> Piece | None:
        """The next piece: up to the offset `upto`, of one day, of at most so many bytes and rows but at least one row.

        `partial`: an unfinished last line may leave as a fragment. None if nothing may leave yet.
        """
        size = self._cut_size(upto - self.start, max_bytes, max_rows)
        if size == 0:
            if self._first_line_end() or not self._data:
                return None
            if len(self._data) < FRAGMENT and not partial:
                return None
            size = min(len(self._data), FRAGMENT)
        return self._take(size)

    def _first_line_end(self) -> int:
        """The offset after the first line end; 0 if there is none."""
        return self.start + self._data.find(b"\n") + 1 if self._whole > self.start else 0

    def _cut_size(self, upto: int, max_bytes: int, max_rows: int) -> int:
        size = min(self._whole - self.start, upto)
        if size <= 0:
            return 0
        first = self._data.find(b"\n") + 1
        if first > FRAGMENT:
            return FRAGMENT
        size = min(size, self._day_end(first))
        most = min(BIG_PIECE, max_bytes)
        if size > most:
            size = max(self._data.rfind(b"\n", 0, most) + 1, first)
        if size > first:
            most = min(BIG_ROWS, max_rows)
            ends = np.frombuffer(self._data, np.uint8, size) == ord("\n")
            if np.count_nonzero(ends) > most:
                size = int(np.flatnonzero(ends)[max(0, most - 1)]) + 1
        return size

    def _day_end(self, first: int) -> int:
        """How many bytes belong to whole lines received on the same day as the first one."""
        day: int | None = None
        same = self.start
        for end, ns in self._marks:
            if end < self.start + first:
                continue
            if day is None:
                day = ns // _DAY
            elif ns // _DAY != day:
                return max(first, self._data.rfind(b"\n", 0, same - self.start) + 1)
            same = end
        return self._whole - self.start

    def _take(self, size: int) -> Piece:
        data = bytes(memoryview(self._data)[:size])
        del self._data[:size]
        end = self.start + size
        marks: list[tuple[int, int]] = []
        while self._marks and self._marks[0][0] <= end:
            mark, ns = self._marks.popleft()
            marks.append((mark - self.start, ns))
        if not marks or marks[-1][0] < size:
            marks.append((size, self._marks[0][1]))
        self.start = end
        self._whole = max(self._whole, end)
        if not self._marks:
            self._line_in_last = False
        return Piece(data, tuple(marks))


def frame_day(data: bytes, at: int) -> int | None:
    """The UTC day that a frame's stamp (seconds to nanoseconds, ten or more digits) lies in; None for other lines."""
    seconds = data[at : at + 10]
    if len(seconds) < 10 or not seconds.isdigit() or not _FIRST_SECOND <= int(seconds) < _LAST_SECOND:
        return None
    return int(seconds) // 86_400


def frames_of_day(data: bytes, day: int | None, rows: int = 0) -> tuple[int, int | None]:
    """How many bytes of these frames go into a segment, and the UTC day of the stamps at their end.

    `day`: that of the frames in it so far, `rows` of them; None if it has none. The segment ends where the next
    day begins if it or that day then has DAY_ROWS rows; else the days share it: a segment for every few rows
    would cost more than the rows. Lines without a stamp go with what precedes them. A stamp of an earlier day ends
    nothing.
    """
    taken, first = _same_day(data, 0, day)
    if first is None or taken == len(data) or rows + data.count(b"\n", 0, taken) >= DAY_ROWS:
        return taken, first
    following = _line_day(data, taken, first)
    dense = _behind_lines(data, taken, DAY_ROWS)
    if dense is not None and _line_day(data, dense - 1, following) == following:
        return taken, first
    least = _behind_lines(data, 0, DAY_ROWS - rows)
    if least is None:
        return len(data), max(following, _line_day(data, len(data) - 1, following))
    return _same_day(data, least, _line_day(data, least - 1, following))


def _same_day(data: bytes, start: int, day: int | None) -> tuple[int, int | None]:
    """Where the day ends that goes on at `start` (at a line's start or inside it), and which: `day`, or the first."""
    at = start
    while day is None and at < len(data):
        day = frame_day(data, at)
        at = data.find(b"\n", at) + 1 or len(data)
    if day is None or start >= len(data) or _line_day(data, len(data) - 1, day) <= day:
        return len(data), day
    low, high = start, len(data) - 1
    while low < high:
        middle = (low + high) // 2
        if _line_day(data, middle, day) <= day:
            low = middle + 1
        else:
            high = middle
    return data.rfind(b"\n", 0, low) + 1, day


def _behind_lines(data: bytes, start: int, count: int) -> int | None:
    """The offset behind so many lines from `start` on; None if there are fewer."""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8, offset=start) == ord("\n")) if start < len(data) else ()
    return start + int(ends[count - 1]) + 1 if len(ends) >= count else None


def _line_day(data: bytes, inside: int, otherwise: int) -> int:
    """The day of the line that holds the byte `inside`."""
    found = frame_day(data, data.rfind(b"\n", 0, inside) + 1)
    return otherwise if found is None else found
