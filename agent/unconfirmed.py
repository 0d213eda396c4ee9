"""Which segments that were left with a plain server have evidently not come home from there.

Such a server's OK says only that a file lies in the drop box; what became of it only home's receipts tell. The clocks
of the two sides are never compared: all times are of this server. The receiver makes its receipts anew every minute,
after it has taken all that lay in the box. So what lay there before LOOKS newer receipts were seen, one well after the
other, and is in none of them, is not there any more or can't be taken: it is sent again, each time after a longer wait.
Sending what is still there costs next to nothing: the agent finds it and leaves it.
"""

from collections import deque
from dataclasses import dataclass

from agent.model import Spooled, State
from tape.clock import Clock

LOOKS = 3
"""So many receipts, each newer than the one before, must have been seen since."""
APART = 45.0
"""Seconds between two of them at the least; the receiver renews a receipt after 60."""
PATIENCE = 300.0
"""Seconds after its delivery before a segment is sent again for the first time; doubled with each further time."""
LONGEST = 24 * 3600.0
_ALL = ""


@dataclass(frozen=True, slots=True)
class _Look:
    """A receipt newer than all before was seen."""

    at: float
    wall_ns: int


class Unconfirmed:
    """Remembers since its start which receipts were seen when; after a restart it takes a little longer."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._newest: dict[str, int] = {}
        self._looks: dict[str, deque[_Look]] = {}
        self._tries: dict[int, int] = {}

    def seen(self, stream: str, issued_ns: int) -> None:
        """A receipt of a stream was read; `issued_ns` grows over all streams."""
        for key in (stream, _ALL):
            newest = self._newest.get(key)
            self._newest[key] = max(issued_ns, newest or 0)
            if newest is None or issued_ns <= newest:  # the first may be as old as it likes
                continue
            looks = self._looks.setdefault(key, deque(maxlen=LOOKS))
            now = self._clock.monotonic()
            if not looks or now - looks[-1].at >= APART:
                looks.append(_Look(now, self._clock.now_ns()))

    def overdue(self, one: Spooled, stream: str = _ALL) -> bool:
        """Whether a segment of which the newest receipt says nothing is to be sent again now.

        `stream`: its own, by whose receipts it is judged; where there are none yet, by those of all streams.
        """
        if one.state is not State.HELD or not one.delivered_ns:
            return False
        looks = self._looks.get(stream)
        if looks is None or len(looks) < LOOKS or looks[0].wall_ns <= one.delivered_ns:
            return False
        patience = min(PATIENCE * 2.0 ** min(self._tries.get(one.id, 0), 30), LONGEST)
        return self._clock.now_ns() - one.delivered_ns >= patience * 1e9

    def sent_again(self, one: Spooled) -> None:
        """It is on its way once more."""
        self._tries[one.id] = self._tries.get(one.id, 0) + 1

    def confirmed(self, one: Spooled) -> None:
        """A receipt tells of it."""
        self._tries.pop(one.id, None)
