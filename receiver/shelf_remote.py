"""A bare rclone remote as a shelf: any one copy, on any machine, with nothing but rclone's configuration.

No marker is asked for and nothing is written there. What is fetched lies in temporary folders, in batches
of bounded size; the first bytes stay until the end, so that a small stream is fetched once.
"""

import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from receiver.catalog import Catalog
from receiver.placement import batches
from receiver.settings import TargetSettings
from receiver.shelf import Damage, Shelf, listed_in, read_in, unmet_of
from receiver.shelf_ahead import MOST_BYTES, MOST_FILES
from receiver.targets.contract import SUMS, Entry, is_own
from receiver.targets.remote_list import Sorted
from receiver.targets.remote_store import RemoteStore
from tape.clock import SYSTEM, Clock
from tape.errors import HometapeError, NameRefused, NotFound, UsageError
from tape.names import SegmentPath

PREFIX = "rclone:"
KEPT = 512 * 2**20
_MOST_NAMED = 8
Told = Callable[[int], None]


class BareRemote:
    """A folder of an rclone remote. Raises TargetError and its children, DiskError, NotFound. Close it after use."""

    def __init__(self, text: str, config: Path | None = None, *, clock: Clock = SYSTEM) -> None:
        try:
            entry = TargetSettings(id="bare", kind="remote", remote=text.removeprefix(PREFIX), rclone_config=config)
        except ValueError as error:
            raise UsageError(f"{text!r} is no remote", hint=f"{PREFIX}NAME:PATH, NAME as rclone knows it") from error
        self.text = text
        self._folder = tempfile.TemporaryDirectory(prefix="hometape-", ignore_cleanup_errors=True)
        self.scratch = Path(self._folder.name)
        self._listings = 0
        self._days: set[str] = set()  # that have a SHA256SUMS
        self._store = RemoteStore(entry, self.scratch / "rclone", clock=clock)

    def close(self) -> None:
        """Delete what was fetched."""
        self._folder.cleanup()

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """Every file below a folder but a target's own, by name."""
        self._listings += 1
        runs = self.scratch / f"listing-{self._listings}"
        runs.mkdir()
        found = Sorted(runs)

        def take(path: str, size: int) -> None:
            if not is_own(path):
                found.add(path, size)
            elif path.endswith(f"/{SUMS}"):
                self._days.add(path.removesuffix(f"/{SUMS}"))

        self._store.walk(prefix, take)
        return (Entry(path, size) for path, size in found)

    def segments(self, stream: str) -> Iterator[Entry]:
        """The segments of a stream, AGENT/STREAM or STREAM, of every agent that has it; of all streams for ""."""
        wanted = stream.strip("/")
        for prefix in (*([wanted] if "/" in wanted else []), ""):
            found = self._within(prefix, wanted)
            first = next(found, None)
            if first is not None:
                return itertools.chain([first], found)
        known = {"/".join(entry.path.split("/")[:-2]): None for entry in itertools.islice(self._within("", ""), 10_000)}
        names = ", ".join(list(known)[:_MOST_NAMED])
        raise NotFound(
            f"{self.text} holds no segments{f' of {wanted}' if wanted else ''}",
            hint=f"give one as AGENT/STREAM: {names}" if known else "give the root of a target, as NAME:PATH",
        )

    def _within(self, prefix: str, stream: str) -> Iterator[Entry]:
        for entry in self.entries(prefix):
            with contextlib.suppress(NameRefused):
                place = SegmentPath.parse(entry.path)
                if stream in ("", place.stream, f"{place.agent}/{place.stream}"):
                    yield entry

    def batches(self, stream: str) -> Iterator[list[str]]:
        """Their paths, in runs of bounded size."""
        found = self.segments(stream)
        while page := list(itertools.islice(found, 20 * MOST_FILES)):
            for batch in batches(page, files=MOST_FILES, size=MOST_BYTES):
                yield [entry.path for entry in batch]

    def listed(self, stream: str) -> Iterator[SegmentPath]:
        """What the SHA256SUMS of the days that were listed name of a stream, AGENT/STREAM or STREAM."""
        wanted, days = stream.strip("/"), []
        for day in sorted(self._days):
            owner = day.rpartition("/")[0]
            if wanted in ("", owner, owner.partition("/")[2]):
                days.append(day)
        for start in range(0, len(days), MOST_FILES):
            some = days[start : start + MOST_FILES]
            folder = self.scratch / "sums"
            self.fetch([f"{day}/{SUMS}" for day in some], folder)
            for day in some:
                yield from listed_in(folder / day, day)
            shutil.rmtree(folder, ignore_errors=True)

    def fetch(self, paths: Sequence[str], folder: Path) -> dict[str, Path | HometapeError]:
        """Copies in a folder of this machine, made in one run."""
        return self._store.fetch(paths, folder)


