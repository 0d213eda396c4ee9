"""Files without a life: compared with the lives whose bytes they repeat, then adopted, held, or taken as new."""

import os
from dataclasses import dataclass, field
from pathlib import PurePath

from agent.identity import FINGERPRINT, Claim, Content, Match, Resemblance, claim
from agent.sources.desk import Desk, Moved, filled, header_of
from agent.sources.handles import read_at
from agent.sources.lives import COMPARED, Life, family
from agent.sources.scan import Seen
from tape.digest import xxh3
from tape.filenames import kin


@dataclass(slots=True)
class Likeness:
    """That a content repeats a life, as of the life's offset then."""

    life: Life
    match: Match
    offset: int


@dataclass(slots=True)
class Newcomer:
    """A file without a life. `length`: how long its content is. `since`: monotonic time of its last change."""

    path: str
    seen: Seen
    since: float
    length: int = 0
    like: list[Likeness] = field(default_factory=list)
    unsure: bool = False

    def settled(self, seen: Seen) -> bool:
        """Whether nothing a decision rests on has changed since the last one."""
        steady = all(like.life.there and like.life.offset == like.offset for like in self.like)
        return seen == self.seen and steady and not self.unsure


def examine(desk: Desk, path: str, seen: Seen, since: float) -> Newcomer:
    """Compare a plain file with all lives it may repeat; raises OSError, Moved."""
    newcomer = Newcomer(path, seen, since)
    if not len(desk.roll):
        newcomer.length = seen.size
        return newcomer
    fd = desk.opened(path, seen.device, seen.inode)
    try:
        newcomer.length = os.fstat(fd).st_size
        head = read_at(fd, 0, FINGERPRINT)
        ends: dict[tuple[int, int], str] = {}
        for life in desk.roll.starting_like(head):
            if life.offset > newcomer.length:
                if not life.there:
                    newcomer.like.append(Likeness(life, Match.PREFIX, life.offset))
            elif _ends_alike(fd, life, ends) and not filled(life, fd):
                life.header = life.header or header_of(fd, life.offset)
                newcomer.like.append(Likeness(life, Match.FULL, life.offset))
        for life in desk.roll.beginning_with(path, head):
            if life.offset > newcomer.length and _begins(desk, life, newcomer, head, fd):
                newcomer.like.append(Likeness(life, Match.PREFIX, life.offset))
    finally:
        os.close(fd)
    return newcomer


def _ends_alike(fd: int, life: Life, ends: dict[tuple[int, int], str]) -> bool:
    length, digest = life.end_mark()
    place = (life.offset, length)
    if place not in ends:
        ends[place] = xxh3(read_at(fd, life.offset - length, length))
    return ends[place] == digest


def _begins(desk: Desk, life: Life, newcomer: Newcomer, head: bytes, fd: int) -> bool:
    """Whether an intact plain life's file begins with the whole newcomer (its first and last bytes)."""
    end = max(0, newcomer.length - FINGERPRINT)
    return begins_with(desk, life, head[: newcomer.length], end, read_at(fd, end, newcomer.length - end))


def copies_among(desk: Desk, fresh: list[Newcomer]) -> set[str]:
    """Paths among files seen for the first time together that may be copies of others among them.

    Such a one has a rotated form of the other's name, and one of the two begins like the other. It is
    looked at again once the other has been read.
    """
    groups: dict[tuple[str, str], list[Newcomer]] = {}
    for newcomer in fresh:
        groups.setdefault(family(newcomer.path), []).append(newcomer)
    found: set[str] = set()
    for group in groups.values():
        firsts: list[tuple[str, bytes]] = []
        for newcomer in sorted(group, key=lambda n: (len(n.path), n.path)) if len(group) > 1 else ():
            head = _head_of(desk, newcomer)
            if any(kin(newcomer.path, path) and _one_begins(head, other) for path, other in firsts[-COMPARED:]):
                found.add(newcomer.path)
            else:
                firsts.append((newcomer.path, head))
    return found


def _one_begins(one: bytes, other: bytes) -> bool:
    return bool(one and other) and (one.startswith(other) or other.startswith(one))


def _head_of(desk: Desk, newcomer: Newcomer) -> bytes:
    try:
        fd = desk.opened(newcomer.path, newcomer.seen.device, newcomer.seen.inode)
    except OSError:
        return b""
    try:
        return read_at(fd, 0, FINGERPRINT)
    except OSError:
        return b""
    finally:
        os.close(fd)


def begins_with(desk: Desk, life: Life, head: bytes, end: int, last: bytes) -> bool:
    """Whether a plain life's file has these first bytes, and these at `end`. False if it can't be read."""
    open_fd = desk.handles.get(life.key)
    try:
        fd = open_fd if open_fd is not None else desk.opened(life.path, life.device, life.inode)
    except OSError:
        return False
    try:
        return read_at(fd, 0, len(head)) == head and read_at(fd, end, len(last)) == last
    except OSError:
        return False
    finally:
        if open_fd is None:
            os.close(fd)


def decide(desk: Desk, newcomer: Newcomer, *, waited: bool) -> tuple[Claim, Life | None]:
    """What a newcomer is now. `unsure` is set when a life it repeats changed meanwhile: look again."""
    newcomer.unsure = False
    verdict: tuple[Claim, Life | None] = (Claim.NEW, None)
    looked = 0
    for like in newcomer.like:
        life = like.life
        there, longer = life.there, False
        looked += there
        if there and (verdict[0] is Claim.HOLD or looked > COMPARED):
            continue  # one original is enough to wait; many equal ones are a common header
        if (life.offset != like.offset or life.busy) if not there else not _intact(desk, life):
            newcomer.unsure = True
            verdict = (Claim.HOLD, None)
            continue
        if there:
            longer = newcomer.length > (life.size or 0)
        facts = Resemblance(
            like.match,
            there=there,
            strong=life.strong,
            kin=desk.related(newcomer.path, life) and _renamed(newcomer.path, life.path),
            same_path=newcomer.path == life.path,
            longer=longer,
            waited=waited,
        )
        found = claim(facts)
        if found is Claim.ADOPT:
            return found, life
        if found is Claim.HOLD:
            verdict = (found, None)
    return verdict


def _renamed(path: str, before: str) -> bool:
    """Whether a name changed, not the folder alone: each symbol's folder may hold a file of the same name."""
    one, other = PurePath(path), PurePath(before)
    return one.name != other.name or one.parent == other.parent


def _intact(desk: Desk, life: Life) -> bool:
    """Whether a life that counts as in place still is, looked at now; its size is noted."""
    if life.packed:
        return True
    open_fd = desk.handles.get(life.key)
    try:
        fd = open_fd if open_fd is not None else desk.opened(life.path, life.device, life.inode)
    except (Moved, FileNotFoundError):
        return False
    except OSError:
        return True  # unreadable now: nothing is known against it
    try:
        return (open_fd is None or os.fstat(fd).st_nlink > 0) and desk.compare(life, fd) is Content.SAME
    except OSError:
        return True
    finally:
        if open_fd is None:
            life.close()
            os.close(fd)
