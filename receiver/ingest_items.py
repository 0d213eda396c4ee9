"""From uploads to judged items: bundles taken apart, each segment judged, also against the others of its batch."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from receiver.catalog import Catalog
from receiver.inspect import Inspector, Part
from receiver.model import Answer, Outcome, Pieces, Upload
from receiver.verdict import Facts, Inspected, Known, Limits, judge_arrival, judge_content
from tape.bundle import BundleReader
from tape.digest import BLOCK, digest_of
from tape.durable import Disk
from tape.errors import BundleError, DiskError, SyncFailed
from tape.footer import Footer
from tape.names import BundleName, SegmentName, SegmentPath

Identity = tuple[str, str, str, int]


@dataclass(slots=True)
class Item:
    """One segment of a batch. `upload`: index of the upload that brought it. `path`: where its bytes lie, privately.

    `seen`: what inspection found, where it was looked at already.
    `follows`: the item of this batch its outcome rests on, if any; it holds only if that one is accepted.
    `final`: where it was placed; `stayed`: its bytes lay there before, so that `path` was not moved.
    """

    upload: int
    agent: str
    stream: str
    name: SegmentName
    path: Path | None
    size: int
    digest: str
    outcome: Outcome | None = None
    seen: Inspected | None = None
    footer: Footer | None = None
    renewed: bool = False
    follows: "Item | None" = None
    final: Path | None = None
    stayed: bool = False
    _place: SegmentPath | None = None

    @property
    def identity(self) -> Identity:
        """Agent, stream, epoch, seq."""
        return self.agent, self.stream, self.name.epoch, self.name.seq

    @property
    def accepted(self) -> bool:
        """Whether it is to be placed (or was)."""
        return self.outcome is not None and self.outcome.answer is Answer.ACCEPTED

    @property
    def place(self) -> SegmentPath:
        """Where it belongs below every target's root; only for accepted ones."""
        if self._place is None:
            assert self.footer is not None
            self._place = SegmentPath(self.agent, self.stream, self.footer.day, self.name)
        return self._place


# ---------------------------------------------------------------------------------------------- unpacking


@dataclass(frozen=True, slots=True)
class _Sinks:
    """Makes the private files of bundle items."""

    disk: Disk
    folder: Path

    def fill(self, item: Item, reader: BundleReader) -> None:
        """The reader's next bytes as a file of the item's; raises DiskError."""
        item.path = self.disk.temp_path(self.folder)
        with self.disk.create(item.path) as file:
            _, item.digest = reader.copy(_Sink(self.disk, file))


@dataclass(frozen=True, slots=True)
class _Sink:
    """A file that takes a bundle item's bytes through the Disk."""

    disk: Disk
    file: BinaryIO

    def write(self, data: bytes) -> None:
        """All of it; raises DiskError."""
        self.disk.write_all(self.file, data)


def unpack(
    uploads: Sequence[Upload], catalog: Catalog, inspector: Inspector, disk: Disk, folder: Path
) -> tuple[list[Item], dict[int, Outcome]]:
    """The segments of a batch, and outcomes of uploads that could not be taken apart (by index).

    Items of bundles become files in `folder`, except those that are held already; they are inspected
    meanwhile. Raises SyncFailed, and StoreError where nothing can be inspected.
    """
    items: list[Item] = []
    failed: dict[int, Outcome] = {}
    for number, upload in enumerate(uploads):
        try:
            if isinstance(upload.name, SegmentName):
                place = (number, upload.agent, upload.stream, upload.name, upload.path)
                items.append(Item(*place, size=upload.size, digest=upload.digest or digest_of(upload.path)))
            elif upload.pieces is not None:
                items += _pieces(number, upload, upload.name, upload.pieces)
            else:
                items += _unpack_bundle(number, upload, upload.name, catalog, inspector, _Sinks(disk, folder))
        except _Damaged as error:
            failed[number] = Outcome(Answer.RESEND, f"arrived damaged: {error}")
        except BundleError as error:
            failed[number] = Outcome(Answer.QUARANTINED, str(error))
        except SyncFailed:
            raise
        except (DiskError, OSError) as error:
            failed[number] = Outcome(Answer.RESEND, f"the receiver could not read or store it: {error}")
    return items, failed


