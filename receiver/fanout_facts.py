"""What the lanes of the fan-out share, and what they tell of themselves."""

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from receiver.catalog import Catalog
from receiver.copying import Copier
from receiver.targets.contract import State
from tape.clock import Clock

_METER_SPAN, _METER_STEP = 10.0, 0.25


@dataclass(frozen=True, slots=True)
class Pace:
    """How often lanes look up by themselves, in seconds, and the longest pause after failures.

    rescan: everything again, from the beginning; absent: whether an absent target is back, plugged: whether
    a removable one is, refused: whether one that lets nobody in does so now (all but removable disks less and less
    often); grace: for what is under way when the service stops; give_way: to a burst of uploads, at the most;
    seen: how often the time a target was last seen is brought up to date. sample: copies that are read again when a
    removable disk comes back.
    """

    rescan: float = 30.0
    absent: float = 5.0
    plugged: float = 2.0
    refused: float = 60.0
    longest: float = 300.0
    grace: float = 10.0
    give_way: float = 5.0
    seen: float = 30.0
    sample: int = 20


@dataclass(frozen=True, slots=True)
class LaneView:
    """What a lane is doing. Rates over the last 10 s; `silent`: seconds without a sign of life while it should work.

    `copied` and `failed` count from the start of the service; `retry_in`: seconds until the next try. `level`: nothing
    is missing there; `note`: what a person at the target should know, such as that it may be unplugged.
    """

    target: str
    state: State
    under_way: int
    segments_per_second: float
    bytes_per_second: float
    copied: int
    failed: int
    error: str
    retry_in: float
    silent: float
    level: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Setup:
    """What all lanes share. `seen`: told each target's id and instance before anything is copied there."""

    catalog: Catalog
    copier: Copier
    clock: Clock
    changed: Callable[[Collection[tuple[str, str]]], None]
    pace: Pace
    busy: Callable[[], bool]
    seen: Callable[[str, str], None]


@dataclass(slots=True)
class Meter:
    """Segments and bytes of the last seconds, in steps, so that its size is bounded."""

    steps: deque[tuple[float, int, int]] = field(default_factory=deque)

    def add(self, now: float, segments: int, size: int) -> None:
        """So much was copied just now."""
        if self.steps and now - self.steps[-1][0] < _METER_STEP:
            at, so_far, bytes_so_far = self.steps.pop()
            self.steps.append((at, so_far + segments, bytes_so_far + size))
        else:
            self.steps.append((now, segments, size))
        self._forget(now)

    def rates(self, now: float) -> tuple[float, float]:
        """Segments and bytes a second."""
        self._forget(now)
        if not self.steps:
            return 0.0, 0.0
        span = max(1.0, now - self.steps[0][0])
        return sum(step[1] for step in self.steps) / span, sum(step[2] for step in self.steps) / span

    def _forget(self, now: float) -> None:
        while self.steps and now - self.steps[0][0] > _METER_SPAN:
            self.steps.popleft()
