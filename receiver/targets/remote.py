"""A target behind rclone: S3, B2, Google Drive, Dropbox, SFTP, WebDAV and the like, plain or under crypt.

A put is one `rclone copy` of a batch, straight from the home archive where the files lie there, with the switches
that leave every existing name alone. What rclone says it stored is believed only as far as "put": it is
`verify_many` that proves a copy. A half-written object under a final name (a store that does not put atomically) is
met by the next put as "there already", fails its proof and is set aside. One batch carries 256 MiB or 500 files:
enough that the cost of a run (start, TLS, the key of a crypt: about a second) is small, little enough that a live
segment waits for one batch only, and that a broken line repeats little.
"""

import contextlib
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from receiver.settings import TargetSettings
from receiver.targets.contract import (
    README,
    SUMS,
    Capabilities,
    Entry,
    Limits,
    Parcel,
    Place,
    Proof,
    State,
    Target,
    check_relative,
    check_segment,
    is_own,
)
from receiver.targets.marker import STRANGER
from receiver.targets.rclone_kinds import DOWNLOAD, Kind
from receiver.targets.remote_list import Sorted
from receiver.targets.remote_presence import Presence
from receiver.targets.remote_proof import Prover
from receiver.targets.remote_stage import Known, blocks_of, common_root, digests_of, know
from receiver.targets.remote_store import RemoteStore, Sent, iterate
from receiver.targets.remote_sums import RemoteSums
from tape.clock import SYSTEM, Clock
from tape.durable import DISK, Disk, named
from tape.errors import (
    AlreadyThere,
    DiskError,
    HometapeError,
    NotFound,
    TargetError,
)
from tape.log import get_logger

ASIDE_FOLDER = ".hometape-aside"
PARTIAL = ".partial"
_REMEMBERED = 4096
log = get_logger(__name__)