class _AtRemote:
    """See Place. `kept`: what is still here; `called`: where a segment lies that is not where its footer says."""

    local = False

    def __init__(self, remote: BareRemote) -> None:
        self.kept: dict[str, Path] = {}
        self.called: dict[str, str] = {}
        self._remote = remote

    def fetch(self, paths: Sequence[SegmentPath], folder: Path) -> Sequence[Path | HometapeError]:
        """See Place."""
        wanted = [self.called.get(str(path), str(path)) for path in paths]
        far = [path for path in wanted if path not in self.kept]
        found = self._remote.fetch(far, folder) if far else {}
        return [self.kept.get(path) or found[path] for path in wanted]


@contextlib.contextmanager
def shelf_from_remote(
    text: str, stream: str, *, config: Path | None = None, clock: Clock = SYSTEM, progress: Told = lambda _: None
) -> Iterator[Shelf]:
    """A shelf of one stream made from nothing but a remote, `rclone:NAME:PATH`.

    `progress` is told how many segments were read so far. Raises NotFound where there are none, ExportError where
    two files claim to be the same segment.
    """
    with contextlib.closing(BareRemote(text, config, clock=clock)) as remote:
        state = remote.scratch / "catalog"
        state.mkdir()
        with Catalog.open(state, clock=clock) as catalog:
            damaged: list[Damage] = []
            place = _AtRemote(remote)
            room, count = KEPT, 0
            for number, paths in enumerate(remote.batches(stream)):
                folder = remote.scratch / f"batch-{number}"
                found = remote.fetch(paths, folder)
                damaged += [Damage(str(got)) for got in found.values() if isinstance(got, HometapeError)]
                files = {path: got for path, got in found.items() if isinstance(got, Path)}
                size = sum(file.stat().st_size for file in files.values())
                place.called.update(_read(folder, catalog, damaged))
                room -= size
                if room >= 0:
                    place.kept.update(files)
                else:
                    shutil.rmtree(folder, ignore_errors=True)
                count += len(files)
                progress(count)
            yield Shelf(catalog, [place], damaged=damaged, unmet=unmet_of(catalog, remote.listed(stream)))


def _read(folder: Path, catalog: Catalog, damaged: list[Damage]) -> dict[str, str]:
    """Catalogue what was fetched; where those lie at the remote that are not where their footer says."""
    if not folder.is_dir():
        return {}
    done = read_in(folder, catalog, damaged, lambda _: None)
    return {path: file.relative_to(folder).as_posix() for path, file in done.elsewhere.items()}


def fetched_in_turn(remote: BareRemote, stream: str, root: Path) -> Iterator[Path]:
    """Every segment of a stream (all for ""), below a folder of this machine, one batch after the other, by name.

    The SHA256SUMS of their days come with them and stay; a batch is deleted when the next one is asked for.
    """
    days: set[str] = set()
    for paths in remote.batches(stream):
        fresh = {path.rpartition("/")[0] for path in paths} - days
        days |= fresh
        found = remote.fetch([*paths, *(f"{day}/{SUMS}" for day in sorted(fresh))], root)
        for path in paths:
            got = found[path]
            if isinstance(got, HometapeError):
                raise got
            yield got
        for path in paths:
            (root / path).unlink(missing_ok=True)
