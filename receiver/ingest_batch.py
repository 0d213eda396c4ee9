"""One batch of uploads made durable together: judged, placed, one sync, one transaction. Runs in a thread.

The order is the promise: a file is placed in the home archive under a name nobody counts yet, its bytes and
name are fsynced, then the catalog's transaction makes it held; only then is anybody told OK. Before the
first file goes into a folder, the catalog notes that folder, so that after a crash only the noted
folders are searched for files without a row (`recover`).
"""

import contextlib
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from receiver.catalog import Catalog, NewSegment, Refusal
from receiver.ingest_items import Item, Judge, answer, quotas, settle, unpack
from receiver.inspect import Inspector
from receiver.model import Answer, Outcome, Upload
from receiver.moving import move_new
from receiver.orphans import Action, Found, decide
from receiver.quarantine import Quarantine
from receiver.settings import ReceiverSettings
from receiver.targets.directory import TEMP_FOLDER
from receiver.targets.marker import check_marker
from receiver.verdict import Limits
from tape.clock import Clock
from tape.digest import digest_of
from tape.durable import Disk, is_temp
from tape.errors import AlreadyThere, DiskError, DiskFull, HometapeError, NameRefused, StoreError, SyncFailed
from tape.log import get_logger
from tape.names import SegmentPath

RESERVE = 64 * 2**20  # bytes that stay free: SQLite's shared memory must never meet a full disk
_RESERVE_SHARE = 50
_FOLDER_IDLE = 600.0  # seconds until a folder nothing is placed in counts as closed
log = get_logger(__name__)


