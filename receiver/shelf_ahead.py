"""Fetching what will be read next while the present is read: a bounded number of bytes ahead, in batches.

Two batches lie in temporary folders at a time: the one that is read and the one that is being fetched.
Each segment is taken from the first place that says it has it; whether its bytes are right is checked by
whoever opens it.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Protocol, TypeVar

from receiver.model import Held
from receiver.targets.hands import Hands
from tape.errors import HometapeError
from tape.names import SegmentPath

T = TypeVar("T")
MOST_FILES, MOST_BYTES = 500, 64 * 2**20
_MOST_ITEMS = 4096


class Place(Protocol):
    """Somewhere segments lie. `local`: `fetch` gives the very files, so that fetching ahead brings nothing."""

    local: bool

    def fetch(self, paths: Sequence[SegmentPath], folder: Path) -> Sequence[Path | HometapeError]:
        """Files of this machine with these segments, or why there is none; what has to be copied goes into `folder`."""


class Ahead:
    """One walk along items. `files`: by segment id, what of the present batch lies on this machine."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.files: dict[int, Path] = {}
        self._places = places

    def run(self, items: Iterable[T], segment: Callable[[T], Held | None]) -> Iterator[T]:
        """The items; see Shelf.along."""
        hands = Hands("fetch ahead", 1)
        with contextlib.ExitStack() as done:
            done.callback(hands.close)

            def begin(piece: list[T] | None) -> "Future[dict[int, Path]] | None":
                if piece is None:
                    return None
                wanted = {held.id: held for held in map(segment, piece) if held is not None}
                folder = tempfile.TemporaryDirectory(prefix="hometape-", ignore_cleanup_errors=True)
                done.callback(folder.cleanup)
                old.append(folder)
                under_way = hands.start(lambda: self._fetch(list(wanted.values()), Path(folder.name)))
                done.callback(wait, [under_way])  # before its folder goes
                return under_way

            old: list[tempfile.TemporaryDirectory[str]] = []
            coming = iter(_pieces(items, segment))
            piece = next(coming, None)
            fetching = begin(piece)
            while piece is not None and fetching is not None:
                self.files = fetching.result()
                following = next(coming, None)
                fetching = begin(following)
                yield from piece
                self.files, piece = {}, following
                old.pop(0).cleanup()

    def _fetch(self, wanted: list[Held], folder: Path) -> dict[int, Path]:
        found: dict[int, Path] = {}
        for number, place in enumerate(self._places):
            left = [held for held in wanted if held.id not in found]
            if not left:
                break
            try:
                answers = place.fetch([held.path for held in left], folder / str(number))
            except HometapeError:
                continue  # whoever opens them asks again, and tells
            found.update({held.id: path for held, path in zip(left, answers, strict=True) if isinstance(path, Path)})
        return found


def _pieces(items: Iterable[T], segment: Callable[[T], Held | None]) -> Iterator[list[T]]:
    """Runs of items whose segments are one batch; a segment that comes twice in a row is counted once."""
    piece: list[T] = []
    files = size = last = 0
    for item in items:
        held = segment(item)
        fresh = held is not None and held.id != last
        cost = held.size if held is not None and fresh else 0
        if piece and (files + fresh > MOST_FILES or (cost and size + cost > MOST_BYTES) or len(piece) >= _MOST_ITEMS):
            yield piece
            piece, files, size = [], 0, 0
        piece.append(item)
        files, size = files + fresh, size + cost
        last = held.id if held is not None else last
    if piece:
        yield piece
