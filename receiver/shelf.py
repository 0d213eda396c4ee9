"""Where an export reads from: a catalog that knows the segments, and places that hold their bytes.

With the receiver's own catalog the places are its targets, best first. From a bare folder (any one copy,
on any machine) the catalog is made on the spot from the footers of the files, and thrown away afterwards.
Every segment's bytes are checked against the digest in its name before anybody decodes them.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from receiver.catalog import Catalog, NewSegment
from receiver.model import Held
from receiver.shelf_ahead import Ahead, Place
from receiver.targets.contract import SUMS, Target
from receiver.targets.inside import segment_files
from receiver.targets.sums import read_sums
from tape.clock import SYSTEM, Clock
from tape.digest import digest_of
from tape.durable import named
from tape.errors import DiskError, ExportError, HometapeError, NameRefused, NotFound, SegmentError
from tape.names import SegmentName, SegmentPath
from tape.segment import read_footer

_GROUP = 500
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that is named as a segment and can't be read, and why. `stream`: agent and stream that it lies among."""

    text: str
    stream: tuple[str, str] | None = None


class Shelf:
    """Segments by stream, and their bytes from the first place that has them whole. Close it after use.

    damaged: files that are named as segments and can't be read. unmet: segments that SHA256SUMS
    names and nobody met: the newest of a stream leave no hole when they are gone.
    """

    def __init__(
        self,
        catalog: Catalog,
        places: Sequence[Place],
        *,
        damaged: Sequence[Damage] = (),
        unmet: Sequence[SegmentPath] = (),
    ) -> None:
        self.catalog = catalog
        self.damaged = damaged
        self.unmet = unmet
        self._places = places
        self._ahead: list[Ahead] = []

    def damaged_in(self, agent: str, stream: str) -> list[str]:
        """The damage that may concern a stream: that in its folders, and that of which nothing else is known."""
        return [one.text for one in self.damaged if one.stream in (None, (agent, stream))]

    @contextlib.contextmanager
    def opened(self, held: Held) -> Iterator[Path]:
        """A file with the very bytes of a segment; raises ExportError that says what is wrong at each place."""
        problems = []
        fetched = self._fetched(held)
        if fetched is not None:
            yield fetched
            return
        for place in self._places:
            with tempfile.TemporaryDirectory(prefix="hometape-", ignore_cleanup_errors=True) as folder:
                try:
                    found = place.fetch([held.path], Path(folder))[0]
                    if isinstance(found, HometapeError):
                        raise found
                    _check(found, held)
                except HometapeError as error:
                    problems.append(str(error))
                    continue
                yield found
                return
        raise ExportError(
            f"segment {held.path} can't be had: {'; '.join(problems)}",
            hint="export from another target with --from, or leave it out with --allow-gaps",
        )

    def _fetched(self, held: Held) -> Path | None:
        """What was fetched ahead, if it is whole; else each place is asked by itself."""
        for ahead in self._ahead:
            path = ahead.files.get(held.id)
            if path is not None:
                with contextlib.suppress(HometapeError):
                    _check(path, held)
                    return path
        return None

    def along(self, items: Iterable[T], segment: Callable[[T], Held | None]) -> Iterator[T]:
        """The same items, one after the other; what `segment` says of the next ones is fetched while one is used.

        In batches of bounded size: a cloud is not asked for one small file after the other.
        """
        if all(place.local for place in self._places):
            yield from items
            return
        ahead = Ahead(self._places)
        self._ahead.append(ahead)
        try:
            yield from ahead.run(items, segment)
        finally:
            self._ahead.remove(ahead)


def _check(path: Path, held: Held) -> None:
    with named(path, "reading"):
        digest = digest_of(path)
    if digest != held.path.name.digest:
        raise ExportError(f"{path} is damaged: its bytes have digest {digest}")


class AtTarget:
    """The segments of a target."""

    def __init__(self, target: Target) -> None:
        self.local = target.capabilities.local
        self._target = target

    def fetch(self, paths: Sequence[SegmentPath], folder: Path) -> Sequence[Path | HometapeError]:
        """See Place."""
        return self._target.fetch_many([str(path) for path in paths], folder)


class _InFolder:
    """The segments of a bare folder, wherever in it they lie."""

    local = True

    def __init__(self, root: Path, elsewhere: Mapping[str, Path]) -> None:
        self._root = root
        self._elsewhere = elsewhere

    def fetch(self, paths: Sequence[SegmentPath], folder: Path) -> Sequence[Path | HometapeError]:  # noqa: ARG002 - nothing is copied
        """See Place."""
        found = [self._elsewhere.get(str(path), self._root / str(path)) for path in paths]
        return [path if path.exists() else NotFound(f"{path} is not there") for path in found]


