"""A target in a folder: the home archive, a second disk, a NAS mount, a UNC path.

A put is durable: bytes into a temporary file, fsync, then the final name without ever replacing one,
then fsync of the folder; many small ones share one sync of the file system. Temporary files lie in one
folder of the target, so that clearing them after a crash costs nothing. Marker and identity of the
root are looked at before and after each put: what was written while a mount vanished does not count.
"""

import contextlib
import errno
import io
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from receiver.targets import small
from receiver.targets.contract import (
    Capabilities,
    Condition,
    Entry,
    Limits,
    Parcel,
    Place,
    Proof,
    State,
    Target,
    check_relative,
    check_segment,
)
from receiver.targets.files import drop_pages, is_link, not_following, opened_ahead
from receiver.targets.inside import Ways, walk
from receiver.targets.marker import check_marker, identity, write_readme
from receiver.targets.medium import GONE_HINT, is_forbidden, is_gone, is_shaky, takes_writes
from receiver.targets.mounts import own_mount
from receiver.targets.reading_back import blocks_of, read_back
from receiver.targets.sums import SumsFiles, read_sums
from receiver.targets.taking import SourceFault, from_source, too_large
from receiver.targets.turns import TURNS
from receiver.targets.worker import Worker
from tape.digest import new_xxh3
from tape.durable import DISK, WINDOWS, Disk, named
from tape.errors import (
    AlreadyThere,
    DigestMismatch,
    DiskError,
    DiskFull,
    HometapeError,
    NameRefused,
    NotFound,
    SyncFailed,
    TargetAbsent,
    TargetError,
    TargetReadOnly,
)

TEMP_FOLDER = ".hometape-tmp"
ASIDE_FOLDER = ".hometape-aside"
RESERVE = 64 * 2**20
_RESERVE_SHARE = 50
_NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
_Identity = tuple[int, int, int, int]
_OneFile = (DiskError, NotFound, NameRefused)


