"""What is done where nothing is left to bring: a sample is read again, sums are settled, a disk may be unplugged."""

from receiver.catalog_queries import copies_by_age
from receiver.checking import cataloguing
from receiver.fanout_facts import Setup
from receiver.placement import batches
from receiver.targets.contract import State, Target
from tape.log import get_logger

log = get_logger(__name__)
SAFE = "level: safe to unplug"


class Level:
    """Of one target: whether it is level, and what a person there should know (`note`)."""

    def __init__(self, target: Target, setup: Setup) -> None:
        self.level = False
        self.note = ""
        self._target = target
        self._setup = setup
        self._removable = target.place.kind == "removable"
        self._returned_ns: int | None = None  # when a removable disk came back, until its sample was read
        self._there = False
        self._unsettled = True

    def looked(self, state: State) -> None:
        """The target was looked at."""
        if state.readable and not self._there:
            self._unsettled = True  # a disk that is to be unmounted when level is let go by that
            if self._removable:
                self._returned_ns = self._setup.clock.now_ns()
        if not state.readable:
            self.level = False
            self.note = ""
        self._there = state.readable

    def copying(self) -> None:
        """Something is on its way there, or failed."""
        self.level = False
        self.note = ""
        self._unsettled = True

    def arrive(self) -> bool:
        """Nothing is left to bring; whether there is after all. Blocking; raises what the target raises."""
        if self._returned_ns is not None:
            bad = self._sample(self._returned_ns)
            self._returned_ns = None
            if bad:
                log.error("copies that were there are bad", target=self._target.id, bad=bad)
                return True
        if self._unsettled:
            self._target.settle()
            self._unsettled = False
        if not self.level:
            self.level = True
            self.note = SAFE if self._removable else ""
            log.info("a target is level", target=self._target.id)
        return False

    def _sample(self, before_ns: int) -> int:
        """Read again what was there before the disk came back, checked longest ago first; how many are bad."""
        target, most = self._target, self._setup.pace.sample
        if most <= 0:
            return 0
        now = self._setup.clock.now_ns()
        with cataloguing():
            found = self._setup.catalog.ask(
                lambda base: copies_by_age(base, target.id, before_ns=before_ns, now_ns=now, limit=most)
            )
        bad = 0
        for batch in batches([held for _, held in found], files=64, size=target.limits.batch_bytes):
            bad += self._setup.copier.recheck(target, batch)
        log.info("a sample of what was there was read again", target=target.id, copies=len(found), bad=bad)
        return bad
