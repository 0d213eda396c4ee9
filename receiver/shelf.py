"""Where an export reads from: a catalog that knows the segments, and places that hold their bytes.

With the receiver's own catalog the places are its targets, best first. From a bare folder (any one copy,
on any machine) the catalog is made on the spot from the footers of the files, and thrown away afterwards.
Every segment's bytes are checked against the digest in its name before anybody decodes them.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from receiver.catalog import Catalog, NewSegment
from receiver.model import Held
from receiver.targets.contract import Target
from tape.clock import SYSTEM, Clock
from tape.digest import digest_of
from tape.durable import TEMP_PREFIX, named
from tape.errors import ExportError, HometapeError, NameRefused, NotFound, SegmentError
from tape.names import SegmentName, SegmentPath
from tape.segment import read_footer

_GROUP = 500
_SUFFIX = ".parquet"
Fetched = contextlib.AbstractContextManager[Path]


class Shelf:
    """Segments by stream, and their bytes from the first place that has them whole. Close it after use."""

    def __init__(
        self,
        catalog: Catalog,
        places: Sequence[Callable[[SegmentPath], Fetched]],
        *,
        damaged: Sequence[str] = (),
    ) -> None:
        self.catalog = catalog
        self.damaged = damaged  # files that are named as segments and can't be read, each with the reason
        self._places = places

    @contextlib.contextmanager
    def opened(self, held: Held) -> Iterator[Path]:
        """A file with the very bytes of a segment; raises ExportError that says what is wrong at each place."""
        problems = []
        for place in self._places:
            with contextlib.ExitStack() as stack:
                try:
                    path = stack.enter_context(place(held.path))
                    _check(path, held)
                except HometapeError as error:
                    problems.append(str(error))
                    continue
                yield path
                return
        raise ExportError(
            f"segment {held.path} can't be had: {'; '.join(problems)}",
            hint="export from another target with --from, or leave it out with --allow-gaps",
        )


def _check(path: Path, held: Held) -> None:
    with named(path, "reading"):
        digest = digest_of(path)
    if digest != held.path.name.digest:
        raise ExportError(f"{path} is damaged: its bytes have digest {digest}")


def shelf_of(catalog: Catalog, targets: Sequence[Target]) -> Shelf:
    """The receiver's own: read from these targets, the first that has a segment whole."""

    def fetcher(target: Target) -> Callable[[SegmentPath], Fetched]:
        return lambda path: fetched(target, str(path))

    return Shelf(catalog, [fetcher(target) for target in targets])


@contextlib.contextmanager
def fetched(target: Target, path: str) -> Iterator[Path]:
    """A local file with the bytes of a stored file: itself where it is local, else a temporary copy."""
    local = target.local(path)
    if local is not None:
        if target.stat(path) is None:
            raise NotFound(f"target {target.id} has no {path}")
        yield local
        return
    blocks = target.read(path)
    with tempfile.TemporaryDirectory(prefix="hometape-") as folder:
        copy = Path(folder) / path.rpartition("/")[2]
        with named(copy, "writing"), copy.open("wb") as file:
            for block in blocks:
                file.write(block)
        yield copy


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
        damaged: list[str] = []
        where = _read_in(root, catalog, damaged, progress or (lambda _: None))

        @contextlib.contextmanager
        def place(path: SegmentPath) -> Iterator[Path]:
            yield where.get(str(path), root / str(path))

        yield Shelf(catalog, [place], damaged=damaged)


def _read_in(root: Path, catalog: Catalog, damaged: list[str], progress: Callable[[int], None]) -> dict[str, Path]:
    """Catalogue every segment below a folder; returns where those lie that are not where their path says."""
    elsewhere: dict[str, Path] = {}
    group: dict[tuple[str, str, str, int], tuple[Path, NewSegment]] = {}
    count = 0
    for file in segment_files(root):
        count += 1
        try:
            new = _new_segment(file)
        except SegmentError as error:
            damaged.append(str(error))
            continue
        path = new.path
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
                elsewhere[str(path)] = file
        if len(group) >= _GROUP:
            catalog.add([item for _, item in group.values()])
            group.clear()
            progress(count)
    if group:
        catalog.add([item for _, item in group.values()])
    if not count:
        raise NotFound(f"{root} holds no segments", hint="give the root of a target, or a folder below it")
    progress(count)
    return elsewhere


def segment_files(root: Path) -> Iterator[Path]:
    """Every file below a folder that is named as a segment, by name; hidden folders are left out."""
    with named(root, "listing"):
        entries = sorted(root.iterdir())
    for entry in entries:
        if entry.name.startswith((".", TEMP_PREFIX)) or entry.is_symlink():
            continue
        if entry.is_dir():
            yield from segment_files(entry)
        elif entry.suffix == _SUFFIX:
            with contextlib.suppress(NameRefused):
                SegmentName.parse(entry.name)
                yield entry


def _new_segment(file: Path) -> NewSegment:
    footer = read_footer(file)
    name = SegmentName.parse(file.name)
    if (name.epoch, name.seq) != (footer.epoch, footer.seq):
        raise SegmentError(f"{file} says inside that it is segment {footer.seq} of epoch {footer.epoch}")
    with named(file, "looking at"):
        size = file.stat().st_size
    return NewSegment(SegmentPath(footer.agent, footer.stream, footer.day, name), size, footer)
