"""Who may come in, and how much of the house one guest may take. Pure bookkeeping; nothing here waits."""

from collections import Counter
from collections.abc import Iterable
from typing import Protocol, TypeVar

PER_ADDRESS = 4
"""Connections from one address that may be logging in at a time."""
GRACE = 2.0
"""Seconds in which a connection is not the first to leave, however little it said."""
UNFINISHED = 4
"""An agent's unfinished uploads may hold this many times its largest upload."""
FULL_WINDOWS = 8
"""Sessions of an agent that get the full window; later ones get an eighth, so that memory stays bounded."""
SMALLEST_WINDOW = 2 << 20


class Caller(Protocol):
    """A connection that has not logged in, there `since` a time of the monotonic clock, in seconds."""

    address: str
    since: float

    @property
    def progress(self) -> int:
        """Steps of the handshake done; 0 for one that said nothing."""


C = TypeVar("C", bound=Caller)


def to_leave(waiting: Iterable[C], address: str, now: float, *, total: int, per_address: int = PER_ADDRESS) -> C | None:
    """Which caller must leave so that one from `address` may come in; None if there is room.

    One of the same address where that holds its share, else of the address that holds most; among those
    one past its grace, then the one that has come least far, then the oldest. So idle connections only
    ever crowd out each other. `waiting` is in the order of arrival.
    """
    callers = list(waiting)
    counts = Counter(caller.address for caller in callers)
    if counts[address] >= per_address:
        crowd = [caller for caller in callers if caller.address == address]
    elif len(callers) >= total:
        most = max(counts.values())
        crowd = [caller for caller in callers if counts[caller.address] == most]
    else:
        return None
    return min(crowd, key=lambda caller: (now - caller.since < GRACE, caller.progress))


def agent_to_shorten(connected: Counter[str], newcomer: str, *, total: int) -> str | None:
    """Whose newest connection must go so that `newcomer` may have one more; None if there is room.

    The agent that holds most loses one; that is the newcomer itself unless another holds more than it
    would then.
    """
    if connected.total() < total:
        return None
    greedy, count = connected.most_common(1)[0]
    return greedy if count > connected[newcomer] + 1 else newcomer


def window_for(sessions: int, window: int) -> int:
    """The SSH window, bytes, for an agent's next session when it has this many."""
    if sessions < FULL_WINDOWS:
        return window
    return max(min(window, SMALLEST_WINDOW), window // 8)


class Allowance:
    """What one agent uses of its limits. `stored`: bytes it has at home, asked when an upload begins."""

    def __init__(self, *, max_sessions: int, max_upload: int, quota: int) -> None:
        self.max_upload = max_upload
        self._max_sessions = max_sessions
        self._max_unfinished = UNFINISHED * max_upload
        self._quota = quota
        self._unfinished = 0
        self._stored = 0
        self.sessions = 0

    @property
    def unfinished(self) -> int:
        """Bytes of uploads that are not committed yet."""
        return self._unfinished

    def enter(self) -> bool:
        """Count a session in, if one more is allowed."""
        if self.sessions >= self._max_sessions:
            return False
        self.sessions += 1
        return True

    def leave(self) -> None:
        """Count a session out."""
        self.sessions -= 1

    def begin(self, stored: int) -> str:
        """Why no upload may begin now; "" if it may."""
        self._stored = stored
        if self._quota and stored + self._unfinished >= self._quota:
            return f"resend: the quota of {self._quota} bytes is used up"
        return ""

    def take(self, size: int, already: int) -> str:
        """Count bytes of an upload that has `already` so many; gives why they are refused, or ""."""
        if already + size > self.max_upload:
            return f"refused: an upload may hold {self.max_upload} bytes at most"
        if self._quota and self._stored + self._unfinished + size > self._quota:
            return f"resend: the quota of {self._quota} bytes is used up"
        if self._unfinished + size > self._max_unfinished:
            return "resend: too many bytes in unfinished uploads"
        self._unfinished += size
        return ""

    def give_back(self, size: int) -> None:
        """Bytes that are no longer in an unfinished upload."""
        self._unfinished -= size