class Batches:
    """Commits batches, one at a time, and cleans up after a crash. Raises SyncFailed, StoreError: stop and recover."""

    def __init__(
        self, settings: ReceiverSettings, catalog: Catalog, inspector: Inspector, *, clock: Clock, disk: Disk
    ) -> None:
        limits = settings.limits
        self._home = settings.home.folder
        self._home_id = settings.home.id
        self._state = settings.state
        self._catalog = catalog
        self._inspector = inspector
        self._clock = clock
        self._disk = disk
        self._limits = Limits(limits.max_columns, limits.max_rows, limits.max_decoded)
        self._quota = {agent.name: agent.quota_bytes for agent in settings.agent}
        self._temp = self._home / TEMP_FOLDER / "ingest"
        self._quarantine = Quarantine(settings.state, limits.quarantine, disk)
        self._open: dict[str, float] = {}  # noted folders, and when something was placed there last
        self._known_folders: set[Path] = {self._home}  # their names were made durable in this process

    def run(self, uploads: Sequence[Upload]) -> list[Outcome]:
        """The outcome of each upload, durable. Every private file of the uploads is gone or placed afterwards."""
        try:
            self._ready()
        except HometapeError as error:
            log.warning("uploads are put off", error=str(error), hint=error.hint, uploads=len(uploads))
            self._discard(path for upload in uploads for path in upload.files)
            return [Outcome(Answer.RESEND, str(error))] * len(uploads)
        items, failed = unpack(uploads, self._catalog, self._inspector, self._disk, self._temp)
        agents = {upload.agent for upload in uploads}
        Judge(self._catalog, self._inspector, self._limits, quotas(self._quota, self._catalog, agents)).judge(items)
        self._commit(items)
        left = [item.path for item in items if item.path is not None and (item.stayed or not item.accepted)]
        alone = {item.upload for item in items if item.path is uploads[item.upload].path}
        whole = [u.path for n, u in enumerate(uploads) if n not in alone and u.pieces is None]
        self._discard([*left, *whole, *(path for number in failed for path in uploads[number].files)])
        by_upload: dict[int, list[Item]] = {}
        for item in items:
            by_upload.setdefault(item.upload, []).append(item)
        return [failed[n] if n in failed else answer(by_upload.get(n, [])) for n in range(len(uploads))]

    def _ready(self) -> None:
        """Raises TargetAbsent or DiskFull where nothing can be stored now."""
        check_marker(self._home, self._home_id)
        for folder in (self._home, self._state):
            with contextlib.suppress(OSError):
                usage = shutil.disk_usage(folder)
                if usage.free < min(RESERVE, usage.total // _RESERVE_SHARE):
                    raise DiskFull(f"{folder} is full: {usage.free} bytes left")
        self._disk.make_dirs(self._temp)

    def _commit(self, items: list[Item]) -> None:
        folders = self._place([item for item in items if item.accepted])
        settle(items)
        refusals, kept = self._set_aside(items)
        good = [item for item in items if item.accepted]
        self._make_durable([item.final for item in good if item.final is not None], folders, kept)
        if good or refusals:
            self._record(good, refusals)
            settle(items)

    def _make_durable(self, finals: Sequence[Path], folders: Sequence[Path], kept: Sequence[Path]) -> None:
        """Fsync placed files and the folders of their names, and what went into quarantine."""
        kept_files = [path for path in kept if not path.is_dir()]
        kept_folders = [path for path in kept if path.is_dir()]
        self._disk.sync_many([*finals, *kept_files], [*folders, *kept_folders])
        self._known_folders.update(folders)

    def _record(self, good: list[Item], refusals: list[Refusal]) -> None:
        """The catalog's transaction. What it has no room for is to be sent again; what it refuses is set aside.

        Raises StoreError if it refuses each and every one: then it is the catalog that is damaged.
        """
        new = [_new(item) for item in good if not item.renewed]
        renewed = [_new(item) for item in good if item.renewed]
        try:
            self._catalog.record(new, renewed=renewed, refused=refusals, closed_folders=self._idle_folders())
        except DiskFull as error:
            self._discard(item.final for item in good if item.final is not None)
            for item in good:
                item.outcome = Outcome(Answer.RESEND, f"the receiver could not record it: {error}")
        except StoreError as error:
            if len(good) < 2:
                raise
            log.error("the catalog refuses a batch; its segments are tried one by one", error=str(error))
            self._record_each(good, error)

    def _record_each(self, good: list[Item], error: StoreError) -> None:
        refused: list[tuple[Item, str]] = []
        for item in good:
            one = [_new(item)]
            try:
                self._catalog.record([] if item.renewed else one, renewed=one if item.renewed else [])
            except StoreError as single:
                refused.append((item, str(single)))
        if len(refused) == len(good):
            raise error
        for item, reason in refused:
            item.outcome = Outcome(Answer.QUARANTINED, reason)
            if item.final is not None:
                self._quarantine.keep(item.final, item.agent, item.stream, item.name, reason)

    # ------------------------------------------------------------------------------------------- placing

    def _place(self, items: Sequence[Item]) -> list[Path]:
        """Put accepted items under their final names; returns the folders to be fsynced."""
        names = {item.place.folder for item in items}
        folders = {name: self._home / name for name in sorted(names)}
        fresh = [name for name in folders if name not in self._open]
        if fresh:
            self._catalog.open_more_folders(fresh)
        now = self._clock.monotonic()
        self._open.update(dict.fromkeys(folders, now))
        made: set[str] = set()
        for item in items:
            name = item.place.folder
            try:
                if name not in made:
                    self._disk.make_dirs(folders[name])
                    made.add(name)
                self._place_one(item, folders[name])
            except SyncFailed:
                raise
            except DiskError as error:
                log.error("a segment could not be placed", path=str(item.place), error=str(error))
                item.outcome = Outcome(Answer.RESEND, f"the receiver could not store it: {error}")
        return self._with_new_parents(folders.values())

    def _place_one(self, item: Item, folder: Path) -> None:
        assert item.path is not None
        item.final = folder / str(item.name)
        try:
            move_new(self._disk, item.path, item.final, self._temp)
        except AlreadyThere:
            if digest_of(item.final) == item.name.digest:
                item.stayed = True  # left by a crash, whole: it becomes held now
                return
            reason = "stood under its name with other bytes, and in no catalog"
            self._quarantine.keep(item.final, item.agent, item.stream, item.name, reason)
            move_new(self._disk, item.path, item.final, self._temp)

    def _with_new_parents(self, folders: Iterable[Path]) -> list[Path]:
        """The folders and all above them whose names this process has not made durable yet.

        A folder may be there because a process that died made it, its name never fsynced.
        """
        found: dict[Path, None] = {}
        for folder in folders:
            found[folder] = None
            here = folder
            while here not in self._known_folders:
                here = here.parent
                found[here] = None
        return list(found)

    def _idle_folders(self) -> list[str]:
        """Noted folders in which nothing was placed for a while: all that was placed there is catalogued."""
        now = self._clock.monotonic()
        idle = [name for name, last in self._open.items() if now - last > _FOLDER_IDLE]
        for name in idle:
            del self._open[name]
        return idle

    # ----------------------------------------------------------------------------------------- set aside

    def _set_aside(self, items: Iterable[Item]) -> tuple[list[Refusal], list[Path]]:
        """Take refused uploads into quarantine; returns what the catalog records and what is to be fsynced."""
        refusals: list[Refusal] = []
        to_sync: list[Path] = []
        for item in items:
            outcome = item.outcome
            assert outcome is not None
            if outcome.answer not in (Answer.QUARANTINED, Answer.CONFLICT) or item.path is None:
                continue
            log.warning("an upload is refused", agent=item.agent, path=f"{item.stream}/{item.name}", why=outcome.reason)
            path, kept = self._quarantine.keep(item.path, item.agent, item.stream, item.name, outcome.reason)
            to_sync += kept
            conflict = outcome.answer is Answer.CONFLICT
            refusals.append(
                Refusal(item.agent, item.stream, item.name, item.size, outcome.reason, path, conflict=conflict)
            )
        return refusals, to_sync

    def _discard(self, paths: Iterable[Path]) -> None:
        """Delete private files; one that can't be deleted is left for the next start."""
        for path in paths:
            try:
                self._disk.remove(path)
            except DiskError as error:
                log.warning("a private file could not be deleted", path=str(path), error=str(error))

    # ------------------------------------------------------------------------------------------ recovery

    def recover(self) -> dict[Action, int]:
        """Clear what a crash left: unfinished files, and files in noted folders that the catalog does not know.

        Returns how many files met each action. Raises TargetAbsent where the home archive is not there.
        """
        check_marker(self._home, self._home_id)
        counts = dict.fromkeys(Action, 0)
        if self._temp.is_dir():
            counts[Action.DELETE] += len(self._disk.clear_temps(self._temp))
        folders = self._catalog.open_folders()
        for folder in folders:
            self._recover_folder(folder, counts)
        self._open.clear()
        if folders:
            self._catalog.record([], closed_folders=folders)
            log.info("folders that were open at the last end are checked", folders=len(folders), **counts)
        return counts

    def _recover_folder(self, folder: str, counts: dict[Action, int]) -> None:
        root = self._home / folder
        paths = sorted(root.iterdir()) if root.is_dir() else []
        orphans: list[tuple[Item, Found]] = []
        for path in paths:
            item = _item_at(folder, path)
            known = item is not None and self._catalog.known([item.identity])[0].digest == item.name.digest
            found = Found(is_temp(path), item is not None, known, whole=False, acceptable=False)
            if item is not None and not known:
                item.digest = digest_of(path)
                orphans.append((item, found))
                continue
            action, _ = decide(found)
            counts[action] += 1
            if action is Action.DELETE:
                self._disk.remove(path)
        self._judge_orphans(orphans, counts)

    def _judge_orphans(self, orphans: list[tuple[Item, Found]], counts: dict[Action, int]) -> None:
        judge = Judge(self._catalog, self._inspector, self._limits, {})
        judge.judge(item for item, _ in orphans)
        adopted: list[Item] = []
        for item, found in orphans:
            whole = item.digest == item.name.digest
            at_home = item.accepted and self._home / str(item.place) == item.final
            facts = Found(found.temporary, found.segment, found.known, whole, whole and at_home)
            action, why = decide(facts)
            counts[action] += 1
            if action is Action.ADOPT:
                adopted.append(item)
            elif item.path is not None:
                reason = item.outcome.reason if item.outcome is not None and item.outcome.reason else why
                log.warning("a file left by a crash is set aside", path=str(item.path), why=reason)
                self._quarantine.keep(item.path, item.agent, item.stream, item.name, reason)
        if adopted:
            finals = [item.final for item in adopted if item.final is not None]
            self._disk.sync_many(finals, self._with_new_parents(path.parent for path in finals))
            self._catalog.record([_new(item) for item in adopted])

    def close(self) -> None:
        """Note that nothing is under way, so that the next start has nothing to search."""
        if self._open:
            with contextlib.suppress(StoreError, DiskError):  # then the next start searches, no more
                self._catalog.record([], closed_folders=list(self._open))
            self._open.clear()


def _new(item: Item) -> NewSegment:
    assert item.footer is not None
    return NewSegment(item.place, item.size, item.footer)


def _item_at(folder: str, path: Path) -> Item | None:
    """A file in a day folder as an item that is placed already; None if its name is no segment's."""
    try:
        place = SegmentPath.parse(f"{folder}/{path.name}")
    except NameRefused:
        return None
    item = Item(0, place.agent, place.stream, place.name, path, path.stat().st_size, digest="")
    item.final = path
    return item
