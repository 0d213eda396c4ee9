"""One scan set against the lives: who stayed, moved, left, lost its content; and who is new."""

import os
import secrets
from dataclasses import dataclass, field

from agent.identity import Claim, Content, Fate, Place, Sight, fate
from agent.model import EventKind, Origin
from agent.sources.claims import Newcomer, copies_among, decide, examine
from agent.sources.desk import Desk, Moved, same_stat
from agent.sources.lives import Life
from agent.sources.naming import stream_of
from agent.sources.scan import Scan, Seen
from tape.filenames import archive_suffix

_TURN = 64


def new_life(desk: Desk, path: str, device: int, inode: int, *, packed: bool = False) -> Life:
    """A life that starts with this file, under a new random id; not entered yet."""
    settings = desk.settings
    origin = Origin(
        secrets.token_hex(16), settings.name, stream_of(settings.stream, path, settings.name), path, settings.format
    )
    return Life(origin, path, device, inode, packed=packed, since=desk.clock.monotonic())


@dataclass(slots=True)
class Reconciler:
    """Applies scans of plain files. `dirty`: lives to read; `held`: newcomers that wait; `links`: path of a life
    by the path its symbolic link leads to.
    """

    desk: Desk
    dirty: dict[str, Life] = field(default_factory=dict)
    held: dict[str, Newcomer] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    async def apply(self, scan: Scan, *, drain: bool = False) -> None:
        """Bring lives and newcomers up to a scan."""
        best = self._best_paths(scan)
        await self._leave(scan, best)
        strangers: dict[str, Seen] = {}
        for count, (key, path) in enumerate(best.items()):
            seen = scan.files[path]
            life = self.desk.roll.by_inode.get(key)
            if life is None:
                if seen.size:
                    strangers[path] = seen
            elif life.path != path:
                if not await self._elsewhere(life, path, seen):
                    strangers[path] = seen
            elif not same_stat(life, seen):
                if seen.size < life.offset and await self._cut(life):
                    if seen.size:
                        strangers[path] = seen
                else:
                    self.dirty[life.key] = life
            if not count % _TURN:
                await self.desk.clock.sleep(0)
        await self._strangers(strangers, drain=drain)

    def _best_paths(self, scan: Scan) -> dict[tuple[int, int], str]:
        """One path for each plain file: the one its life has, else no link, else the first."""
        best: dict[tuple[int, int], str] = {}
        self.links = {}
        for path, seen in scan.files.items():
            if seen.link:
                self.links[os.path.realpath(path)] = path
            if archive_suffix(path):
                continue
            key = (seen.device, seen.inode)
            other = best.get(key)
            if other is None:
                best[key] = path
                continue
            life = self.desk.roll.by_inode.get(key)
            mine = life.path if life is not None else ""
            best[key] = min(path, other, key=lambda p: (p != mine, scan.files[p].link, p))
        return best

    async def _leave(self, scan: Scan, best: dict[tuple[int, int], str]) -> None:
        """Lives whose inode no path shows any more."""
        for key, life in list(self.desk.roll.by_inode.items()):
            if key in best or _hidden(life.path, scan):
                continue
            held = self.desk.handles.get(life.key) is not None
            found = fate(Sight(Place.NOWHERE, Content.UNSEEN, held=held, strong=life.strong, kin=False))
            if found is Fate.LEAVING:
                self.desk.roll.unplace(life)
                life.leaving = True
                life.reason = _why_gone(self.desk, life)
                life.since = self.desk.clock.monotonic()
                if not life.finished:
                    self.desk.leaving[life.key] = life
                    self.dirty[life.key] = life
                else:
                    self.desk.release(life)
            else:
                life.reason = "deleted"
                self.desk.displaced(life)

    async def _elsewhere(self, life: Life, path: str, seen: Seen) -> bool:
        """A life's inode under another path: True if it is the life, renamed."""
        desk = self.desk
        held = desk.handles.get(life.key)
        content = Content.UNSEEN
        try:
            fd = held if held is not None else desk.opened(path, seen.device, seen.inode)
            try:
                content = desk.compare(life, fd)
            finally:
                if held is None:
                    life.close()
                    os.close(fd)
        except OSError:
            pass
        related = desk.related(path, life)
        found = fate(Sight(Place.ELSEWHERE, content, held=held is not None, strong=life.strong, kin=related))
        if found is not Fate.RENAMED:
            await self.displace(life, found)
            return False
        old = life.path
        life.leaving = True
        await desk.moved(life, path, seen.device, seen.inode)
        self.dirty[life.key] = life
        await desk.tell(EventKind.ROTATED, life.origin, path, how="rename", before=old, read_to=life.offset)
        return True

    async def _cut(self, life: Life) -> bool:
        """The scan saw a file shorter than what was read of it: True if it still is."""
        try:
            found = self.desk.compare(life, self.desk.handle(life))
        except OSError:
            return False
        if found is Content.SAME:
            return False
        held = self.desk.handles.get(life.key) is not None
        await self.displace(life, fate(Sight(Place.HERE, found, held=held, strong=life.strong, kin=True)))
        return True

    async def displace(self, life: Life, found: Fate) -> None:
        """The content of a life was cut or replaced."""
        kind = EventKind.TRUNCATED if found is Fate.TRUNCATED else EventKind.RECREATED
        last_size = life.size
        self.desk.displaced(life)
        await self.desk.tell(kind, life.origin, life.path, read_to=life.offset, last_size=last_size)

    async def _strangers(self, strangers: dict[str, Seen], *, drain: bool) -> None:
        """Decide on all files without a life, against the lives there were before this scan."""
        now = self.desk.clock.monotonic()
        for path in [p for p in self.held if p not in strangers]:
            del self.held[path]
        fresh: list[Newcomer] = []
        for count, (path, seen) in enumerate(strangers.items()):
            newcomer = self.held.pop(path, None)
            since = newcomer.since if newcomer is not None and newcomer.seen == seen else now
            waited = drain or now - since >= self.desk.settings.copy_settle
            if newcomer is not None and not waited and newcomer.settled(seen):
                self.held[path] = newcomer
                continue
            try:
                # Nothing was awaited between the comparison and the decision: they speak of the same moment.
                newcomer = examine(self.desk, path, seen, since)
                verdict, life = decide(self.desk, newcomer, waited=waited)
            except (Moved, FileNotFoundError):
                continue  # the next scan tells
            except OSError as error:
                await self.desk.refused(path, new_life(self.desk, path, 0, 0).origin, error)
                continue
            if verdict is Claim.ADOPT and life is not None:
                await self.adopt(life, path, seen)
            elif verdict is Claim.HOLD:
                self.held[path] = newcomer
            else:
                fresh.append(newcomer)
            if not count % _TURN:
                await self.desk.clock.sleep(0)
        twins = copies_among(self.desk, fresh)
        for newcomer in fresh:
            newcomer.unsure = not drain and newcomer.path in twins
            if newcomer.unsure:
                self.held[newcomer.path] = newcomer
            else:
                await self.begin(newcomer.path, newcomer.seen)

    async def adopt(self, life: Life, path: str, seen: Seen) -> None:
        """A file continues a life that lost its own."""
        desk, old = self.desk, life.path
        desk.release(life)
        life.packed = False
        life.leaving = path != life.origin.name
        await desk.moved(life, path, seen.device, seen.inode)
        self.dirty[life.key] = life
        await desk.tell(EventKind.ROTATED, life.origin, path, how="copy", before=old, read_to=life.offset)

    async def begin(self, path: str, seen: Seen) -> None:
        """A new life starts with this file."""
        life = new_life(self.desk, path, seen.device, seen.inode)
        self.desk.roll.add(life)
        self.desk.unreadable.pop(path, None)
        self.dirty[life.key] = life
        before = self.desk.roll.former.pop(path, None)
        if before is not None and before.reason == "deleted":
            await self.desk.tell(EventKind.RECREATED, life.origin, path, read_to=before.offset)


def _why_gone(desk: Desk, life: Life) -> str:
    fd = desk.handles.get(life.key)
    return "deleted" if fd is None or os.fstat(fd).st_nlink == 0 else "renamed out of the patterns"


def _hidden(path: str, scan: Scan) -> bool:
    """Whether a path is out of sight only because a folder above it could not be read."""
    return any(path == folder or path.startswith(folder.rstrip("/\\") + os.sep) for folder in scan.denied)
