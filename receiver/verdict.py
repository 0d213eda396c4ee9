"""The rules an upload is judged by: plain facts in, an outcome out. No I/O, no clock."""

from dataclasses import dataclass

from tape.digest import genesis, link


@dataclass(frozen=True, slots=True)
class Link:
    """A segment's place in its chain: what it says was before it, and its SHA-256 ("" while not known)."""

    seq: int
    previous: str
    sha256: str = ""


def breaks(
    agent: str, stream: str, epoch: str, mine: Link, *, before: Link | None, after: Link | None
) -> tuple[tuple[int, str], ...]:
    """What contradicts what around a segment whose SHA-256 is known: (blamed seq, reason) each.

    `before` and `after` are its neighbours (seq - 1, seq + 1) if they are held. The one whose `previous`
    contradicts is blamed: it claims to follow bytes that are not what stands before it.
    """
    found = []
    if mine.seq == 0 and mine.previous != genesis(agent, stream, epoch):
        found.append((0, "chain does not start at its stream and epoch"))
    if before is not None and before.sha256 and mine.previous != _after(agent, stream, epoch, before):
        found.append((mine.seq, f"chain does not follow segment {before.seq} as it is held"))
    if after is not None and after.previous != _after(agent, stream, epoch, mine):
        found.append((after.seq, f"chain does not follow segment {mine.seq} as it is held"))
    return tuple(found)


def _after(agent: str, stream: str, epoch: str, segment: Link) -> str:
    return link(segment.previous, agent, stream, epoch, segment.seq, segment.sha256)
