"""Making copies, one batch at a time: put, read back, prove, note the sum, record the fact. Blocking; for threads.

A copy counts only after its bytes were read from its medium and their digest is the segment's. What
fails that is put aside, told as an incident, and tried again. The home archive's own step is its
read-back, which gives the SHA-256 that the chain is checked with; a home copy that is missing or bad is
fetched from another target that holds a verified one.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from receiver.catalog import Catalog
from receiver.model import Copy, Held
from receiver.placement import Where, sources_for
from receiver.targets.contract import Parcel, Proof, Target
from tape.clock import Clock
from tape.errors import (
    AlreadyThere,
    DigestMismatch,
    DiskError,
    DiskFull,
    HometapeError,
    NotFound,
    SyncFailed,
    TargetError,
)
from tape.log import get_logger

BAD_COPY = "copy"
_MOST_WANTED = 10_000
_FAULTS = (TargetError, DiskFull, SyncFailed)
log = get_logger(__name__)


class CatalogStopped(Exception):
    """The catalog can't be written any more: the service stops and recovers. `error` is what it said."""

    def __init__(self, error: HometapeError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(slots=True)
class Work:
    """What became of a batch. `failed`: segments to be tried again; `fault`: why the target itself must wait."""

    copied: int = 0
    bytes: int = 0
    failed: int = 0
    fault: HometapeError | None = None
    error: str = ""
    streams: set[tuple[str, str]] = field(default_factory=set)
    beat: Callable[[], None] = lambda: None

    def fail(self, error: HometapeError | str) -> None:
        """Count a segment that has to be tried again."""
        self.failed += 1
        self.error = str(error)


def where_of(target: Target) -> Where:
    """A target as placement sees it."""
    place = target.place
    return Where(place.id, place.medium, place.site, place.home)


class Copier:
    """Makes and proves copies. Thread-safe as long as no segment is in two batches of one target at a time.

    `readable`: ids of the targets that can be asked for bytes without the danger of waiting for a dead one.
    """

    def __init__(
        self,
        catalog: Catalog,
        targets: Sequence[Target],
        *,
        clock: Clock,
        readable: Callable[[], Collection[str]],
    ) -> None:
        self.catalog = catalog
        self.targets = {target.id: target for target in targets}
        self.home = next(target for target in targets if target.place.home)
        self._clock = clock
        self._readable = readable
        self._wanted: set[int] = set()

    def run(self, target: Target, batch: Sequence[Held], *, beat: Callable[[], None]) -> Work:
        """Bring a batch to a target, or read it back at home; `beat` is called as long as something moves.

        Raises CatalogStopped, nothing else on purpose.
        """
        work = Work(beat=beat)
        try:
            if target is self.home:
                self._prove_home(batch, work)
            else:
                self._copy(target, batch, work)
        except HometapeError as fault:
            work.fault = fault
            work.error = str(fault)
        return work

    # ------------------------------------------------------------------------------------- to a target

    def _copy(self, target: Target, batch: Sequence[Held], work: Work) -> None:
        trouble: dict[int, HometapeError] = {}
        parcels = [
            Parcel(str(held.path), held.size, held.path.name.digest, self._reader(held, trouble, work))
            for held in batch
        ]
        there = []
        for held, answer in zip(batch, target.put_many(parcels), strict=True):
            if held.id in trouble or isinstance(answer, DigestMismatch):
                error = trouble.get(held.id) or answer or NotFound("nothing was read")
                work.fail(f"waiting for the home copy: {error}")
                self._suspect_home(held, error)
            elif answer is None or isinstance(answer, AlreadyThere):
                there.append(held)
            else:
                work.fail(answer)
                if work.fault is None and isinstance(answer, _FAULTS):
                    work.fault = answer
        self._prove(target, there, work)

    def _reader(self, held: Held, trouble: dict[int, HometapeError], work: Work) -> Callable[[], Iterable[bytes]]:
        """The home bytes of a segment; what goes wrong with reading them is kept apart from what the target does."""

        def read() -> Iterator[bytes]:
            try:
                for block in self.home.read(str(held.path)):
                    work.beat()
                    yield block
            except HometapeError as error:
                trouble[held.id] = error
                raise

        return read

    def _prove(self, target: Target, there: Sequence[Held], work: Work) -> None:
        good: list[tuple[Held, Proof]] = []
        for held in there:
            work.beat()
            proof, why = self.check(target, held)
            if proof is None:
                work.fail(why)
                self.reject(target, held, why)
            else:
                good.append((held, proof))
        if not good and len(there) > 1:
            work.fault = TargetError(
                f"target {target.id} does not keep what it is given: {len(there)} of {len(there)} copies failed "
                f"their check; the last: {work.error}",
                hint="check the disk and its cabling; nothing there counts until it passes",
            )
        self._record(target, good, work)

    def _record(self, target: Target, good: Sequence[tuple[Held, Proof]], work: Work) -> None:
        if not good:
            return
        target.note_sums([(str(held.path), proof.sha256) for held, proof in good])
        now = self._clock.now_ns()
        with cataloguing():
            if target is self.home:
                self._wanted.difference_update(held.id for held, _ in good)
                for found in self.catalog.attest_many([(held.id, proof.sha256) for held, proof in good]):
                    for reason in found.found:
                        log.error("the chain is contradicted", segment=found.segment, reason=reason)
            self.catalog.add_copies([Copy(held.id, target.id, now, proof.method) for held, proof in good])
        work.copied += len(good)
        work.bytes += sum(held.size for held, _ in good)
        work.streams |= {(held.path.agent, held.path.stream) for held, _ in good}

    # ----------------------------------------------------------------------------------------- at home

    def _prove_home(self, batch: Sequence[Held], work: Work) -> None:
        good: list[tuple[Held, Proof]] = []
        for held in batch:
            work.beat()
            proof, why = self.check(self.home, held)
            if proof is None:
                proof = self._heal(held, why)
            if proof is None:
                work.fail(f"{held.path} at home is bad and no other target has it: {why}")
                self._want(held, why)
            else:
                good.append((held, proof))
        self._record(self.home, good, work)

    def _heal(self, held: Held, why: str) -> Proof | None:
        """Fetch a home copy from another target; None if none has a good one."""
        path = str(held.path)
        with cataloguing():
            self._tell(held, self.home, why)
            known = [copy.target for copy in self.catalog.copies(held.id) if copy.target != self.home.id]
        places = [where_of(target) for target in self.targets.values()]
        for name in sources_for(known, places, readable=self._readable()):
            source = self.targets[name]
            try:
                proof, reason = self.check(source, held)
                if proof is None:
                    self.reject(source, held, reason)
                    continue
            except HometapeError as error:
                log.warning("a copy can't be read to heal another", segment=path, target=name, error=str(error))
                continue
            if self.home.stat(path) is not None:
                self.home.set_aside(path, why)
            self.home.put(path, source.read(path), held.size, held.path.name.digest)
            log.info("the home copy was healed", segment=path, source=name)
            return self.check(self.home, held)[0]
        return None

    def _want(self, held: Held, why: str) -> None:
        """No good copy is left here: the agent may still have it. Asked once in the life of the service."""
        if held.id in self._wanted:
            return
        if len(self._wanted) >= _MOST_WANTED:
            self._wanted.clear()
        self._wanted.add(held.id)
        with cataloguing():
            self.catalog.want_again(held.id, why)

    def _suspect_home(self, held: Held, error: HometapeError) -> None:
        """The home bytes could not be had: if that lasts, the home copy no longer counts and is healed."""
        if isinstance(error, _FAULTS):
            return
        proof, why = self.check(self.home, held)
        if proof is None:
            self.reject(self.home, held, why)

    # ---------------------------------------------------------------------------------------- checking

    def check(self, target: Target, held: Held) -> tuple[Proof | None, str]:
        """The proof of a copy, or None and what is wrong with it. Raises TargetAbsent and what is no copy's fault."""
        try:
            proof = target.verify(str(held.path))
        except NotFound:
            return None, "the file is not there"
        except _FAULTS:
            raise
        except DiskError as error:
            return None, f"the file can't be read: {error}"
        if proof.digest != held.path.name.digest:
            return None, f"its {proof.size} bytes have digest {proof.digest}"
        if held.sha256 and proof.sha256 != held.sha256:
            return None, f"its SHA-256 is {proof.sha256}, not the attested {held.sha256}"
        return proof, ""

    def reject(self, target: Target, held: Held, why: str) -> None:
        """A copy failed its check: it no longer counts, and makes room for a good one where that is safe.

        The home file stays until a good copy is at hand, since it may be the last one.
        """
        with cataloguing():
            self._tell(held, target, why)
        if target is not self.home and target.capabilities.aside:
            with contextlib.suppress(NotFound):
                where = target.set_aside(str(held.path), why)
                log.warning("a bad copy was put aside", target=target.id, segment=str(held.path), where=where)

    def _tell(self, held: Held, target: Target, why: str) -> None:
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


@contextlib.contextmanager
def cataloguing() -> Iterator[None]:
    """What the catalog raises, told apart from what targets raise. DiskFull passes: it may end by itself."""
    try:
        yield
    except DiskFull:
        raise
    except HometapeError as error:
        raise CatalogStopped(error) from error