def shelf_of(catalog: Catalog, targets: Sequence[Target]) -> Shelf:
    """The receiver's own: read from these targets, the first that has a segment whole."""
    return Shelf(catalog, [AtTarget(target) for target in targets])


@contextlib.contextmanager
def shelf_from_folder(
    root: Path, *, clock: Clock = SYSTEM, progress: Callable[[int], None] | None = None
) -> Iterator[Shelf]:
    """A shelf made from nothing but a folder of segments, wherever in the tree it starts.

    `progress` is called with the number of files read so far. Raises NotFound where there are none,
    ExportError where two files claim to be the same segment. A file that can't be read is in `damaged`.
    """
    if not root.is_dir():
        raise NotFound(f"{root} is not a folder")
    with contextlib.ExitStack() as stack:
        state = stack.enter_context(tempfile.TemporaryDirectory(prefix="hometape-", ignore_cleanup_errors=True))
        catalog = stack.enter_context(Catalog.open(Path(state), clock=clock))
        damaged: list[Damage] = []
        where = read_in(root, catalog, damaged, progress or (lambda _: None))
        if not where.count:
            raise NotFound(f"{root} holds no segments", hint="give the root of a target, or a folder below it")
        unmet = unmet_of(catalog, _listed(root, where.streams))
        yield Shelf(catalog, [_InFolder(root, where.elsewhere)], damaged=damaged, unmet=unmet)


@dataclass(slots=True)
class ReadIn:
    """What reading a folder found: how many files, those that lie elsewhere than their path says, and in the folders
    of these the path of a segment.
    """

    count: int = 0
    elsewhere: dict[str, Path] = field(default_factory=dict)
    streams: dict[Path, SegmentPath] = field(default_factory=dict)


def read_in(root: Path, catalog: Catalog, damaged: list[Damage], progress: Callable[[int], None]) -> ReadIn:
    """Catalogue every segment below a folder by its footer. Raises ExportError where two claim the same identity."""
    done = ReadIn()
    group: dict[tuple[str, str, str, int], tuple[Path, NewSegment]] = {}
    owners: dict[Path, tuple[str, str]] = {}
    bad: list[tuple[Path, str]] = []
    for file in segment_files(root):
        done.count += 1
        try:
            new = _new_segment(file)
        except SegmentError as error:
            bad.append((file, str(error)))
            continue
        path = new.path
        owners[_of_all_days(file)] = (path.agent, path.stream)
        key = (path.agent, path.stream, path.name.epoch, path.name.seq)
        held = catalog.find(*key)
        twin = group[key][1].path if key in group else held.path if held else None
        if twin is not None and twin.name.digest != path.name.digest:
            raise ExportError(
                f"{file} and {twin} claim to be the same segment with different bytes",
                hint="run `tape-receiver verify` on the folder; move the wrong one away",
            )
        if twin is None:
            group[key] = (file, new)
            if file != root / str(path):
                done.elsewhere[str(path)] = file
                done.streams[file.parent] = path
        if len(group) >= _GROUP:
            catalog.add([item for _, item in group.values()])
            group.clear()
            progress(done.count)
    if group:
        catalog.add([item for _, item in group.values()])
    damaged += [Damage(text, owners.get(_of_all_days(file))) for file, text in bad]
    progress(done.count)
    return done


def _of_all_days(file: Path) -> Path:
    """The folder of the stream that a segment lies in."""
    return file.parent.parent if file.parent.name.startswith("date=") else file.parent


def unmet_of(catalog: Catalog, listed: Iterable[SegmentPath]) -> list[SegmentPath]:
    """Those that the catalog lacks, of what SHA256SUMS names."""
    return [path for path in listed if catalog.find(path.agent, path.stream, path.name.epoch, path.name.seq) is None]


def _listed(root: Path, streams: Mapping[Path, SegmentPath]) -> Iterator[SegmentPath]:
    """Every segment that a SHA256SUMS below a folder names."""
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        if SUMS in files:
            day = Path(folder)
            known = streams.get(day)
            yield from listed_in(day, day.relative_to(root).as_posix() if known is None else known.folder)


def listed_in(day: Path, folder: str) -> Iterator[SegmentPath]:
    """The segments that the SHA256SUMS of a day names; `folder`: the day's, relative to the target's root."""
    with contextlib.suppress(DiskError):
        for name in read_sums(day)[0]:
            with contextlib.suppress(NameRefused):
                yield SegmentPath.parse(f"{folder}/{name}")


def _new_segment(file: Path) -> NewSegment:
    footer = read_footer(file)
    name = SegmentName.parse(file.name)
    if (name.epoch, name.seq) != (footer.epoch, footer.seq):
        raise SegmentError(f"{file} says inside that it is segment {footer.seq} of epoch {footer.epoch}")
    with named(file, "looking at"):
        size = file.stat().st_size
    return NewSegment(SegmentPath(footer.agent, footer.stream, footer.day, name), size, footer)