class _Damaged(Exception):
    """A bundle is not the one that its name tells of."""

    def __init__(self, digest: str) -> None:
        super().__init__(f"the digest of the bundle's head is {digest}")


def _pieces(number: int, upload: Upload, name: BundleName, pieces: Pieces) -> list[Item]:
    """The segments of a bundle that was taken apart on the way in."""
    if pieces.digest != name.digest:
        raise _Damaged(pieces.digest)
    if pieces.problem:
        raise BundleError(pieces.problem)
    return [
        Item(number, upload.agent, piece.stream, piece.name, piece.path, size=piece.size, digest=piece.digest)
        for piece in pieces.found
    ]


def _unpack_bundle(
    number: int, upload: Upload, name: BundleName, catalog: Catalog, inspector: Inspector, sinks: _Sinks
) -> list[Item]:
    with upload.path.open("rb", buffering=BLOCK) as file:
        reader = BundleReader(file, upload.size, where=str(name), epoch=name.epoch)
        if reader.head.digest != name.digest:
            raise _Damaged(reader.head.digest)
        known = catalog.known([(upload.agent, i.stream, i.name.epoch, i.name.seq) for i in reader.items])
        items, fresh, parts, at = [], [], [], reader.head.length
        for entry, around in zip(reader.items, known, strict=True):
            held = around.digest == entry.name.digest and not around.wanted
            digest = entry.name.digest if held else ""
            item = Item(number, upload.agent, entry.stream, entry.name, None, size=entry.size, digest=digest)
            items.append(item)
            if not held:
                fresh.append(item)
                parts.append(Part(upload.path, at, entry.size))
            at += entry.size
        with inspector.looking(parts) as findings:
            done = _extract(items, reader, sinks)
            for item, seen in zip(fresh, findings(), strict=True):
                item.seen = seen
    return items[:done]


def _extract(items: Sequence[Item], reader: BundleReader, sinks: _Sinks) -> int:
    """Make a file of each item that is not held yet; returns up to which item it came. Raises SyncFailed."""
    for done, item in enumerate(items, 1):
        if item.digest:
            reader.skip()
            continue
        try:
            sinks.fill(item, reader)
        except SyncFailed:
            raise
        except DiskError as error:
            item.outcome = Outcome(Answer.RESEND, f"the receiver could not store it: {error}")
            return done  # the rest would meet the same disk; this one's outcome is the bundle's
    return len(items)


# ------------------------------------------------------------------------------------------------ judging


