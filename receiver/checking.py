"""Whether a copy is what it should be, and what follows if it is not. Blocking; for threads.

A copy counts only after its target has proven it, by reading its bytes back or as well as that target can, and the
digests are the segment's. What fails that no longer counts, is told as an incident, and is put aside.
"""

import contextlib
import errno
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from receiver.catalog import Catalog
from receiver.home_bytes import HomeBytes
from receiver.model import Copy, Held
from receiver.targets import pulse
from receiver.targets.contract import Parcel, Proof, Target
from tape.clock import Clock
from tape.errors import DiskError, DiskFull, HometapeError, NotFound, SyncFailed, TargetError
from tape.log import get_logger

BAD_COPY = "copy"
FAULTS = (TargetError, DiskFull, SyncFailed)
"""What is no copy's fault: the target itself has to wait."""
_OURS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # what this process may not have says nothing of a copy
log = get_logger(__name__)


class CatalogStopped(Exception):
    """The catalog can't be written any more: the service stops and recovers. `error` is what it said."""

    def __init__(self, error: HometapeError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class Checked:
    """One copy after its check: its proof; or why it is bad; or the fault of the target that left it undecided."""

    proof: Proof | None = None
    why: str = ""
    fault: HometapeError | None = None


def nobody(_: Target, __: Held) -> int:
    """No other lane is near."""
    return 0


class Checker:
    """Proves copies and rejects bad ones. Thread-safe.

    `company`: how many other targets will soon want the home bytes that one is about to get.
    """

    def __init__(
        self,
        catalog: Catalog,
        targets: Sequence[Target],
        *,
        clock: Clock,
        company: Callable[[Target, Held], int] = nobody,
    ) -> None:
        self.catalog = catalog
        self.targets = {target.id: target for target in targets}
        self.home = next(target for target in targets if target.place.home)
        self.clock = clock
        self.bytes = HomeBytes(self.home, clock=clock)
        self._company = company
        self._closed = False

    def close(self) -> None:
        """Nothing found from now on is recorded, by whatever thread may still hang in a target."""
        self._closed = True

    def still_open(self) -> None:
        """Raises TargetError after `close`."""
        if self._closed:
            raise TargetError("the fan-out has ended: what was found since is found anew")

    def check(self, target: Target, held: Held) -> tuple[Proof | None, str]:
        """The proof of a copy, or None and what is wrong with it. Raises TargetAbsent and what is no copy's fault."""
        checked = self.check_many(target, [held])[0]
        if checked.fault is not None:
            raise checked.fault
        return checked.proof, checked.why

    def check_many(self, target: Target, batch: Sequence[Held]) -> list[Checked]:
        """What each copy of a batch turns out to be. Raises what concerns the whole target."""
        return self.proofs(target, batch, {held.id: held.sha256 for held in batch})

    def proofs(
        self, target: Target, batch: Sequence[Held], promised: dict[int, str], *, fresh: bool = False
    ) -> list[Checked]:
        """The same where the SHA-256 by segment is known otherwise. `fresh`: see Parcel."""
        if not batch:
            return []
        parcels = [replace(self.parcel(target, held, {}, promised.get(held.id, "")), fresh=fresh) for held in batch]
        return [judged(held, answer) for held, answer in zip(batch, target.verify_many(parcels), strict=True)]

    def recheck(self, target: Target, batch: Sequence[Held]) -> int:
        """Check copies that counted before, as `verify` does: each bad one twice; how many no longer count."""
        good: list[Copy] = []
        bad = 0
        for held, checked in zip(batch, self.check_many(target, batch), strict=True):
            if checked.fault is not None:
                raise checked.fault
            proof, why = (checked.proof, "") if checked.proof is not None else self.check(target, held)
            self.still_open()
            if proof is None:
                bad += 1
                self.reject(target, held, why)
            else:
                good.append(Copy(held.id, target.id, self.clock.now_ns(), proof.method))
        with cataloguing():
            self.catalog.add_copies(good)
        return bad

    def reject(self, target: Target, held: Held, why: str) -> None:
        """A copy failed its check: it no longer counts, and makes room for a good one where that is safe.

        The home file stays until a good copy is at hand, since it may be the last one.
        """
        self.still_open()
        with cataloguing():
            self.tell(held, target, why)
        if target is not self.home and target.capabilities.aside:
            with contextlib.suppress(NotFound):
                where = target.set_aside(str(held.path), why)
                log.warning("a bad copy was put aside", target=target.id, segment=str(held.path), where=where)

    def tell(self, held: Held, target: Target, why: str) -> None:
        """Drop the copy if the catalog counts it, and have an open incident either way."""
        log.error("a copy is bad", target=target.id, segment=str(held.path), reason=why)
        if any(copy.target == target.id for copy in self.catalog.copies(held.id)):
            self.catalog.drop_copy(held.id, target.id, why)
            return
        self.catalog.record_incident(
            BAD_COPY,
            agent=held.path.agent,
            stream=held.path.stream,
            subject=f"{held.id} at {target.id}",
            text=f"the copy of {held.path} at {target.id} is not good: {why}",
        )

    def parcel(self, target: Target, held: Held, trouble: dict[int, HometapeError], sha256: str) -> Parcel:
        """A segment as targets take it; see `home_bytes`."""
        path = str(held.path)

        def read() -> Iterable[bytes]:
            return self.home_bytes(target, held, trouble)

        local = None if target is self.home else self.home.local(path)
        return Parcel(path, held.size, held.path.name.digest, read, sha256, local)

    def home_bytes(self, target: Target, held: Held, trouble: dict[int, HometapeError]) -> Iterator[bytes]:
        """The home bytes of a segment; what goes wrong with reading them is kept apart from what the target does."""
        try:
            for block in self.bytes.read(str(held.path), others=self._company(target, held)):
                pulse.moved()
                yield block
        except HometapeError as error:
            trouble[held.id] = error
            raise


def judged(held: Held, answer: Proof | HometapeError) -> Checked:
    """What a target's answer says of a copy."""
    if isinstance(answer, NotFound):
        return Checked(why="the file is not there")
    if isinstance(answer, FAULTS):
        return Checked(fault=answer)
    if isinstance(answer, DiskError):
        if isinstance(answer.__cause__, OSError) and answer.__cause__.errno in _OURS:
            return Checked(fault=TargetError(str(answer), hint="let the service have more open files or memory"))
        return Checked(why=f"the file can't be read: {answer}")
    if isinstance(answer, HometapeError):
        return Checked(why=str(answer))
    if answer.digest != held.path.name.digest:
        return Checked(why=f"its {answer.size} bytes have digest {answer.digest}")
    if held.sha256 and answer.sha256 != held.sha256:
        return Checked(why=f"its SHA-256 is {answer.sha256}, not the attested {held.sha256}")
    return Checked(answer)


@contextlib.contextmanager
def cataloguing() -> Iterator[None]:
    """What the catalog raises, told apart from what targets raise. DiskFull passes: it may end by itself."""
    try:
        yield
    except DiskFull:
        raise
    except HometapeError as error:
        raise CatalogStopped(error) from error
