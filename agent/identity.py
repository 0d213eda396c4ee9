"""Which file is which: the rules by which a name on disk is tied to the life of a file.

A life is one content that grows: a rename, a copy or a compression continues it, a truncation or a
re-creation ends it. Names and inode numbers are hints only (both are reused); what decides is
content: the fingerprints of the first and of the last bytes that were read (at most 4096 each, the
last ones counted back from the offset up to which was read). Below `FINGERPRINT` bytes behind the first
line a match is weak: ten thousand different files may so far hold the same CSV header, however long that is.
So weak matches never tie files together unless something else speaks for it.

Two tables, read from the top; exactly one row fits any combination of facts:

- `fate`: what became of a life whose inode (or path) was looked at again;
- `claim`: what a file that belongs to no life yet is, compared with a life whose bytes it repeats.

Nothing is read or written here: the sources look, ask, and act.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

FINGERPRINT = 4096


class Place(StrEnum):
    """Where the inode of a life is seen now."""

    HERE = "here"  # under the path it had
    ELSEWHERE = "elsewhere"  # under another path that the patterns reach
    NOWHERE = "nowhere"  # deleted, or renamed out of the patterns


class Content(StrEnum):
    """What that inode holds, compared with what was read of the life."""

    SAME = "same"  # at least as long, both fingerprints match
    SHORTER = "shorter"  # shorter than what was read
    OTHER = "other"  # long enough, but a fingerprint differs
    UNSEEN = "unseen"  # could not be read now


class Fate(StrEnum):
    """What to do with the life."""

    STAY = "stay"  # go on reading where it is
    RENAMED = "renamed"  # the same life under its new path; it has been rotated away
    LEAVING = "leaving"  # no name leads to it any more: read the open handle to its end
    TRUNCATED = "truncated"  # cut in place: its content must be looked for elsewhere; a new life starts here
    RECREATED = "re-created"  # another content took its place: likewise
    LOST = "lost"  # not to be read any more: its content must be looked for elsewhere


class Match(StrEnum):
    """How much of a life a file without a life repeats."""

    FULL = "full"  # it starts with everything that was read of the life
    PREFIX = "prefix"  # it is itself a beginning of the life's content, shorter than what was read
    NONE = "none"


class Claim(StrEnum):
    """What to do with a file without a life."""

    ADOPT = "adopt"  # it continues that life: nothing is sent again
    HOLD = "hold"  # it may be a copy under way: wait and look again
    NEW = "new"  # it is a file of its own


@dataclass(frozen=True, slots=True)
class Sight:
    """Facts about a life looked at again. `held`: its handle has been open all the time, so that the
    inode can't have been given to another file. `strong`: at least FINGERPRINT bytes were read of it
    behind its first line. `kin`: its new name looks like a rotated form of the old one, and gives the same stream.
    """

    place: Place
    content: Content
    held: bool
    strong: bool
    kin: bool


@dataclass(frozen=True, slots=True)
class Resemblance:
    """Facts about a file without a life and the life it repeats most of. `there`: the life's own file
    is in place and intact. `kin`: its name looks like a rotated form of that file's, and gives the same stream; another
    folder alone is no rotation. `longer`: the newcomer is longer than that file. `same_path`: it lies
    where the life's file was seen last. `waited`: the time a copy is given has passed.
    """

    match: Match
    there: bool
    strong: bool
    kin: bool
    same_path: bool
    longer: bool
    waited: bool


@dataclass(frozen=True, slots=True)
class FateRule:
    """One row: a fact left out (None) may be anything."""

    outcome: Fate
    place: frozenset[Place] | None = None
    content: frozenset[Content] | None = None
    held: bool | None = None
    bound: bool | None = None  # held, strong or kin: the inode number alone is not what ties them

    def fits(self, sight: Sight) -> bool:
        """Whether this row speaks for these facts."""
        return (
            (self.place is None or sight.place in self.place)
            and (self.content is None or sight.content in self.content)
            and self.held in {None, sight.held}
            and self.bound in {None, sight.held or sight.strong or sight.kin}
        )


@dataclass(frozen=True, slots=True)
class ClaimRule:
    """One row: a fact left out (None) may be anything."""

    outcome: Claim
    match: frozenset[Match]
    there: bool | None = None
    proven: bool | None = None  # strong, or kin under another path
    longer: bool | None = None
    waited: bool | None = None

    def fits(self, seen: Resemblance) -> bool:
        """Whether this row speaks for these facts."""
        return (
            seen.match in self.match
            and self.there in {None, seen.there}
            and self.proven in {None, seen.strong or (seen.kin and not seen.same_path)}
            and self.longer in {None, seen.longer}
            and self.waited in {None, seen.waited}
        )


_SEEN = frozenset({Place.HERE, Place.ELSEWHERE})
_HERE = frozenset({Place.HERE})
_ELSEWHERE = frozenset({Place.ELSEWHERE})
_NOWHERE = frozenset({Place.NOWHERE})
_SAME = frozenset({Content.SAME})
_UNSEEN = frozenset({Content.UNSEEN})
_SHORTER = frozenset({Content.SHORTER})
_OTHER = frozenset({Content.OTHER})

FATES: tuple[FateRule, ...] = (
    # A file never shrinks while it grows: somebody cut it (copytruncate), or, where the inode was not
    # held, another file has its number. Either way what was read is not here any more.
    FateRule(Fate.TRUNCATED, content=_SHORTER, held=True),
    FateRule(Fate.TRUNCATED, content=_SHORTER, held=False, place=_HERE),
    FateRule(Fate.RECREATED, content=_SHORTER, held=False, place=_ELSEWHERE),
    # Other bytes where ours were: cut and grown again between two looks, or a new file.
    FateRule(Fate.RECREATED, content=_OTHER, held=True),
    FateRule(Fate.RECREATED, content=_OTHER, held=False, place=_SEEN),
    # Same path, same inode, same bytes: the usual case. Few bytes are enough here, since a re-created
    # file that starts with all we read can't be told from one that grew.
    FateRule(Fate.STAY, content=_SAME, place=_HERE),
    # It can't be read now (permissions, a sick disk): nothing is known, so nothing changes.
    FateRule(Fate.STAY, content=_UNSEEN, place=_HERE),
    # Another path, and more than the number of the inode speaks for it: rotation by rename.
    FateRule(Fate.RENAMED, content=frozenset({Content.SAME, Content.UNSEEN}), place=_ELSEWHERE, bound=True),
    # Another path, a freed inode number used again, and a few equal bytes (a header): another file.
    FateRule(Fate.RECREATED, content=frozenset({Content.SAME, Content.UNSEEN}), place=_ELSEWHERE, bound=False),
    # No name left, but the handle still leads to the bytes: nothing is lost, read on.
    FateRule(Fate.LEAVING, content=frozenset({Content.SAME, Content.UNSEEN}), place=_NOWHERE, held=True),
    # No name and no handle. The bytes may turn up in a copy or an archive.
    FateRule(Fate.LOST, place=_NOWHERE, held=False),
)

CLAIMS: tuple[ClaimRule, ...] = (
    # It repeats nothing.
    ClaimRule(Claim.NEW, frozenset({Match.NONE})),
    # The life lost its file, and here is all that was read of it, with so many bytes behind the first line that
    # chance is no explanation (a header of any length may be that of all files), or under a name that a rotation
    # gives: the copy of copytruncate, the compressed file, a file written anew and renamed into place (rsync).
    # Only the rest is read from it.
    ClaimRule(Claim.ADOPT, frozenset({Match.FULL}), there=False, proven=True),
    # The same with a header or a few bytes only and no such name, or with the very name of the life: a re-created
    # file starts with the same header. Sending a few bytes twice is better than joining two files.
    ClaimRule(Claim.NEW, frozenset({Match.FULL}), there=False, proven=False),
    # The original is intact, and shorter than the newcomer: a copy is never longer than its original.
    ClaimRule(Claim.NEW, frozenset({Match.FULL, Match.PREFIX}), there=True, longer=True),
    # The original is intact and the newcomer no longer: a copy or a compression may be under way, after
    # which the original is cut or deleted. Nothing is lost by waiting.
    ClaimRule(Claim.HOLD, frozenset({Match.FULL, Match.PREFIX}), there=True, longer=False, waited=False),
    # Both stayed: two files of equal content are two files.
    ClaimRule(Claim.NEW, frozenset({Match.FULL, Match.PREFIX}), there=True, longer=False, waited=True),
    # The life lost its file and this is a beginning of it: a copy that has not come to its end, or never
    # will. After the wait it is kept as it is.
    ClaimRule(Claim.HOLD, frozenset({Match.PREFIX}), there=False, waited=False),
    ClaimRule(Claim.NEW, frozenset({Match.PREFIX}), there=False, waited=True),
)


def fate(sight: Sight) -> Fate:
    """What became of a life; the facts fit exactly one row."""
    return next(rule.outcome for rule in FATES if rule.fits(sight))


def claim(seen: Resemblance) -> Claim:
    """What a file without a life is, compared with one life; the facts fit exactly one row."""
    return next(rule.outcome for rule in CLAIMS if rule.fits(seen))


def strongest(claims: Iterable[Claim]) -> Claim:
    """The outcome for a file compared with several lives: to adopt beats to hold beats to be new."""
    found = set(claims)
    return next((c for c in (Claim.ADOPT, Claim.HOLD) if c in found), Claim.NEW)


def missing_bytes(read_to: int, seen_size: int | None) -> int | None:
    """How many bytes of a lost life were never read; None where its last size is not known."""
    return None if seen_size is None else max(0, seen_size - read_to)


def fault_of(seen_size: int | None) -> str:
    """Whose gap the unread rest of a lost life is.

    `feed` while we were watching: the file went away faster than any reader could follow it. `agent`
    when it went away while the agent was not running (its last size is unknown then).
    """
    return "agent" if seen_size is None else "feed"
