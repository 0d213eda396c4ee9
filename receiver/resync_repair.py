"""The second half of a resync: act on findings. What does not count is dropped, what is wrong set aside, what the
catalog does not know brought in as an upload; the copies themselves are the fan-out's work, as ever.

Everything is looked at again before it is touched, and done twice it does no harm: a repair may be cut off
anywhere and begun anew. Nothing is ever deleted. Blocking; for threads.
"""

import contextlib
import itertools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from receiver.catalog import Catalog
from receiver.catalog_writes import EMPTY
from receiver.checking import CatalogStopped, Checker
from receiver.ingress.inbox import clear_inbox, make_private, private_path
from receiver.model import Outcome, Upload
from receiver.placement import batches
from receiver.resync_compare import Kind
from receiver.resync_plan import Line
from receiver.targets.contract import Target
from tape.clock import Clock
from tape.digest import BLOCK, digest_of, new_xxh3
from tape.durable import DISK, Disk, named
from tape.errors import HometapeError
from tape.log import get_logger
from tape.names import SegmentPath

INBOX = "inbox"
_PREFIX = "adopt-"
_FILES, _BYTES = 256, 128 * 2**20
_MOST_TOLD = 1000
log = get_logger(__name__)
Commit = Callable[[Sequence[Upload]], Sequence[Outcome]]


@dataclass(slots=True)
class Repaired:
    """What was done. `adopted`: segments brought in; `known`: were held after all. `refused`: (target, path, why) of
    those that the ingest would not take; `failed`: of what could not be done now.
    """

    dropped: int = 0
    aside: int = 0
    sums: int = 0
    adopted: int = 0
    known: int = 0
    refused: list[tuple[str, str, str]] = field(default_factory=list)
    failed: list[tuple[str, str, str]] = field(default_factory=list)

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Repaired":
        """Raises ValueError."""
        try:
            plain = json.loads(text)
            for name in ("refused", "failed"):
                plain[name] = [tuple(item) for item in plain[name]]
            return cls(**plain)
        except (TypeError, KeyError) as error:
            raise ValueError(str(error)) from error


