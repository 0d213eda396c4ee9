"""The catalog made anew from the files of one target alone: names, bytes and footers hold all it needs.

Every file is read in full, so what comes out is as good as after a first commit and its read-back: XXH3-128
equals the name, SHA-256 attested, the copy at this target proven. Files that don't pass are reported and
left where they are.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from receiver.catalog import Catalog
from receiver.catalog_rows import NewSegment
from receiver.catalog_walk import newest
from receiver.catalog_writes import EMPTY
from receiver.ingest_items import Item, Judge
from receiver.inspect import Inspector
from receiver.model import Copy
from receiver.settings import LimitSettings
from receiver.targets.contract import READ_BACK
from receiver.targets.inside import segment_files
from receiver.verdict import Limits
from tape.clock import Clock
from tape.digest import digests_of
from tape.errors import DiskError, NameRefused
from tape.names import SegmentPath

_BATCH = 500


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild did. `known`: were catalogued before. `problems`: (path below the root, why it was left out)."""

    added: int
    known: int
    rows: int
    bytes: int
    problems: tuple[tuple[str, str], ...]


def tell_if_lost(catalog: Catalog, home: Path) -> bool:
    """Record it if the catalog holds nothing and the home archive does; whether it is so. Raises StoreError.

    A catalog that is lost is made empty at the next start: what lies at home counts nowhere then, and nobody misses it.
    """
    if catalog.ask(newest):
        return False
    with contextlib.suppress(DiskError):  # home is away: told by its lane, and looked at again at the next start
        if next(segment_files(home), None) is not None:
            text = f"it held nothing when the service started, and {home} does: `tape-receiver resync` takes that in"
            catalog.record_incident(EMPTY, text=text)
            return True
    return False


def rebuild(
    root: Path,
    target: str,
    catalog: Catalog,
    *,
    limits: LimitSettings,
    clock: Clock,
    progress: Callable[[int, int], None] = lambda _files, _bytes: None,
) -> Rebuilt:
    """Add every segment below a target's root that the catalog does not know, with its copy there.

    May be stopped and started again. `progress` is told files and bytes read so far. Raises DiskError,
    StoreError.
    """
    maker = _Rebuild(target, catalog, limits, clock, progress)
    try:
        batch: list[Item] = []
        for path in _segments(root):
            item = maker.item_at(root, path)
            if item is not None:
                batch.append(item)
            if len(batch) >= _BATCH:
                maker.add(batch)
                batch = []
        maker.add(batch)
        catalog.close_incident(EMPTY)
    finally:
        maker.inspector.close()
    return Rebuilt(maker.added, maker.known, maker.rows, maker.size, tuple(maker.problems))


class _Rebuild:
    def __init__(
        self,
        target: str,
        catalog: Catalog,
        limits: LimitSettings,
        clock: Clock,
        progress: Callable[[int, int], None],
    ) -> None:
        self.inspector = Inspector(limits, clock=clock)
        self._target = target
        self._catalog = catalog
        self._clock = clock
        self._progress = progress
        self._limits = Limits(limits.max_columns, limits.max_rows, limits.max_decoded)
        self._sha256: dict[int, str] = {}
        self._places: dict[int, str] = {}
        self.files = self.read = 0
        self.added = self.known = self.rows = self.size = 0
        self.problems: list[tuple[str, str]] = []
        self._told: set[str] = set()

    def item_at(self, root: Path, path: str) -> Item | None:
        """A file as an item to be judged; None, with a problem noted, if it can't be one."""
        full = root / path
        try:
            place = SegmentPath.parse(path)
            both = digests_of(full)
        except NameRefused as error:
            self.problems.append((path, str(error)))
            return None
        except OSError as error:
            self.problems.append((path, f"can't be read: {error.strerror or error}"))
            return None
        self.files += 1
        self.read += both.size
        self._progress(self.files, self.read)
        item = Item(0, place.agent, place.stream, place.name, full, both.size, both.digest)
        self._sha256[id(item)] = both.sha256
        self._places[id(item)] = path
        return item

    def add(self, items: list[Item]) -> None:
        """Judge items and catalogue those that pass, their SHA-256 and their copy at this target."""
        items.sort(key=lambda item: item.identity)
        Judge(self._catalog, self.inspector, self._limits, {}).judge(items)
        good: list[Item] = []
        copied: list[tuple[int, Item]] = []
        for item in items:
            path = self._places[id(item)]
            assert item.outcome is not None
            if item.accepted and str(item.place) == path:
                good.append(item)
            elif item.accepted:
                self.problems.append((path, f"its footer says it belongs at {item.place}"))
            elif item.outcome.ok:
                held = self._catalog.find(*item.identity)
                if held is not None and str(held.path) == path:
                    self.known += 1
                    copied.append((held.id, item))
            else:
                self.problems.append((path, item.outcome.reason))
        held_now = self._catalog.add([NewSegment(item.place, item.size, item.footer) for item in good if item.footer])
        copied += [(held.id, item) for held, item in zip(held_now, good, strict=True)]
        attested = self._catalog.attest_many([(number, self._sha256[id(item)]) for number, item in copied])
        for result, (_, item) in zip(attested, copied, strict=True):
            for found in result.found:  # a break shows from both sides of the link
                if found not in self._told:
                    self._told.add(found)
                    self.problems.append((self._places[id(item)], found))
        now = self._clock.now_ns()
        self._catalog.add_copies([Copy(number, self._target, now, READ_BACK) for number, _ in copied])
        self.added += len(good)
        self.rows += sum(item.footer.rows for item in good if item.footer)
        self.size += sum(item.size for item in good)
        self._sha256.clear()
        self._places.clear()


def _segments(root: Path, prefix: str = "") -> Iterator[str]:
    """Every Parquet file of the archive's folders, by path with `/`, one folder in memory at a time."""
    with os.scandir(root / prefix) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        path = f"{prefix}/{entry.name}" if prefix else entry.name
        if entry.name.startswith(".") or entry.is_symlink():
            continue
        if entry.is_dir():
            yield from _segments(root, path)
        elif entry.name.endswith(".parquet") and prefix:
            yield path