class DirectoryTarget(Target):
    """A folder with a marker. Thread-safe; one process writes at a time (the service, or a command without it).

    `mounted`: it must lie on a mount of its own, so that nothing is written under an empty mount point.
    """

    capabilities = Capabilities(local=True)
    limits = Limits()

    def __init__(self, place: Place, root: Path, *, mounted: bool = False, disk: Disk = DISK) -> None:
        super().__init__(place)
        self.root = root
        self._mounted = mounted
        self._disk = disk
        self._making = threading.Lock()
        self._seen: _Identity | None = None
        self._sums = SumsFiles(disk)
        self._protected = False
        self._lacks = 0  # bytes of the segment that did not fit
        self._instance = ""
        self._writer, self._reader = Worker(), Worker(again=place.home)

    # -------------------------------------------------------------------------------------- writing

    def put_many(self, parcels: Sequence[Parcel]) -> list[HometapeError | None]:
        """Store segments; see the contract. Raises NameRefused, TargetAbsent before anything was tried."""
        for parcel in parcels:
            check_segment(parcel.path)
        before = self._present(), self._instance
        with self._mapped():
            temp = self._temp()
        answers = [too_large(self, parcel) for parcel in parcels]
        ways = Ways(self.root)
        staged: list[tuple[int, Path, Path]] = []
        stop: HometapeError | None = None
        self._lacks = 0
        plain = type(self._disk) is Disk  # another one wants to see every byte
        left = {number: parcel for number, parcel in enumerate(parcels) if plain and answers[number] is None}
        written = small.write(self._writer, self.root, left, ways, temp=lambda: self._disk.temp_path(temp))
        staged += [(number, done, self.root / parcels[number].path) for number, done in written.items()]
        for number, parcel in TURNS.each((n, parcel) for n, parcel in enumerate(parcels) if n not in written):
            if stop is not None or answers[number] is not None:
                answers[number] = answers[number] or stop
                continue
            try:
                staged.append((number, self._stage(parcel, ways), self.root / parcel.path))
            except SourceFault as fault:
                answers[number] = fault.error
            except HometapeError as error:
                answers[number] = error
                if isinstance(error, DiskError | TargetAbsent | TargetReadOnly):
                    stop = error
                    self._lacks = parcel.size if isinstance(error, DiskFull) else 0
        self._place_all(staged, answers)
        try:
            self._still(before)
        except TargetAbsent as gone:  # what was written meanwhile does not count
            return [answer or gone for answer in answers]
        return answers

    def _temp(self) -> Path:
        """The folder for unfinished work. It alone is made in place, while the root is known to be there."""
        temp = self.root / TEMP_FOLDER
        if not temp.exists():
            self._look()
            with named(temp, "creating folder"), contextlib.suppress(FileExistsError):
                temp.mkdir()
            self._disk.sync_dir(self.root)
        return temp

    def _stage(self, parcel: Parcel, ways: Ways) -> Path:
        """The bytes of a parcel in a temporary file, proven to be what it promised; not synced yet."""
        final = self.root / parcel.path
        if link := ways.link(parcel.path):
            raise TargetError(
                f"target {self.id}: {link} is a link: what lies behind it is another place's",
                hint="remove the link, or put the files themselves there; what is missing is copied again",
            )
        with self._mapped():
            if os.path.lexists(final):
                raise AlreadyThere(f"target {self.id}: {parcel.path} exists already and is never replaced")
            temp = self._disk.temp_path(self.root / TEMP_FOLDER)
            try:
                self._fill(temp, parcel)
            except BaseException:
                with contextlib.suppress(DiskError):  # the first error is the one to tell
                    self._disk.remove(temp)
                raise
        return temp

    def _fill(self, temp: Path, parcel: Parcel) -> None:
        fast, size = new_xxh3(), 0
        with self._disk.create(temp) as file:
            for block in from_source(parcel):
                self._disk.write_all(file, block)
                fast.update(block)
                size += len(block)
            drop_pages(file.fileno())  # begins to write it out, while the next one is made
        if (size, fast.hexdigest()) != (parcel.size, parcel.digest):
            raise DigestMismatch(
                f"{parcel.path}: the source gave {size} bytes with digest {fast.hexdigest()}, not {parcel.size} bytes"
            )

    def _place_all(self, staged: list[tuple[int, Path, Path]], answers: list[HometapeError | None]) -> None:
        if not staged:
            return
        folders = {self.root / TEMP_FOLDER}
        try:
            with self._mapped():
                self._disk.sync_many([temp for _, temp, _ in staged], [])
                for folder in {final.parent for _, _, final in staged}:
                    with self._making:  # a folder moved over an empty one would take that from under another thread
                        self._disk.make_dirs_below(self.root, folder, by=self.root / TEMP_FOLDER)
            for number, temp, final in TURNS.each(staged):
                try:
                    with self._mapped():
                        self._disk.place(temp, final)
                    folders.add(final.parent)
                except AlreadyThere as error:
                    answers[number] = error
                    with self._mapped():
                        self._disk.remove(temp)
            with self._mapped():
                self._disk.sync_many([], folders)
        except HometapeError as error:
            self._lacks = max(1, self._lacks) if isinstance(error, DiskFull) else self._lacks
            for number, temp, _ in staged:
                answers[number] = answers[number] or error
                with contextlib.suppress(DiskError):  # whatever stays is cleared by recover
                    self._disk.remove(temp)

    def _still(self, before: tuple[_Identity, str]) -> None:
        """Raises TargetAbsent if the place changed meanwhile. FAT gives its files new numbers now and then."""
        after, (then, instance) = self._present(), before
        if after != then and not (instance and instance == self._instance and after[0] == then[0]):
            raise TargetAbsent(f"target {self.id} was changed while it was worked on")

    def set_aside(self, path: str, why: str) -> str:  # noqa: ARG002 - the reason is recorded by the caller
        """Move a bad copy to `.hometape-aside/`, and its line out of SHA256SUMS; see the contract."""
        self._present()
        source = self.root / check_relative(path)
        with self._mapped():
            if Ways(self.root).link(path) or not os.path.lexists(source):
                raise NotFound(f"target {self.id} has no {path}")
            base = self.root / ASIDE_FOLDER / path
            with self._making:
                self._disk.make_dirs_below(self.root, base.parent, by=self._temp())
            number = 1
            while (where := base.with_name(f"{base.name}.{number}")).exists():
                number += 1
            self._disk.place(source, where)
            self._disk.sync_many([], [where.parent, source.parent])
            self._sums.drop(source)
        return where.relative_to(self.root).as_posix()

    def note_sums(self, sums: Sequence[tuple[str, str]]) -> None:
        """Append to the SHA256SUMS of each folder, all made durable together."""
        self._present()
        with self._mapped():
            self._sums.note((self.root / check_relative(path), sha256) for path, sha256 in sums)

    def mend_sums(self, folder: str, right: Mapping[str, str]) -> None:
        """Rewrite the SHA256SUMS of a folder where it is wrong."""
        self._present()
        with self._mapped():
            self._sums.mend(self.root / check_relative(folder), right)

    def recover(self) -> None:
        """Delete the temporary files an interrupted put left, and restore a lost README.txt."""
        self._present()
        with self._mapped():
            self._disk.clear_temps(self.root / TEMP_FOLDER)
            write_readme(self.root, self._disk)

    def flush(self) -> None:
        """Write out whatever its file system holds back; raises TargetAbsent, SyncFailed."""
        self._present()
        with self._mapped():
            self._disk.sync_system(self.root)

    # -------------------------------------------------------------------------------------- reading

    def read(self, path: str) -> Iterator[bytes]:
        """The bytes of a file in blocks of 1 MiB; raises NotFound, TargetAbsent, DiskError."""
        self._present()
        return blocks_of(self._opened(path), self._mapped)

    def verify(self, path: str) -> Proof:
        """Digests of a file, read from its medium; see the contract."""
        self._present()
        return self._proof(self._opened(path))

    def verify_many(self, parcels: Sequence[Parcel]) -> Sequence[Proof | HometapeError]:
        """See the contract. SHA-256 of what was put just now is not computed again: XXH3-128 shows its bytes."""
        before = self._present(), self._instance
        ways = Ways(self.root)
        found: dict[int, Proof | HometapeError] = {**small.read(self._reader, self.root, parcels, ways)}
        left = [(number, parcel) for number, parcel in enumerate(parcels) if number not in found]
        for (number, parcel), file in TURNS.each(
            opened_ahead(left, lambda item: self._opened(item[1].path, ways), _OneFile)
        ):
            try:
                if not isinstance(file, io.FileIO):
                    raise file
                found[number] = self._proof(file, small.known(parcel), parcel.size)
            except _OneFile as error:
                found[number] = error
        self._still(before)
        return [found[number] for number in range(len(parcels))]

    def _proof(self, file: io.FileIO, known: str = "", size: int | None = None) -> Proof:
        with self._mapped(), file, named(Path(file.name), "reading"):
            return read_back(file, known, again=self.place.home, size=size)

    def stat(self, path: str) -> int | None:
        """The size of a file; None if there is none."""
        self._present()
        full = self.root / check_relative(path)
        with self._mapped(), named(full, "looking at"):
            try:
                return None if Ways(self.root).link(path) or is_link(full) else full.stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every stored file below a folder, one folder held in memory at a time."""
        self._present()
        return walk(self.root, check_relative(prefix) if prefix else "", self._mapped)

    def sums(self, folder: str) -> dict[str, str]:
        """File name -> SHA-256 as noted for a folder."""
        self._present()
        with self._mapped():
            return read_sums(self.root / check_relative(folder))[0]

    def local(self, path: str) -> Path:
        """Where the file lies."""
        return self.root / check_relative(path)

    def _opened(self, path: str, ways: Ways | None = None) -> io.FileIO:
        full = self.root / check_relative(path)
        with self._mapped(), named(full, "opening"):
            if (ways or Ways(self.root)).link(path) or (WINDOWS and is_link(full)):
                raise NotFound(f"target {self.id} has no {path}: a link is no copy")
            try:
                return io.FileIO(full, "rb", opener=not_following)
            except OSError as error:
                forbidden = isinstance(error, PermissionError) and not full.is_dir()  # Windows: so it opens a folder
                if forbidden or not (isinstance(error, _NOT_THERE) or error.errno == errno.ELOOP):
                    raise
                self._present()
                raise NotFound(f"target {self.id} has no {path}") from None

    # ---------------------------------------------------------------------------------------- state

    def free(self) -> int | None:
        """Free bytes of the file system; raises TargetAbsent."""
        self._present()
        with self._mapped(), named(self.root, "asking for the free space of"):
            return shutil.disk_usage(self.root).free

    def state(self) -> State:
        """Ready, absent, read-only or full, with reason and hint."""
        try:
            self._present()
            usage = shutil.disk_usage(self.root)
        except HometapeError as error:
            return State(Condition.ABSENT, str(error), error.hint)
        except OSError as error:
            return State(Condition.ABSENT, f"{self.root}: {error.strerror or error}", TargetAbsent.default_hint)
        self._protected = self._protected and not takes_writes(self.root / TEMP_FOLDER, self._disk)
        if self._protected or not os.access(self.root, os.W_OK):
            return State(Condition.READ_ONLY, f"{self.root} takes no writes", TargetReadOnly.default_hint)
        reserve = min(RESERVE, usage.total // _RESERVE_SHARE)
        if usage.free < reserve or (self._lacks and usage.free < max(2 * reserve, self._lacks)):
            return State(Condition.FULL, f"{self.root} is full: {usage.free} bytes left", DiskFull.default_hint)
        return State(Condition.READY)

    def instance(self) -> str:
        """The instance in the marker; raises TargetAbsent."""
        self._present()
        return self._instance

    def _present(self) -> _Identity:
        """The identity of the root; raises TargetAbsent unless it is mounted and the marker is there and right."""
        try:
            now = identity(self.root)
        except DiskError:
            now = None
        if now is None or now != self._seen:
            now = self._look()
        return now

    def _look(self) -> _Identity:
        try:
            mount = own_mount(self.root)
        except OSError as error:
            raise TargetAbsent(f"{self.root}: {error.strerror or error}", hint=GONE_HINT) from error
        if self._mounted and mount is None:
            raise TargetAbsent(
                f"{self.root} is not on a mount of its own: nothing is mounted there",
                hint=f"mount it; if a plain folder is meant, set `mounted = false` for target {self.id}",
            )
        self._instance = check_marker(self.root, self.id)
        try:
            self._seen = identity(self.root)
        except DiskError as error:
            raise TargetAbsent(str(error)) from error
        self.limits = replace(type(self).limits, max_file=mount.max_file if mount else None)
        self._sums.forget()
        return self._seen

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        """DiskError and OSError of the root as what they mean for the target."""
        try:
            yield
        except DiskFull as error:
            raise DiskFull(f"target {self.id}: {error}") from error
        except (DiskError, OSError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            gone = isinstance(cause, OSError) and is_gone(cause)
            if gone or isinstance(error, SyncFailed) or (isinstance(cause, OSError) and is_shaky(cause)):
                self._seen = None  # one file, or the whole place? its marker is read again from the medium
            self._present()
            if gone:
                raise TargetAbsent(f"target {self.id}: {error}", hint=GONE_HINT) from error
            if isinstance(cause, OSError) and is_forbidden(cause, self.root, self._disk):
                self._protected = True
                raise TargetReadOnly(f"target {self.id}: {error}") from error
            if isinstance(error, DiskError):
                raise
            raise DiskError(f"target {self.id}: {error.strerror or error}") from error