class RemoteTarget(Target):
    """A folder of an rclone remote with a marker. Thread-safe; one process writes at a time."""

    capabilities = Capabilities(proof=DOWNLOAD, paces=True)
    limits = Limits(batch_files=500, batch_bytes=256 * 2**20)

    def __init__(
        self, place: Place, entry: TargetSettings, state: Path, *, clock: Clock = SYSTEM, disk: Disk = DISK
    ) -> None:
        super().__init__(place)
        self.store = RemoteStore(entry, state, clock=clock)
        self._disk = disk
        self._prover = Prover(self.store, entry.sample, self._remembered)
        self._sums = RemoteSums(state / "sums", fetch=self._fetch_sums, send=self._send_sums, disk=disk, clock=clock)
        self._lock = threading.Lock()
        self._presence = Presence(self.store, state, self._sums.forget, clock=clock, disk=disk)
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._busy: set[str] = set()
        self._free_names = threading.Condition()

    @property
    def kind(self) -> Kind:
        """What it is and what it can prove; raises TargetError and its children."""
        return self.store.kind

    # -------------------------------------------------------------------------------------- writing

    def put_many(self, parcels: Sequence[Parcel]) -> list[HometapeError | None]:
        """Store segments; see the contract. Raises NameRefused, TargetAbsent and its like before anything was tried."""
        for parcel in parcels:
            check_segment(parcel.path)
        self._presence.check()
        if not parcels:
            return []
        with self._names([parcel.path for parcel in parcels]) as alone:
            if alone:
                self._sweep()
            with self.store.stage.fresh() as folder:
                return self._put(parcels, folder)

    def _put(self, parcels: Sequence[Parcel], folder: Path) -> list[HometapeError | None]:
        hash_name = "" if self.kind.crypt else self.kind.hash
        root = common_root(parcels)
        answers: list[HometapeError | None] = []
        for parcel in parcels:
            try:
                self._take(parcel, hash_name, None if root is not None else folder / parcel.path)
                answers.append(None)
            except HometapeError as error:
                answers.append(error)
        paths = [parcel.path for parcel, answer in zip(parcels, answers, strict=True) if answer is None]
        if not paths:
            return answers
        with self.store.stage.under_way(paths) as step:
            sent = self.store.send(root or folder, paths)
            step.clean = sent.fault is None and not sent.errors
        sizes = {parcel.path: parcel.size for parcel in parcels}
        found = {path: self._presence.explain(fault, sizes[path]) for path, fault in self._answers(paths, sent).items()}
        self._blame(parcels, found)
        return [answer or found.get(parcel.path) for parcel, answer in zip(parcels, answers, strict=True)]

    def _take(self, parcel: Parcel, hash_name: str, copy: Path | None) -> None:
        """Read the bytes of a parcel once: are they what they should be, and what will the remote be asked for?"""
        if copy is None:
            known = know(parcel, hash_name)
        else:
            with named(copy, "writing"):
                copy.parent.mkdir(parents=True, exist_ok=True)
                with copy.open("wb") as file:
                    known = know(parcel, hash_name, file.write)
        with self._lock:
            self._known[parcel.path] = known
            self._known.move_to_end(parcel.path)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)

    def _remembered(self, parcel: Parcel) -> Known | None:
        wanted = "" if self.kind.crypt else self.kind.hash
        with self._lock:
            found = self._known.get(parcel.path)
        return found if found is not None and (found.digest, found.hash) == (parcel.digest, wanted) else None

    def _answers(self, paths: Sequence[str], sent: Sent) -> dict[str, HometapeError | None]:
        """What rclone stored is stored; what it neither stored nor complained of was there before, or is not there."""
        answers: dict[str, HometapeError | None] = dict.fromkeys(sent.stored)
        answers.update(sent.errors)
        left = [path for path in paths if path not in answers]
        if sent.fault is not None:
            return {**answers, **dict.fromkeys(left, sent.fault)}
        there = self.store.sizes(left) if left else {}
        for path in left:
            answers[path] = (
                AlreadyThere(f"target {self.id}: {path} exists already and is never replaced")
                if path in there
                else TargetError(f"target {self.id}: rclone did not store {path}, and did not say why")
            )
        return answers

    def _blame(self, parcels: Sequence[Parcel], answers: Mapping[str, HometapeError | None]) -> None:
        """What the answers say of the whole place: full, read-only, or to be looked at again."""
        blocked = any(self._presence.blame(answers.get(parcel.path), parcel.size) for parcel in parcels)
        if not blocked and any(answer is None for answer in answers.values()):
            self._presence.stored()

    @contextlib.contextmanager
    def _names(self, paths: Sequence[str]) -> Iterator[bool]:
        """Nobody else stores these meanwhile; whether nobody stores anything at all."""
        mine = set(paths)
        with self._free_names:
            while mine & self._busy:
                self._free_names.wait()
            alone = not self._busy
            self._busy |= mine
        try:
            yield alone
        finally:
            with self._free_names:
                self._busy -= mine
                self._free_names.notify_all()

    def _sweep(self) -> None:
        """Delete the partial objects that interrupted runs left; only while nobody stores anything."""
        left = self.store.stage.left_under_way()
        if not left:
            return
        folders = sorted({path.rpartition("/")[0] for paths in left.values() for path in paths if path})
        self.store.delete([f"+ /{folder}/*{PARTIAL}" for folder in folders])
        for note in left:
            self._disk.remove(note)

    def set_aside(self, path: str, why: str) -> str:  # noqa: ARG002 - the reason is recorded by the caller
        """Move a bad copy to `.hometape-aside/`, and its line out of SHA256SUMS; see the contract."""
        self._presence.check()
        if self.store.stat(check_relative(path)) is None:
            raise NotFound(f"target {self.id} has no {path}")
        where = f"{ASIDE_FOLDER}/{path}.{secrets.token_hex(4)}"
        self.store.move(path, where)
        self._sums.drop(path)
        return where

    def note_sums(self, sums: Sequence[tuple[str, str]]) -> None:
        """Keep lines for SHA256SUMS durably here; they are sent at most once a minute, and by `settle`."""
        self._presence.check()
        self._sums.note([(check_relative(path), sha256) for path, sha256 in sums])

    def mend_sums(self, folder: str, right: Mapping[str, str]) -> None:
        """Put SHA256SUMS of a folder right, and take out the lines of files that are not there."""
        self._presence.check()
        there = [entry.path.rpartition("/")[2] for entry in self.list(folder)]
        self._sums.mend(check_relative(folder), right, there)

    def settle(self) -> None:
        """Send the SHA256SUMS that changed; raises TargetAbsent and its like."""
        self._presence.check()
        self._sums.flush()

    def recover(self) -> None:
        """End and clear what an earlier life left, restore a lost README.txt, send the SHA256SUMS that were noted."""
        self.store.rclone.end_leftovers()
        self.store.stage.clear()
        self._presence.check()
        with self._names([]) as alone:
            if alone:
                self._sweep()
        if self.store.stat(README) is None:
            self.place_file(README, STRANGER.encode())
        self._sums.flush()

    def place_file(self, path: str, data: bytes) -> bool:
        """Store one of the target's own files unless it is there; whether it was stored."""
        with self.store.stage.fresh() as folder:
            with named(folder / path, "writing"):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(data)
            sent = self.store.send(folder, [path])
        answer = self._answers([path], sent)[path]
        if answer is not None and not isinstance(answer, AlreadyThere):
            raise answer
        return answer is None

    # -------------------------------------------------------------------------------------- reading

    def read(self, path: str) -> Iterator[bytes]:
        """The bytes of a file, fetched whole first: rclone gives good blocks of a damaged object before it fails."""
        self._presence.check()
        stack = contextlib.ExitStack()
        folder = stack.enter_context(self.store.stage.fresh())
        try:
            found = self._fetch_all([check_relative(path)], folder)[path]
            if isinstance(found, HometapeError):
                raise found
        except BaseException:
            stack.close()
            raise
        return iterate(blocks_of(found), stack.close)

    def fetch_many(self, paths: Sequence[str], folder: Path) -> Sequence[Path | HometapeError]:
        """Copies in a folder of this machine, made in one run."""
        self._presence.check()
        for path in paths:
            check_relative(path)
        found = self._fetch_all(paths, folder) if paths else {}
        return [found[path] for path in paths]

    def _fetch_all(self, paths: Sequence[str], folder: Path) -> dict[str, Path | HometapeError]:
        found = self.store.fetch(paths, folder)
        self._really_missing(found.values())
        return found

    def _really_missing(self, answers: Iterable[object]) -> None:
        """A file is missing only where the place is not: raises TargetAbsent and its like."""
        if any(isinstance(answer, NotFound) for answer in answers):
            self._presence.confirm()

    def verify(self, path: str) -> Proof:
        """Digests of a file, downloaded."""
        self._presence.check()
        with self.store.stage.fresh() as folder:
            found = self._fetch_all([check_relative(path)], folder)[path]
            if isinstance(found, HometapeError):
                raise found
            both = digests_of(found)
        return Proof(both.size, both.digest, both.sha256, DOWNLOAD)

    def verify_many(self, parcels: Sequence[Parcel]) -> Sequence[Proof | HometapeError]:
        """Proofs by what this remote can truly prove; the method says which."""
        self._presence.check()
        answers = self._prover.prove(parcels)
        self._really_missing(answers)
        return answers

    def stat(self, path: str) -> int | None:
        """The size of a file; None if there is none."""
        self._presence.check()
        return self.store.stat(check_relative(path))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every stored file below a folder, in the order of names; memory does not grow with their number."""
        self._presence.check()
        start = check_relative(prefix) if prefix else ""
        stack = contextlib.ExitStack()
        found = Sorted(stack.enter_context(self.store.stage.fresh()))
        try:
            self.store.walk(start, lambda path, size: _keep(found, path, size))
            self._presence.confirm()  # a place that vanished meanwhile lists nothing
        except BaseException:
            stack.close()
            raise
        return iterate((Entry(path, size) for path, size in found), stack.close)

    def sums(self, folder: str) -> dict[str, str]:
        """File name -> SHA-256 as noted for a folder, what is not sent yet included."""
        self._presence.check()
        return self._sums.read(check_relative(folder))

    # ---------------------------------------------------------------------------------------- state

    def free(self) -> int | None:
        """Free bytes as the store tells them, at most ten minutes old; None where it tells nothing."""
        return self._presence.free()

    def state(self) -> State:
        """Ready, absent, refused, read-only or full, with reason and hint. Asked anew a minute after a success."""
        return self._presence.state()

    def instance(self) -> str:
        """The instance in the marker; raises TargetAbsent."""
        return self._presence.check()

    # ----------------------------------------------------------------------------------------- sums

    def _fetch_sums(self, folders: Sequence[str]) -> dict[str, bytes]:
        found = {}
        with self.store.stage.fresh() as scratch:
            copies = self.store.fetch([f"{folder}/{SUMS}" for folder in folders], scratch)
            for folder in folders:
                copy = copies[f"{folder}/{SUMS}"]
                if isinstance(copy, Path):
                    found[folder] = b"".join(blocks_of(copy))
                elif not isinstance(copy, NotFound | DiskError):  # a damaged one is written anew
                    raise copy
        return found

    def _send_sums(self, root: Path, paths: Sequence[str]) -> None:
        sent = self.store.send(root, paths, replace=True)
        faults = [fault for fault in (sent.fault, *sent.errors.values()) if fault is not None]
        lacking = [path for path in paths if path not in sent.stored]
        if faults or lacking:
            raise faults[0] if faults else TargetError(f"target {self.id}: {lacking[0]} could not be stored")


def _keep(found: Sorted, path: str, size: int) -> None:
    if not is_own(path) and not path.endswith(PARTIAL):
        found.add(path, size)
