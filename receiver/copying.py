"""Making copies, one batch at a time: put, read back, prove, note the sum, record the fact. Blocking; for threads.

A copy counts only after its bytes were read from its medium and their digest is the segment's. What
fails that is put aside, told as an incident, and tried again. The home archive's own step is its
read-back, which gives the SHA-256 that the chain is checked with; a home copy that is missing or bad is
fetched from another target that holds a verified one.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from receiver import catalog_queries as queries
from receiver.catalog import Catalog
from receiver.checking import FAULTS, CatalogStopped, Checker, cataloguing, nobody
from receiver.model import Copy, Held
from receiver.placement import Where, sources_for
from receiver.targets import pulse
from receiver.targets.contract import READ_BACK, Proof, Target
from tape.clock import Clock
from tape.digest import BLOCK, BothDigests, digest_of
from tape.durable import named
from tape.errors import (
    AlreadyThere,
    DigestMismatch,
    DiskFull,
    HometapeError,
    NotFound,
    TargetError,
)
from tape.log import get_logger

__all__ = ["CatalogStopped", "Copier", "Work", "cataloguing", "where_of"]

TEMPS = ".hometape-tmp"
_HEALING = "healing-"
_MOST_WANTED = 10_000
log = get_logger(__name__)


@dataclass(slots=True)
class Work:
    """What became of a batch. `failed`: segments to be tried again; `fault`: why the target itself must wait."""

    copied: int = 0
    bytes: int = 0
    failed: int = 0
    fault: HometapeError | None = None
    error: str = ""
    streams: set[tuple[str, str]] = field(default_factory=set)

    def fail(self, error: HometapeError | str) -> None:
        """Count a segment that has to be tried again."""
        self.failed += 1
        self.error = str(error)


def where_of(target: Target) -> Where:
    """A target as placement sees it."""
    place = target.place
    return Where(place.id, place.medium, place.site, place.home)


class Copier(Checker):
    """Makes and proves copies. Thread-safe as long as no segment is in two batches of one target at a time.

    `readable`: ids of the targets that can be asked for bytes without the danger of waiting for a dead one.
    `company`: see Checker.
    """

    def __init__(
        self,
        catalog: Catalog,
        targets: Sequence[Target],
        *,
        clock: Clock,
        readable: Callable[[], Collection[str]],
        company: Callable[[Target, Held], int] = nobody,
    ) -> None:
        super().__init__(catalog, targets, clock=clock, company=company)
        self._readable = readable
        self._wanted: set[int] = set()

    def recover(self, target: Target) -> None:
        """Clear what an interrupted life left at a target. Only for the one process that writes there."""
        target.recover()
        beside = self.home.local(TEMPS) if target is self.home else None
        if beside is not None:
            for left in beside.glob(f"{_HEALING}*"):
                shutil.rmtree(left, ignore_errors=True)

    def run(self, target: Target, batch: Sequence[Held]) -> Work:
        """Bring a batch to a target, or read it back at home. Raises CatalogStopped, nothing else on purpose."""
        work = Work()
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
        promised = self._promised(target, batch, trouble)
        parcels = [self.parcel(target, held, trouble, promised.get(held.id, "")) for held in batch]
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
                if work.fault is None and isinstance(answer, FAULTS):
                    work.fault = answer
        self._prove(target, there, work, promised)

    def _promised(self, target: Target, batch: Sequence[Held], trouble: dict[int, HometapeError]) -> dict[int, str]:
        """SHA-256 by segment. A target that does not read copies back can only confirm one that is known before."""
        known = {held.id: held.sha256 for held in batch if held.sha256}
        if target.capabilities.proof == READ_BACK:
            return known
        for held in batch:
            if held.id in known:
                continue
            both = BothDigests()
            try:
                for block in self.home_bytes(target, held, trouble):
                    both.update(block)
            except HometapeError:
                continue  # kept in `trouble`; the put will meet it again
            if both.digest == held.path.name.digest:
                known[held.id] = both.sha256
        return known

    def _prove(self, target: Target, there: Sequence[Held], work: Work, promised: dict[int, str]) -> None:
        good: list[tuple[Held, Proof]] = []
        bad = 0
        known = promised | self._attested(held for held in there if held.id not in promised)
        for held, checked in zip(there, self.proofs(target, there, known, fresh=True), strict=True):
            if checked.fault is not None:
                work.fail(checked.fault)
                work.fault = work.fault or checked.fault
            elif checked.proof is None:
                bad += 1
                work.fail(checked.why)
                self.reject(target, held, checked.why)
            else:
                good.append((held, checked.proof))
        if bad == len(there) > 1:
            work.fault = TargetError(
                f"target {target.id} does not keep what it is given: {bad} of {bad} copies failed "
                f"their check; the last: {work.error}",
                hint="check the disk and its cabling; nothing there counts until it passes",
            )
        self._record(target, good, work)

    def _attested(self, there: Iterable[Held]) -> dict[int, str]:
        """SHA-256 by segment of what home has read back by now."""
        wanted = [held.id for held in there]
        with cataloguing():
            return self.catalog.ask(lambda base: queries.attested(base, wanted)) if wanted else {}

    def _record(self, target: Target, good: Sequence[tuple[Held, Proof]], work: Work) -> None:
        if not good:
            return
        self.still_open()
        target.note_sums([(str(held.path), proof.sha256) for held, proof in good])
        now = self.clock.now_ns()
        with cataloguing():
            self.still_open()
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
        bad: list[tuple[Held, str]] = []
        for held, checked in zip(batch, self.check_many(self.home, batch), strict=True):
            if checked.fault is not None:
                raise checked.fault
            if checked.proof is None:
                bad.append((held, checked.why))
            else:
                good.append((held, checked.proof))
        self._record(self.home, good, work)
        healed = self._heal(bad) if bad else {}
        for held, why in bad:
            if held.id not in healed:
                work.fail(f"{held.path} at home is bad and no other target has it: {why}")
                self._want(held, why)
        self._record(self.home, [(held, healed[held.id]) for held, _ in bad if held.id in healed], work)

    def _heal(self, bad: Sequence[tuple[Held, str]]) -> dict[int, Proof]:
        """Fetch home copies from other targets, as many at once as one has; the proofs of those that are good now."""
        reasons = {held.id: why for held, why in bad}
        sources: dict[int, list[str]] = {}
        places = [where_of(target) for target in self.targets.values()]
        for held, why in bad:
            with cataloguing():
                self.tell(held, self.home, why)
                known = [copy.target for copy in self.catalog.copies(held.id) if copy.target != self.home.id]
            sources[held.id] = sources_for(known, places, readable=self._readable())
        healed: dict[int, Proof] = {}
        left = [held for held, _ in bad]
        while left := [held for held in left if held.id not in healed and sources[held.id]]:
            name = sources[left[0].id][0]
            group = [held for held in left if sources[held.id][0] == name]
            for held in group:
                del sources[held.id][0]
            healed |= self._heal_from(self.targets[name], group, reasons)
        return healed

    def _heal_from(self, source: Target, group: Sequence[Held], reasons: dict[int, str]) -> dict[int, Proof]:
        healed: dict[int, Proof] = {}
        with _scratch(self.home) as folder:
            try:
                fetched = source.fetch_many([str(held.path) for held in group], folder)
            except HometapeError as error:
                fetched = [error] * len(group)
            for held, got in zip(group, fetched, strict=True):
                pulse.moved()
                proof = self._heal_with(source, held, got, reasons[held.id])
                if proof is not None:
                    healed[held.id] = proof
        return healed

    def _heal_with(self, source: Target, held: Held, got: Path | HometapeError, why: str) -> Proof | None:
        """Put what was fetched in place of a home copy, if it is what it should be."""
        path = str(held.path)
        try:
            if isinstance(got, HometapeError):
                raise got
            with named(got, "reading"):
                digest = digest_of(got)
            if digest != held.path.name.digest:
                raise DigestMismatch(f"its bytes have digest {digest}")
        except HometapeError as error:
            if isinstance(error, DiskFull):
                raise  # home has no room for it: no copy's fault
            if isinstance(error, NotFound | DigestMismatch):
                self.reject(source, held, str(error))
            else:
                log.warning("a copy can't be read to heal another", segment=path, target=source.id, error=str(error))
            return None
        if self.home.stat(path) is not None:
            self.home.set_aside(path, why)
        self.home.put(path, _blocks_of(got), held.size, held.path.name.digest)
        log.info("the home copy was healed", segment=path, source=source.id)
        return self.check(self.home, held)[0]

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
        if isinstance(error, FAULTS):
            return
        proof, why = self.check(self.home, held)
        if proof is None:
            self.reject(self.home, held, why)


@contextlib.contextmanager
def _scratch(home: Target) -> Iterator[Path]:
    """A folder on the disk of the home archive for what is fetched from afar."""
    beside = home.local(TEMPS)
    if beside is not None:
        beside.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=_HEALING, dir=beside))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _blocks_of(path: Path) -> Iterator[bytes]:
    with named(path, "reading"), path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            yield block