class Repair:
    """Acts on findings. `commit` hands uploads to the ingest and gives their outcomes; None: nothing is adopted.

    `progress` is told how many findings were dealt with. Raises StoreError or SyncFailed if the catalog fails.
    """

    def __init__(
        self,
        catalog: Catalog,
        targets: Sequence[Target],
        state: Path,
        *,
        commit: Commit | None,
        clock: Clock,
        disk: Disk = DISK,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._catalog = catalog
        self._checker = Checker(catalog, targets, clock=clock)
        self._inbox = state / INBOX
        self._commit = commit
        self._clock = clock
        self._disk = disk
        self._progress = progress
        self._done = Repaired()

    def run(self, began_ns: int, lines: Iterable[Line]) -> Repaired:
        """Act on what was found by a comparison that began at a time. A target that fails is passed over."""
        count = 0
        try:
            for (name, kind), group in itertools.groupby(lines, key=lambda line: (line.target, line.kind)):
                for some in _some(group):
                    target = self._checker.targets.get(name)
                    if target is not None:
                        self._act(target, kind, some, began_ns)
                    count += sum(max(1, len(line.segments)) for line in some)
                    self._progress(count)
                    if (name, kind) == (self._checker.home.id, Kind.FOREIGN) and self._commit is not None:
                        self._took_in_home(name)
        except CatalogStopped as stopped:
            raise stopped.error from stopped
        return self._done

    def _took_in_home(self, home: str) -> None:
        """What the catalog lacked of home is in it, or was refused: it is not a lost one any more."""
        if not any(name == home for name, _, _ in self._done.failed):
            self._catalog.close_incident(EMPTY)

    def _act(self, target: Target, kind: Kind, lines: list[Line], began_ns: int) -> None:
        try:
            if kind is Kind.MISSING:
                segments = [number for line in lines for number in line.segments]
                why = "they were not there when a resync looked"
                self._done.dropped += self._catalog.drop_copies(target.id, segments, why, before_ns=began_ns)
            elif kind in (Kind.WRONG_SIZE, Kind.WRONG_BYTES):
                for line in lines:
                    self._wrong(target, line)
            elif kind is Kind.SUMS:
                self._sums(target, lines)
            elif kind is Kind.FOREIGN and self._commit is not None:
                self._adopt(target, lines, self._commit)
        except CatalogStopped:
            raise
        except HometapeError as error:
            log.warning("a repair at a target has to wait", target=target.id, what=kind.value, error=str(error))
            self._fail(target, lines[0].path or f"{len(lines)} findings", str(error))

    def _wrong(self, target: Target, line: Line) -> None:
        """A copy that is not what it must be is looked at again, and if that is still so, put out of the way."""
        held = self._catalog.get(line.segment)
        if held is None or str(held.path) != line.path:
            return
        size = target.stat(line.path)
        if size == held.size and line.kind is Kind.WRONG_SIZE:
            return
        if size == held.size:
            proof, why = self._checker.check(target, held)
            if proof is not None:
                return
        else:
            why = "the file is not there" if size is None else f"it has {size} bytes instead of {held.size}"
        self._checker.reject(target, held, why)
        self._done.aside += 1

    def _sums(self, target: Target, lines: list[Line]) -> None:
        by_folder: dict[str, dict[str, str]] = {}
        for line in lines:
            folder, _, name = line.path.rpartition("/")
            by_folder.setdefault(folder, {})[name] = line.sha256
        for folder, right in by_folder.items():
            target.mend_sums(folder, right)
            self._done.sums += len(right)

    # --------------------------------------------------------------------------------------- adopting

    def _adopt(self, target: Target, lines: list[Line], commit: Commit) -> None:
        make_private(self._inbox, self._disk)
        clear_inbox(self._inbox, self._disk, _PREFIX)
        for left in self._inbox.glob(f"{_PREFIX}*"):  # by one that was cut off
            shutil.rmtree(left, ignore_errors=True)
        places = [SegmentPath.parse(line.path) for line in lines]
        known = self._catalog.known([(p.agent, p.stream, p.name.epoch, p.name.seq) for p in places])
        fresh = []
        for line, place, around in zip(lines, places, known, strict=True):
            if around.digest == place.name.digest and not around.wanted:
                self._done.known += 1
            else:
                fresh.append(line)
        for batch in batches(fresh, files=_FILES, size=_BYTES):
            with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=self._inbox, ignore_cleanup_errors=True) as folder:
                self._adopt_batch(target, batch, Path(folder), commit)

    def _adopt_batch(self, target: Target, batch: list[Line], folder: Path, commit: Commit) -> None:
        uploads = []
        found = target.fetch_many([line.path for line in batch], folder)
        for line, file in zip(batch, found, strict=True):
            try:
                if isinstance(file, HometapeError):
                    raise file
                upload = self._upload(target, line, file, ours=file.is_relative_to(folder))
            except HometapeError as error:
                self._fail(target, line.path, str(error))
                continue
            uploads.append((line, upload))
        for (line, _), outcome in zip(uploads, commit([upload for _, upload in uploads]), strict=True):
            if outcome.ok:
                self._done.adopted += 1
                log.info("a segment was adopted", target=target.id, path=line.path)
            else:
                self._refuse(target, line.path, outcome.reason)

    def _upload(self, target: Target, line: Line, file: Path, *, ours: bool) -> Upload:
        """The file as a finished upload, in a private file that the ingest may move."""
        place = SegmentPath.parse(line.path)
        path = private_path(self._inbox, _PREFIX)
        digest = ""
        if ours:
            with named(file, "moving"):
                digest = digest_of(file)
                file.rename(path)
        elif not (target.place.home and _linked(file, path)):
            digest = self._copy(file, path)
        with named(path, "looking at"):
            size = path.stat().st_size
        return Upload(place.agent, place.stream, place.name, path, size, digest, self._clock.now_ns())

    def _copy(self, file: Path, path: Path) -> str:
        """Copy and hash on the way; the digest."""
        fast = new_xxh3()
        with named(file, "reading"), file.open("rb", buffering=0) as old, self._disk.create(path) as new:
            while block := old.read(BLOCK):
                self._disk.write_all(new, block)
                fast.update(block)
        return fast.hexdigest()

    def _refuse(self, target: Target, path: str, why: str) -> None:
        log.warning("a segment found at a target is not taken", target=target.id, path=path, why=why)
        if len(self._done.refused) < _MOST_TOLD:
            self._done.refused.append((target.id, path, why))

    def _fail(self, target: Target, path: str, why: str) -> None:
        if len(self._done.failed) < _MOST_TOLD:
            self._done.failed.append((target.id, path, why))


def _linked(file: Path, path: Path) -> bool:
    """A second name for a file of the home archive itself: the ingest finds that it lies in its place already."""
    with contextlib.suppress(OSError):
        path.hardlink_to(file)
        return True
    return False


def _some(group: Iterator[Line]) -> Iterator[list[Line]]:
    """A long run of findings in parts."""
    while part := list(itertools.islice(group, 1000)):
        yield part
