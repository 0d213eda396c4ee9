"""An export from afar fetches in batches, ahead of what is read, in bounded room; damage is made good elsewhere."""

import contextlib
import io
import os
import tempfile
import threading
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import pytest

from receiver import shelf_ahead
from receiver.export import Export, ExportForm, Request
from receiver.model import Held
from receiver.shelf import shelf_of
from receiver.targets.contract import Capabilities, Target
from receiver.targets.wrapping import Wrapper
from tape.errors import ExportError, HometapeError, TargetAbsent
from tests.support.archive import Archive, Feed

LINE = b"1700000000000,1.2345,1.2346\n"
ASK = Request("box", "demo/ticks")


class Afar(Wrapper):
    """A target whose files have to be fetched; notes how, and what lies in the temporary folders meanwhile."""

    def __init__(self, inner: Target, room: Path) -> None:
        super().__init__(inner)
        self.room = room
        self.batches: list[int] = []
        self.most = 0
        self.lacks: set[str] = set()
        self.gone = False
        self.damages: set[str] = set()

    @property
    def capabilities(self) -> Capabilities:  # type: ignore[override] # as the wrapper itself
        return Capabilities(local=False)

    def local(self, path: str) -> Path | None:
        return None

    def fetch_many(self, paths: Sequence[str], folder: Path) -> Sequence[Path | HometapeError]:
        if self.gone:
            raise TargetAbsent("it is away")
        self.batches.append(len(paths))
        found = Target.fetch_many(self, paths, folder)
        for path, got in zip(paths, found, strict=True):
            if path in self.damages and isinstance(got, Path):
                got.write_bytes(b"~" + got.read_bytes()[1:])
        self.most = max(self.most, self._lying())
        return found

    def _lying(self) -> int:
        """Bytes of segments in the temporary folders; what is cleared away at this moment is counted or not."""
        sizes = 0
        for folder, _, files in os.walk(self.room):
            for name in files:
                with contextlib.suppress(FileNotFoundError):
                    sizes += (Path(folder) / name).stat().st_size if name.endswith(".parquet") else 0
        return sizes


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    """40 segments at home and nas, without the catalog knowing more than home."""
    room = tmp_path / "room"
    room.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(room))
    made = Archive(tmp_path / "site")
    data = LINE * 4000
    made.take(Feed(tmp_path / "spool").seal(data, cuts=[len(LINE) * 100 * n for n in range(1, 40)]))
    for item in made.made:
        path = made.root / "nas" / str(item.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(item.data)
    yield made
    made.catalog.close()


def afar(archive: Archive) -> Afar:
    """The NAS, far away."""
    return Afar(archive.others[0], Path(tempfile.gettempdir()))


def exported(archive: Archive, *targets: Target, form: ExportForm = ExportForm.ORIGINAL) -> bytes:
    out = io.BytesIO()
    Export(shelf_of(archive.catalog, targets), Request("box", "demo/ticks", form=form)).to_stream(out)
    return out.getvalue()


def test_an_export_from_afar_takes_a_few_fetches(archive: Archive) -> None:
    """One fetch for what fits into a batch, not one a segment; nothing is left in the temporary folder."""
    far = afar(archive)
    assert exported(archive, far) == LINE * 4000
    assert far.batches == [40]
    assert list(far.room.iterdir()) == []
    far.batches.clear()
    assert exported(archive, far, form=ExportForm.CSV) == exported(archive, archive.home, form=ExportForm.CSV)
    assert len(far.batches) == 1


def test_room_for_two_batches_is_all_it_takes(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next batch is fetched while the present one is read, and no third one lies there."""
    size = max(held.size for held in archive.catalog.all_segments())
    monkeypatch.setattr(shelf_ahead, "MOST_BYTES", 5 * size)
    far = afar(archive)
    assert exported(archive, far) == LINE * 4000
    assert len(far.batches) >= 8
    assert far.most <= 2 * 5 * size
    assert list(far.room.iterdir()) == []


def test_the_next_batch_is_fetched_while_the_present_one_is_read(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the first segment is given out, the second batch is under way already, in another thread."""
    monkeypatch.setattr(shelf_ahead, "MOST_FILES", 10)
    second = threading.Event()
    far = afar(archive)

    class Watched(Afar):
        def fetch_many(self, paths: Sequence[str], folder: Path) -> Sequence[Path | HometapeError]:
            if self.batches:
                second.set()
            return super().fetch_many(paths, folder)

    watched = Watched(archive.others[0], far.room)
    shelf = shelf_of(archive.catalog, [watched])
    walk = shelf.along(archive.catalog.all_segments(), lambda held: held)
    with shelf.opened(next(walk)):
        assert second.wait(10)
    assert isinstance(walk, Generator)
    walk.close()
    assert list(far.room.iterdir()) == []


def test_what_one_place_lacks_or_spoils_comes_from_the_next(archive: Archive) -> None:
    """Home lacks some, the cloud has one damaged and the nas all: complete, and asked in batches."""
    held = list(archive.catalog.all_segments())
    for item in held[10:20]:
        (archive.root / "home" / str(item.path)).unlink()
    far = afar(archive)
    far.damages = {str(held[12].path)}
    assert exported(archive, archive.home, far, archive.others[0]) == LINE * 4000
    assert far.batches == [10, 1]


def test_what_is_nowhere_is_said_for_each_place(archive: Archive) -> None:
    """A place that is away is asked once a batch, and named with the others where nobody has a segment."""
    (held, *_) = archive.catalog.all_segments()
    (archive.root / "home" / str(held.path)).unlink()
    far = afar(archive)
    far.gone = True
    with pytest.raises(ExportError, match=r"home has no .*; it is away"):
        exported(archive, archive.home, far)


def test_local_places_are_read_where_they_are(archive: Archive) -> None:
    """Nothing is copied where the files lie on this machine."""
    seen: list[Path] = []
    shelf = shelf_of(archive.catalog, [archive.home])

    def segment(held: Held) -> Held:
        with shelf.opened(held) as path:
            seen.append(path)
        return held

    list(shelf.along(map(segment, archive.catalog.all_segments()), lambda held: held))
    assert {path.relative_to(archive.root / "home") for path in seen} == {Path(str(item.path)) for item in archive.made}
