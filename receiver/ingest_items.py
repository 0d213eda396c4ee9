"""From uploads to judged items: bundles taken apart, each segment judged, also against the others of its batch."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from receiver.catalog import Catalog
from receiver.inspect import Inspector
from receiver.model import Answer, Outcome, Upload
from receiver.verdict import Facts, Inspected, Known, Limits, judge_arrival, judge_content
from tape.bundle import BundleReader
from tape.digest import digest_of
from tape.durable import Disk
from tape.errors import BundleError, DiskError, SyncFailed
from tape.footer import Footer
from tape.names import BundleName, SegmentName, SegmentPath

Identity = tuple[str, str, str, int]


@dataclass(slots=True)
class Item:
    """One segment of a batch. `upload`: index of the upload that brought it. `path`: where its bytes lie, privately.

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
    footer: Footer | None = None
    renewed: bool = False
    follows: "Item | None" = None
    final: Path | None = None
    stayed: bool = False

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
        assert self.footer is not None
        return SegmentPath(self.agent, self.stream, self.footer.day, self.name)


# ---------------------------------------------------------------------------------------------- unpacking


class _Sink:
    """A file that takes a bundle item's bytes through the Disk."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self.file = disk.create(path)

    def write(self, data: bytes) -> None:
        """All of it; raises DiskError."""
        self._disk.write_all(self.file, data)


def unpack(
    uploads: Sequence[Upload], catalog: Catalog, disk: Disk, folder: Path
) -> tuple[list[Item], dict[int, Outcome]]:
    """The segments of a batch, and outcomes of uploads that could not be taken apart (by index).

    Items of bundles become files in `folder`, except those that are held already. Raises SyncFailed.
    """
    items: list[Item] = []
    failed: dict[int, Outcome] = {}
    for number, upload in enumerate(uploads):
        try:
            digest = upload.digest or digest_of(upload.path)
            if isinstance(upload.name, SegmentName):
                place = (number, upload.agent, upload.stream, upload.name, upload.path)
                items.append(Item(*place, size=upload.size, digest=digest))
            elif digest != upload.name.digest:
                failed[number] = Outcome(Answer.RESEND, f"arrived damaged: the bundle's digest is {digest}")
            else:
                items += _unpack_bundle(number, upload, upload.name, catalog, disk, folder)
        except BundleError as error:
            failed[number] = Outcome(Answer.QUARANTINED, str(error))
        except SyncFailed:
            raise
        except (DiskError, OSError) as error:
            failed[number] = Outcome(Answer.RESEND, f"the receiver could not read or store it: {error}")
    return items, failed


def _unpack_bundle(
    number: int, upload: Upload, name: BundleName, catalog: Catalog, disk: Disk, folder: Path
) -> list[Item]:
    items: list[Item] = []
    with upload.path.open("rb") as file:
        reader = BundleReader(file, upload.size, where=str(name), epoch=name.epoch)
        known = catalog.known([(upload.agent, i.stream, i.name.epoch, i.name.seq) for i in reader.items])
        for entry, around in zip(reader.items, known, strict=True):
            place = (number, upload.agent, entry.stream, entry.name)
            if around.digest == entry.name.digest and not around.wanted:
                reader.skip()
                items.append(Item(*place, path=None, size=entry.size, digest=entry.name.digest))
                continue
            path = disk.temp_path(folder)
            item = Item(*place, path=path, size=entry.size, digest="")
            items.append(item)
            try:
                sink = _Sink(disk, path)
                with sink.file:
                    _, item.digest = reader.copy(sink)
            except SyncFailed:
                raise
            except DiskError as error:
                item.outcome = Outcome(Answer.RESEND, f"the receiver could not store it: {error}")
                break  # the rest would meet the same disk; this one's outcome is the bundle's
    return items


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
        to_inspect: list[tuple[Item, Facts]] = []
        for item, known in zip(items, around, strict=True):
            facts = self._facts(item, known)
            item.outcome = judge_arrival(facts)
            if item.outcome is None and item.path is None:
                item.outcome = Outcome(Answer.RESEND, "it was held a moment ago, and is no longer")
            elif item.outcome is None:
                to_inspect.append((item, facts))
        seen = self.inspector.inspect([item.path for item, _ in to_inspect if item.path is not None])
        overlaps = self._overlaps(seen)
        for (item, facts), inspected, overlap in zip(to_inspect, seen, overlaps, strict=True):
            self._decide(item, facts, inspected, overlap)

    def _facts(self, item: Item, known: Known) -> Facts:
        before = self._accepted.get(item.identity)
        if before is not None:
            item.follows = before
            known = replace(known, digest=before.name.digest, wanted=False)
        return Facts(
            agent=item.agent,
            stream=item.stream,
            name=item.name,
            digest=item.digest,
            size=item.size,
            known=known,
            limits=self.limits,
            quota_left=self.quota.get(item.agent),
        )

    def _overlaps(self, seen: Sequence[Inspected]) -> list[str]:
        footers = [one.footer for one in seen if one.footer is not None]
        found = iter(self.catalog.overlaps(footers))
        return [next(found) if one.footer is not None else "" for one in seen]

    def _decide(self, item: Item, facts: Facts, inspected: Inspected, overlap: str) -> None:
        footer = inspected.footer
        if footer is not None and not overlap:
            other = self._overlap_here(item, footer)
            if other is not None:
                item.follows = other
                overlap = f"{other.name.epoch}-{other.name.seq:012d}"
        left = self.quota.get(item.agent)
        facts = replace(facts, inspected=inspected, quota_left=left, known=replace(facts.known, overlap=overlap))
        item.outcome = judge_arrival(facts) or judge_content(facts)  # the quota may have shrunk since
        if not item.accepted:
            return
        assert footer is not None
        item.footer = footer
        item.renewed = facts.known.wanted
        self._accepted[item.identity] = item
        source = footer.source
        extents = self._extents.setdefault((item.agent, item.stream, source.file_id), [])
        extents.insert(bisect_left(extents, source.start, key=lambda e: e[0]), (source.start, source.end, item))
        if left is not None:
            self.quota[item.agent] = left - item.size

    def _overlap_here(self, item: Item, footer: Footer) -> Item | None:
        """An item accepted before in this batch that covers some of the same bytes of the same file."""
        source = footer.source
        extents = self._extents.get((item.agent, item.stream, source.file_id), [])
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