@dataclass(slots=True)
class Judge:
    """Finds the outcome of each item. `quota`: bytes each agent may still store (absent or None: no limit)."""

    catalog: Catalog
    inspector: Inspector
    limits: Limits
    quota: dict[str, int | None]
    _accepted: dict[Identity, Item] = field(default_factory=dict)
    _extents: dict[tuple[str, str, str], list[tuple[int, int, Item]]] = field(default_factory=dict)

    def judge(self, items: Iterable[Item]) -> None:
        """Set the outcome of every item that has none yet.

        Items of one identity are judged one after the other, each knowing what became of the ones before:
        a resend that arrives while the first still waits for its fsync is not stored twice.
        """
        waiting = [item for item in items if item.outcome is None]
        while waiting:
            now: dict[Identity, Item] = {}
            later = []
            for item in waiting:
                if item.identity in now:
                    later.append(item)
                else:
                    now[item.identity] = item
            self._judge_distinct(list(now.values()))
            waiting = later

    def _judge_distinct(self, items: list[Item]) -> None:
        around = self.catalog.known([item.identity for item in items])
        passed: list[tuple[Item, Known]] = []
        for item, known in zip(items, around, strict=True):
            if item.identity in self._accepted:
                item.follows = self._accepted[item.identity]
                known = replace(known, digest=item.follows.name.digest, wanted=False)
            facts = self._facts(item, known)
            item.outcome = judge_arrival(facts)
            if item.outcome is None and item.path is None:
                item.outcome = Outcome(Answer.RESEND, "it was held a moment ago, and is no longer")
            elif item.outcome is None:
                passed.append((item, known))
        unseen = [item for item, _ in passed if item.seen is None]
        found = self.inspector.inspect([item.path for item in unseen if item.path is not None])
        for item, inspected in zip(unseen, found, strict=True):
            item.seen = inspected
        seen = [item.seen for item, _ in passed if item.seen is not None]
        overlaps = self._overlaps(seen)
        for (item, known), inspected, overlap in zip(passed, seen, overlaps, strict=True):
            self._decide(item, known, inspected, overlap)

    def _facts(self, item: Item, known: Known, inspected: Inspected | None = None) -> Facts:
        return Facts(
            agent=item.agent,
            stream=item.stream,
            name=item.name,
            digest=item.digest,
            size=item.size,
            known=known,
            limits=self.limits,
            inspected=inspected,
            quota_left=self.quota.get(item.agent),
        )

    def _overlaps(self, seen: Sequence[Inspected]) -> list[str]:
        footers = [one.footer for one in seen if one.footer is not None]
        found = iter(self.catalog.overlaps(footers))
        return [next(found) if one.footer is not None else "" for one in seen]

    def _decide(self, item: Item, known: Known, inspected: Inspected, overlap: str) -> None:
        footer = inspected.footer
        if footer is not None and not overlap:
            other = self._overlap_here(item, footer)
            if other is not None:
                item.follows = other
                overlap = f"{other.name.epoch}-{other.name.seq:012d}"
        facts = self._facts(item, replace(known, overlap=overlap) if overlap else known, inspected)
        item.outcome = judge_arrival(facts) or judge_content(facts)  # the quota may have shrunk since
        if not item.accepted:
            return
        assert footer is not None
        item.footer = footer
        item.renewed = known.wanted
        self._accepted[item.identity] = item
        source = footer.source
        extents = self._extents.setdefault((item.agent, item.stream, source.file_id), [])
        extent = (source.start, source.end, item)
        if not extents or extents[-1][1] <= source.start:  # they come in order, nearly always
            extents.append(extent)
        else:
            extents.insert(bisect_left(extents, source.start, key=lambda e: e[0]), extent)
        if facts.quota_left is not None:
            self.quota[item.agent] = facts.quota_left - item.size

    def _overlap_here(self, item: Item, footer: Footer) -> Item | None:
        """An item accepted before in this batch that covers some of the same bytes of the same file."""
        source = footer.source
        extents = self._extents.get((item.agent, item.stream, source.file_id), [])
        if not extents or extents[-1][1] <= source.start:
            return None
        position = bisect_left(extents, source.end, key=lambda e: e[0])
        while position:
            position -= 1
            _, end, other = extents[position]
            if end > source.start:
                return other
            if extents[position][0] < source.start:
                return None
        return None


def settle(items: Iterable[Item]) -> None:
    """Turn outcomes that rest on an item that failed after all into RESEND."""
    for item in items:
        if item.follows is not None and not item.follows.accepted:
            item.outcome = Outcome(Answer.RESEND, "what came just before it could not be stored")


def answer(items: Sequence[Item]) -> Outcome:
    """The one outcome of an upload from those of its items.

    OK only if all are. Else the first that wants a resend, for that may heal; else the first that is refused.
    """
    outcomes = [item.outcome for item in items if item.outcome is not None]
    bad = [outcome for outcome in outcomes if not outcome.ok]
    resend = [outcome for outcome in bad if outcome.answer is Answer.RESEND]
    if bad:
        return (resend or bad)[0]
    fresh = any(outcome.answer is Answer.ACCEPTED for outcome in outcomes)
    return Outcome(Answer.ACCEPTED if fresh else Answer.DUPLICATE)


def quotas(limits: Mapping[str, int], catalog: Catalog, agents: Iterable[str]) -> dict[str, int | None]:
    """Bytes each agent may still store; None where its limit is 0 or it has none."""
    return {agent: limits[agent] - catalog.agent_bytes(agent) if limits.get(agent) else None for agent in set(agents)}
