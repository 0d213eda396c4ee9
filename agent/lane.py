"""The way of one origin's text from the buffer to the outbox: what is where, and what is due. No I/O.

Text is in exactly one place: `buffer`, then `replay` (only after a failed attempt), then a piece in the
hands of a worker, then an open segment, then a segment being sealed. Until the commit, `rewind` can
bring all of it back.
"""

from collections import deque
from dataclasses import dataclass

from agent.budget import BIG_PIECE, FRAGMENT, PIECE, Load
from agent.buffer import Buffer, Cursor, Piece
from agent.model import Origin
from agent.sealer import DAY_NS, Kept, OpenSegment, Place, Shaped
from agent.settings import SealSettings
from tape.layout import Layout


@dataclass(slots=True)
class Wish:
    """A segment should be sealed once everything before `upto` is in it. `cut`: the unfinished line as well."""

    upto: int
    cut: bool
    since: float


class Lane:
    """One origin's text in memory. Times are monotonic seconds unless they are called ns."""

    def __init__(self, origin: Origin, place: Place, cursor: Cursor, shaped: Shaped) -> None:
        self.origin = origin
        self.place = place
        self.buffer = Buffer(cursor.offset)
        self.replay: deque[Kept] = deque()
        self.flying: Piece | None = None
        self.segment: OpenSegment | None = None
        self.sealing: list[OpenSegment] = []
        self.committed = cursor  # all before it is in the outbox
        self.cursor = cursor  # where the next segment starts
        self.shaped = shaped
        self.wish: Wish | None = None
        self.roll = False  # the open segment can't take what follows
        self.wanted: Layout | None = None  # the layout that what follows asked for
        self.failures = 0  # since the last commit, disk errors not counted
        self.finishing = False
        self.ended = False  # the commit of its last segment said so
        self.broken: Exception | None = None
        self.stuck = ""
        self.retry_at = 0.0
        self.working = False
        self.seal_running = False
        self.first_at: float | None = None
        self.grown_at = 0.0
        self.midnight_at = 0.0
        self.queued_due: float | None = None
        self.counted = 0

    def take(self, data: bytes, ns: int, now: float) -> None:
        """Bytes that follow."""
        self.buffer.add(data, ns)
        self.grown_at = now
        if self.first_at is None:
            self.first_at = now
            self.midnight_at = now + (DAY_NS - ns % DAY_NS) / 1e9

    @property
    def plain(self) -> bool:
        """Whether the next segment holds lines as they are, because typing failed."""
        return self.failures > 0

    @property
    def load(self) -> int:
        """Memory held, bytes."""
        flying = len(self.flying.data) if self.flying else 0
        return self.buffer.cost + flying + self._kept

    @property
    def crowded(self) -> bool:
        """Whether a worker has enough text of this lane to go on with, so that reading on would only cost memory."""
        return self.working and self.segment is not None and len(self.buffer) >= 2 * BIG_PIECE

    @property
    def draining(self) -> int:
        """Bytes of text on their way into the open segment, where they take far less room."""
        return self.buffer.whole - self.buffer.start + (len(self.flying.data) if self.flying else 0)

    @property
    def _kept(self) -> int:
        kept = sum(segment.kept_bytes for segment in self.sealing) + sum(len(k.packed) for k in self.replay)
        return kept + (self.segment.kept_bytes if self.segment else 0)

    def as_load(self) -> Load:
        """This lane for the budget; what is being sealed can't be freed sooner and is left out."""
        kept = self.segment.kept_bytes if self.segment else 0
        return Load(self.origin.file_id, self.buffer.whole - self.buffer.start, self.buffer.partial, kept)

    @property
    def idle(self) -> bool:
        """Whether nothing at all is under way or held."""
        held = len(self.buffer) or self.replay or self.flying or self.segment or self.sealing
        return not held and not self.working and self.wish is None and self.broken is None

    @property
    def sealable(self) -> bool:
        """Whether there are whole rows that are in no sealed segment."""
        return bool(self.segment or self.flying or self.replay or self.buffer.whole > self.buffer.start)

    def want(self, now: float, *, cut: bool = False, only_open: bool = False) -> bool:
        """Ask for a segment up to the last line end taken (`cut`: up to the last byte); False if there is nothing.

        `only_open`: an open segment is sealed with what it has, the buffer goes on into the next one.
        """
        if not self.sealable and not (cut and len(self.buffer)):
            return False
        upto = self.buffer.end if cut else self.buffer.whole
        if only_open and not cut and (self.segment or self.flying):
            upto = self.buffer.start
        if self.wish is None:
            self.wish = Wish(upto, cut, now)
        else:
            self.wish = Wish(max(upto, self.wish.upto), cut or self.wish.cut, self.wish.since)
        return True

    def due(self, settings: SealSettings) -> float | None:
        """When this lane wants attention by itself; None if it does not."""
        if self.wish is not None:
            return None
        times = []
        if self.sealable and self.first_at is not None:
            times.append(min(self.first_at + settings.max_age, self.midnight_at))
        if self.buffer.partial:
            times.append(self.grown_at + settings.partial_age)
        return min(times, default=None)

    def attend(self, now: float, settings: SealSettings) -> bool:
        """Ask for what is due by now; whether anything was."""
        due = self.due(settings)
        if due is None or due > now:
            return False
        partial = bool(self.buffer.partial) and self.grown_at + settings.partial_age <= now
        return self.want(now, cut=partial)

    def must_seal(self, settings: SealSettings) -> bool:
        """Whether the open segment is complete."""
        segment = self.segment
        if segment is None or not segment.rows:
            return False
        if self.roll or segment.size >= settings.max_bytes or segment.rows >= settings.max_rows:
            return True
        return self.wish is not None and not self.replay and not self._wanted_text

    @property
    def _wanted_text(self) -> bool:
        """Whether text that the wish asks for is still in the buffer."""
        wish = self.wish
        if wish is None:
            return False
        whole = self.buffer.start < min(wish.upto, self.buffer.whole)
        return whole or (wish.cut and self.buffer.start < wish.upto)

    def next_piece(self, settings: SealSettings, *, may_stream: bool) -> Piece | None:
        """The piece a worker should append now; it is `flying` from then on. None if nothing is due.

        Without a wish only big pieces and overlong lines leave, and only into an open segment or if
        `may_stream` says that one more may be opened.
        """
        if self.replay:
            self.flying = self.replay.popleft().piece()
        elif self.wish is not None:
            upto = self.buffer.whole if self.wish.cut else self.wish.upto
            self.flying = self._cut(settings, upto, partial=self.wish.cut and self._wanted_text)
        elif (self.segment is not None or may_stream) and self._big:
            self.flying = self._cut(settings, self.buffer.whole, partial=False)
        piece = self.flying
        segment = self.segment
        if piece is not None and segment is not None and segment.day != piece.marks[-1][1] // DAY_NS:
            self.hand_back(0)
            self.roll = True
            return None
        return piece

    @property
    def _big(self) -> bool:
        return self.buffer.whole - self.buffer.start >= PIECE or self.buffer.partial >= FRAGMENT

    def _cut(self, settings: SealSettings, upto: int, *, partial: bool) -> Piece | None:
        size = self.segment.size if self.segment else 0
        rows = self.segment.rows if self.segment else 0
        return self.buffer.cut(
            upto=upto,
            max_bytes=max(1, settings.max_bytes - size),
            max_rows=max(1, settings.max_rows - rows),
            partial=partial,
        )

    def hand_back(self, taken: int) -> None:
        """The flying piece was appended up to a byte; the rest comes first next time."""
        piece, self.flying = self.flying, None
        if piece is None or taken == len(piece.data):
            return
        rest = piece if taken == 0 else piece.split(taken)[1]
        self.replay.appendleft(Kept.of(rest))

    def start_sealing(self, now: float) -> tuple[OpenSegment, bool]:
        """Move the open segment to the ones being sealed; whether it is the last of its origin."""
        segment = self.segment
        assert segment is not None
        self.segment, self.roll = None, False
        self.cursor = segment.cursor
        self.shaped = Shaped(self.wanted or segment.writer.layout, segment.writer.plan)
        self.wanted = None
        self.sealing.append(segment)
        since = self.wish.since if self.wish else now
        if not self.replay and not self._wanted_text:
            self.wish = None
        more = bool(len(self.buffer) or self.replay)
        self.first_at = since if more else None
        while self.midnight_at <= now:
            self.midnight_at += 86_400
        return segment, self.finishing and not more

    def sealed(self, segment: OpenSegment, *, final: bool) -> None:
        """A segment was committed."""
        self.sealing.remove(segment)
        self.committed = segment.cursor
        self.failures, self.stuck, self.ended = 0, "", final
        if self.shaped.plan is None:
            self.shaped = Shaped(self.shaped.layout, segment.writer.plan)

    def rewind(self, now: float) -> list[OpenSegment]:
        """After a failure: all that is not committed comes again; the segments to abort."""
        segments = [*self.sealing, *([self.segment] if self.segment else [])]
        pieces = [kept for segment in segments for kept in segment.kept]
        if self.flying is not None:
            pieces.append(Kept.of(self.flying))
        self.replay.extendleft(reversed(pieces))
        self.sealing, self.segment, self.flying, self.broken, self.roll = [], None, None, None, False
        self.wanted = None
        self.cursor = self.committed
        if self.replay:
            self.want(now)
        return segments
