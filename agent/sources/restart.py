"""At the start: the lives the outbox knows, found again among the files that are there now."""

import os
from dataclasses import dataclass

from agent.identity import Content, Fate, Place, Sight, fate
from agent.model import EventKind, KnownFile
from agent.sources.desk import Desk
from agent.sources.lives import Life
from agent.sources.naming import MEMBER
from agent.sources.reconcile import Reconciler
from agent.sources.scan import Scan, Seen
from tape.filenames import archive_suffix


def outer_path(path: str) -> str:
    """The archive's path of a packed life's path; empty for a plain file's."""
    if archive_suffix(path):
        return path
    at = path.find(MEMBER)
    while at >= 0:
        if archive_suffix(path[:at]):
            return path[:at]
        at = path.find(MEMBER, at + 1)
    return ""


@dataclass(slots=True)
class _Found:
    life: Life
    fate: Fate
    path: str
    seen: Seen | None


async def recall(desk: Desk, reconciler: Reconciler, known: list[KnownFile], scan: Scan) -> None:
    """Enter all known lives, placed where their content is found. Others wait to be found elsewhere."""
    lives = [Life.known(file, desk.clock.monotonic()) for file in known]
    # Of two that point to one inode the longer one is tried first, unless NULs at its end, filled since, were read.
    lives.sort(key=lambda life: (life.ends_in_nuls, -life.offset))
    plain: dict[tuple[int, int], str] = {}
    packs = {(seen.device, seen.inode): path for path, seen in scan.files.items() if archive_suffix(path)}
    for path, seen in scan.files.items():
        if not archive_suffix(path):
            other = plain.get((seen.device, seen.inode))
            if other is None or (scan.files[other].link, other) > (seen.link, path):
                plain[seen.device, seen.inode] = path
    taken: set[tuple[int, int]] = set()
    for count, life in enumerate(lives):
        outer = outer_path(life.path)
        if outer:
            life.packed = True
            desk.roll.add(life)
            await _settle_packed(desk, life, outer, scan, packs)
        else:
            found = _look(desk, life, plain, scan, taken)
            desk.roll.add(life)
            await _settle(desk, reconciler, found)
        if not count % 64:
            await desk.clock.sleep(0)


async def _settle_packed(desk: Desk, life: Life, outer: str, scan: Scan, packs: dict[tuple[int, int], str]) -> None:
    """Place a life read from an archive where that archive seems to lie; it is compared when its turn comes."""
    here = scan.files.get(outer)
    renamed = packs.get((life.device, life.inode))
    if (here is None or here.inode != life.inode) and renamed is not None:
        await desk.moved(life, renamed + life.path[len(outer) :], life.device, life.inode)
    elif here is not None:
        desk.roll.place(life, life.path, life.device, life.inode)
    elif not life.finished:
        desk.displaced(life)


def _look(desk: Desk, life: Life, plain: dict[tuple[int, int], str], scan: Scan, taken: set[tuple[int, int]]) -> _Found:
    here = scan.files.get(life.path)
    path, place = life.path, Place.HERE
    if here is None or here.inode != life.inode:  # device numbers may change at a reboot, inode numbers do not
        path = plain.get((life.device, life.inode), "")
        here, place = scan.files.get(path), Place.ELSEWHERE
    if here is None or (here.device, here.inode) in taken:
        return _Found(life, Fate.LOST, life.path, None)
    content = Content.UNSEEN
    try:
        fd = desk.opened(path, here.device, here.inode)
        try:
            content = desk.compare(life, fd, whole=True)
        finally:
            life.last = None
            os.close(fd)
    except OSError:
        pass
    found = fate(Sight(place, content, held=False, strong=life.strong, kin=desk.related(path, life)))
    if found in {Fate.STAY, Fate.RENAMED}:
        taken.add((here.device, here.inode))
    return _Found(life, found, path, here)


async def _settle(desk: Desk, reconciler: Reconciler, found: _Found) -> None:
    life, seen = found.life, found.seen
    if seen is not None and found.fate in {Fate.STAY, Fate.RENAMED}:
        renamed = found.path != life.path
        before = life.path
        if (found.path, seen.device, seen.inode) != (life.path, life.device, life.inode):
            await desk.moved(life, found.path, seen.device, seen.inode)
        else:
            desk.roll.place(life, life.path, life.device, life.inode)
        life.leaving = found.path != life.origin.name
        if life.leaving and not life.finished:
            desk.leaving[life.key] = life
        if life.size != life.offset:
            reconciler.dirty[life.key] = life
        if renamed:
            await desk.tell(
                EventKind.ROTATED, life.origin, found.path, how="rename", before=before, read_to=life.offset
            )
        return
    life.size = None
    if not life.finished:
        desk.displaced(life)
        if found.fate in {Fate.TRUNCATED, Fate.RECREATED}:
            kind = EventKind.TRUNCATED if found.fate is Fate.TRUNCATED else EventKind.RECREATED
            await desk.tell(kind, life.origin, life.path, read_to=life.offset, last_size=None)
