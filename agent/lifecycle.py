"""The life of a segment in the outbox, as a literal table. Pure: values in, decisions out.

Theory in prose. A segment is born SEALED: its file and its row are durable here. It becomes HELD when
home says it is durable there (the upload's OK, or a receipt), SAFE when a signed receipt says that as
many verified copies exist as the policy demands, RELEASED when the spool file is gone. Only `safe` in
a receipt leads to SAFE, and only SAFE leads to FREE: promise 2 is the shape of this table. REFUSED is
kept until a person decides at home. LOST means that the file vanished or changed in the spool before
home called it safe; nothing is sent any more, and nothing is pretended.
"""

from bisect import bisect_right
from enum import StrEnum

from agent.model import State
from tape.receipt import EpochReceipt, Ranges


class SegmentEvent(StrEnum):
    """What can happen to a segment in the outbox."""

    ACKED = "upload acknowledged"
    HELD = "receipt: held"
    SAFE = "receipt: safe"
    RESEND = "asked again"  # by a receipt, or by a resync that did not find it at home
    REFUSED = "refused"  # by the answer to an upload, or by a receipt
    FREED = "spool file deleted"
    MISSING = "spool file missing or changed"
    FOUND = "spool file back"


class Action(StrEnum):
    """What the outbox does after the new state is durable."""

    WAKE = "wake the push"
    FREE = "delete the spool file"
    REPORT = "tell a person"


Step = tuple[State, tuple[Action, ...]]

_E = SegmentEvent
_S = State

TABLE: dict[tuple[State, SegmentEvent], Step] = {
    (_S.SEALED, _E.ACKED): (_S.HELD, ()),
    (_S.SEALED, _E.HELD): (_S.HELD, ()),  # the OK was lost on the way, the receipt was not
    (_S.SEALED, _E.SAFE): (_S.SAFE, (Action.FREE,)),
    (_S.SEALED, _E.RESEND): (_S.SEALED, ()),  # it is on its way already
    (_S.SEALED, _E.REFUSED): (_S.REFUSED, (Action.REPORT,)),
    (_S.SEALED, _E.FREED): (_S.LOST, (Action.REPORT,)),  # nobody was allowed to delete it
    (_S.SEALED, _E.MISSING): (_S.LOST, (Action.REPORT,)),
    (_S.SEALED, _E.FOUND): (_S.SEALED, ()),
    (_S.HELD, _E.ACKED): (_S.HELD, ()),
    (_S.HELD, _E.HELD): (_S.HELD, ()),
    (_S.HELD, _E.SAFE): (_S.SAFE, (Action.FREE,)),
    (_S.HELD, _E.RESEND): (_S.SEALED, (Action.WAKE,)),  # home lost it; we did not
    (_S.HELD, _E.REFUSED): (_S.REFUSED, (Action.REPORT,)),
    (_S.HELD, _E.FREED): (_S.LOST, (Action.REPORT,)),
    (_S.HELD, _E.MISSING): (_S.LOST, (Action.REPORT,)),  # home has one copy, but can't ask again
    (_S.HELD, _E.FOUND): (_S.HELD, ()),
    (_S.SAFE, _E.ACKED): (_S.SAFE, ()),
    (_S.SAFE, _E.HELD): (_S.SAFE, (Action.FREE,)),
    (_S.SAFE, _E.SAFE): (_S.SAFE, (Action.FREE,)),  # an earlier attempt to delete failed
    (_S.SAFE, _E.RESEND): (_S.SEALED, (Action.WAKE,)),  # not deleted yet, so home can have it again
    (_S.SAFE, _E.REFUSED): (_S.REFUSED, (Action.REPORT,)),
    (_S.SAFE, _E.FREED): (_S.RELEASED, ()),
    (_S.SAFE, _E.MISSING): (_S.RELEASED, ()),  # deleted, and the power failed before it was noted
    (_S.SAFE, _E.FOUND): (_S.SAFE, (Action.FREE,)),
    (_S.RELEASED, _E.ACKED): (_S.RELEASED, ()),
    (_S.RELEASED, _E.HELD): (_S.RELEASED, ()),
    (_S.RELEASED, _E.SAFE): (_S.RELEASED, ()),
    (_S.RELEASED, _E.RESEND): (_S.RELEASED, (Action.REPORT,)),  # home lost what it had signed for
    (_S.RELEASED, _E.REFUSED): (_S.RELEASED, (Action.REPORT,)),
    (_S.RELEASED, _E.FREED): (_S.RELEASED, ()),
    (_S.RELEASED, _E.MISSING): (_S.RELEASED, ()),
    (_S.RELEASED, _E.FOUND): (_S.RELEASED, (Action.FREE,)),  # the deletion was not durable
    (_S.REFUSED, _E.ACKED): (_S.HELD, ()),  # a person let it in at home
    (_S.REFUSED, _E.HELD): (_S.HELD, ()),
    (_S.REFUSED, _E.SAFE): (_S.SAFE, (Action.FREE,)),
    (_S.REFUSED, _E.RESEND): (_S.SEALED, (Action.WAKE,)),
    (_S.REFUSED, _E.REFUSED): (_S.REFUSED, ()),
    (_S.REFUSED, _E.FREED): (_S.LOST, (Action.REPORT,)),
    (_S.REFUSED, _E.MISSING): (_S.LOST, (Action.REPORT,)),
    (_S.REFUSED, _E.FOUND): (_S.REFUSED, ()),
    (_S.LOST, _E.ACKED): (_S.LOST, ()),
    (_S.LOST, _E.HELD): (_S.LOST, ()),
    (_S.LOST, _E.SAFE): (_S.RELEASED, ()),  # enough copies elsewhere: nothing is missing any more
    (_S.LOST, _E.RESEND): (_S.LOST, ()),
    (_S.LOST, _E.REFUSED): (_S.LOST, ()),
    (_S.LOST, _E.FREED): (_S.LOST, ()),
    (_S.LOST, _E.MISSING): (_S.LOST, ()),
    (_S.LOST, _E.FOUND): (_S.SEALED, (Action.WAKE,)),  # a person put it back
}


def step(state: State, event: SegmentEvent) -> Step:
    """The next state and what to do once it is durable; every pair has an answer."""
    return TABLE[state, event]


class Said:
    """What a receipt says of one epoch, asked by seq. The most cautious word wins: refused, resend, safe, held."""

    __slots__ = ("_held", "_refused", "_resend", "_safe")

    def __init__(self, receipt: EpochReceipt) -> None:
        self._refused = dict(receipt.refused)
        self._resend = _Lookup(receipt.resend)
        self._safe = _Lookup(receipt.safe)
        self._held = _Lookup(receipt.held)

    def of(self, seq: int) -> tuple[SegmentEvent, str] | None:
        """The event for this seq and its reason (empty unless refused); None if the receipt is silent."""
        if seq in self._refused:
            return SegmentEvent.REFUSED, self._refused[seq]
        if seq in self._resend:
            return SegmentEvent.RESEND, ""
        if seq in self._safe:
            return SegmentEvent.SAFE, ""
        if seq in self._held:
            return SegmentEvent.HELD, ""
        return None

    @property
    def last(self) -> int:
        """The highest seq home claims to hold; -1 if none."""
        return max(self._held.last, self._safe.last)


class _Lookup:
    """Membership in inclusive ranges, whatever their order."""

    __slots__ = ("_firsts", "_ranges", "last")

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = sorted((first, last) for first, last in ranges if first <= last)
        self._firsts = [first for first, _ in self._ranges]
        self.last = max((last for _, last in self._ranges), default=-1)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._firsts, number) - 1
        return at >= 0 and number <= self._ranges[at][1]


def diagram() -> str:
    """The table as a Mermaid state diagram, for docs/lifecycle.md. Moves that change nothing are left out."""
    lines = ["stateDiagram-v2", "    [*] --> sealed: file and cursor committed"]
    for state in State:
        moves: dict[tuple[State, tuple[Action, ...]], list[str]] = {}
        for event in SegmentEvent:
            after, actions = TABLE[state, event]
            if after is not state:
                moves.setdefault((after, actions), []).append(event.value.replace(":", ""))
        for (after, actions), events in moves.items():
            label = " or ".join(events) + (f" / {', '.join(actions)}" if actions else "")
            lines.append(f"    {state.value} --> {after.value}: {label}")
    lines.append("    released --> [*]: row compacted")
    return "\n".join(lines) + "\n"
