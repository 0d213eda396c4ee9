"""A small home side for tests: catalog, home archive and further targets in folders, filled with segments."""

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from receiver.catalog import Catalog
from receiver.catalog_view import CatalogView
from receiver.model import Held
from receiver.placement import Rule, Where
from receiver.targets.contract import Condition, Parcel, Place, Proof, State, Target
from receiver.targets.directory import DirectoryTarget
from receiver.targets.marker import prepare
from receiver.targets.wrapping import Wrapper
from tape.clock import SYSTEM, Clock
from tape.digest import genesis, xxh3
from tape.errors import HometapeError, TargetRefused
from tape.footer import Footer, Head, SourceRange
from tape.layout import Format, Layout, detect
from tape.names import utc_day
from tape.receipt import EpochReceipt
from tape.segment import Misfit, SegmentWriter
from tests.support.segments import START_NS, Made, Maker, finish, put


@dataclass
class Archive:
    """`names`: the targets beside `home`. Everything lies below `root`."""

    root: Path
    names: Sequence[str] = ("nas",)
    clock: Clock = SYSTEM
    maker: Maker = field(default_factory=lambda: Maker(real=False))

    def __post_init__(self) -> None:
        (self.root / "state").mkdir(parents=True)
        self.catalog = Catalog.open(self.root / "state", clock=self.clock)
        self.home = self.folder("home", home=True)
        self.others = [self.folder(name) for name in self.names]
        self.made: list[Made] = []

    @property
    def targets(self) -> list[Target]:
        """Home and the others, as they are."""
        return [self.home, *self.others]

    def folder(self, name: str, *, home: bool = False) -> DirectoryTarget:
        """A prepared target in a folder."""
        prepare(self.root / name, name, clock=self.clock)
        return DirectoryTarget(Place(name, medium=name, site="home" if home else name, home=home), self.root / name)

    def commit(self, count: int = 1) -> list[Held]:
        """New segments as an ingest leaves them: in the home archive and in the catalog, not read back."""
        made = self.maker.many(count)
        return self.take(made)

    def take(self, made: Sequence[Made]) -> list[Held]:
        """The same with segments made elsewhere."""
        self.made += made
        for item in made:
            put(self.root / "home", item)
        return self.catalog.add([item.new for item in made])

    def copied(self, target: str) -> int:
        """How many verified copies a target has."""
        return sum(stream.targets[target].segments for stream in self.catalog.streams() if target in stream.targets)

    def assert_complete(self, target: str) -> None:
        """Every committed segment lies at the target, bit for bit, with its line in SHA256SUMS, and counts."""
        root = self.root / target
        for item in self.made:
            assert (root / str(item.path)).read_bytes() == item.data
        for folder in {item.path.folder for item in self.made}:
            lines = (root / folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
            assert sorted(set(lines)) == sorted(
                f"{hashlib.sha256(item.data).hexdigest()}  {item.path.name}"
                for item in self.made
                if item.path.folder == folder
            )
        assert self.copied(target) == len(self.made)


def receipts(
    catalog: CatalogView, *names: str, copies: int, agent: str = "box", stream: str = "demo/ticks"
) -> dict[str, EpochReceipt]:
    """What the receipt of a stream says where it is safe with so many copies at these targets; the first is home."""
    places = {name: Where(name, name, name, home=name == names[0]) for name in names}
    return catalog.held_and_safe(agent, stream, rule=Rule(copies), places=places)


class Mischief(Wrapper):
    """A target around a good one that can be made to misbehave; counts what it is asked to do.

    `stored`: where a file that was put lies in truth, for targets that give no local files.
    """

    def __init__(self, inner: Target, stored: Callable[[str], Path | None] | None = None) -> None:
        super().__init__(inner)
        self.gate = threading.Event()  # cleared: every call hangs
        self.gate.set()
        self.puts = 0
        self.refuse: HometapeError | None = None  # every put fails with this
        self.corrupt = False  # stores other bytes than it was given
        self.forget = False  # says it stored, and does not
        self.misread: list[str] = []  # paths that read badly once
        self.explode: Exception | None = None  # something nobody foresaw
        self.pause = 0.0  # seconds before each segment is taken
        self.midway: Callable[[], None] | None = None  # happens once, in the middle of a put
        self._stored = stored or inner.local

    def put_many(self, parcels: Sequence[Parcel]) -> list[HometapeError | None]:
        self.gate.wait()
        self.puts += len(parcels)
        if self.explode is not None:
            raise self.explode
        if self.refuse is not None:
            return [self.refuse] * len(parcels)
        if self.forget:
            return [None] * len(parcels)
        answers = self.inner.put_many([self._tampered(parcel) for parcel in parcels])
        if self.corrupt:
            for parcel in parcels:
                local = self._stored(parcel.path)
                assert local is not None
                local.write_bytes(b"~" + local.read_bytes()[1:])
        return answers

    def _tampered(self, parcel: Parcel) -> Parcel:
        def read() -> Iterator[bytes]:
            SYSTEM.wait(self.pause)
            happens, self.midway = self.midway, None
            for number, block in enumerate(parcel.read()):
                if number == 0:
                    yield block[: len(block) // 2]
                    if happens is not None:
                        happens()
                    yield block[len(block) // 2 :]
                else:
                    yield block

        return replace(parcel, read=read)

    def verify_many(self, parcels: Sequence[Parcel]) -> Sequence[Proof | HometapeError]:
        self.gate.wait()
        if self.misread or self.inner.capabilities.local:
            return Target.verify_many(self, parcels)
        return self.inner.verify_many(parcels)

    def read(self, path: str) -> Iterator[bytes]:
        self.gate.wait()
        return self.inner.read(path)

    def verify(self, path: str) -> Proof:
        self.gate.wait()
        proof = self.inner.verify(path)
        if path in self.misread:
            self.misread.remove(path)
            return replace(proof, digest="0" * 32)
        return proof

    def state(self) -> State:
        self.gate.wait()
        if isinstance(self.refuse, TargetRefused):
            return State(Condition.REFUSED, str(self.refuse), self.refuse.hint)
        return self.inner.state()


@dataclass
class Feed:
    """Seals bytes of source files as an agent does: real typed segments, seq after seq, in one epoch of one stream."""

    folder: Path
    agent: str = "box"
    stream: str = "demo/ticks"
    epoch: str = "00000000000000aa"
    start_ns: int = START_NS
    step_ns: int = 1_000_000_000
    seq: int = 0
    row: int = 0
    chain: str = ""
    _layouts: dict[str, Layout] = field(default_factory=dict)

    def seal(self, data: bytes, *, cuts: Sequence[int], file: str = "/srv/ticks.csv", file_id: str = "f" * 32,
             offset: int = 0, head: bytes = b"", format: Format = Format.AUTO) -> list[Made]:  # noqa: A002 - the word of the interface  # fmt: skip
        """One file's bytes from `offset` on, a segment up to each cut and the rest; a second of receive time a segment.

        `head`: the first bytes of the file, where they are not in `data`.
        """
        made = []
        start = 0
        head = (head or data)[:4096]
        for end in [*cuts, len(data)]:
            piece = data[start:end]
            made.append(self._one(piece, offset + start, file, file_id, head, format, continues=self._mid(data, start)))
            start = end
        return made

    @staticmethod
    def _mid(data: bytes, start: int) -> bool:
        return start > 0 and data[start - 1 : start] != b"\n"

    def _one(
        self, piece: bytes, offset: int, file: str, file_id: str, head: bytes, format: Format, *, continues: bool  # noqa: A002 - as above
    ) -> Made:  # fmt: skip
        received = self.start_ns + self.seq * self.step_ns
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{self.epoch}-{self.seq}.part"
        layout = detect(piece, format, at_start=offset == 0, prior=self._layouts.get(file_id))
        footer = Footer(
            agent=self.agent, stream=self.stream, epoch=self.epoch, seq=self.seq,
            previous=self.chain or genesis(self.agent, self.stream, self.epoch), day=utc_day(received),
            sealed_ns=received + 1, row_first=self.row,
            source=SourceRange("file", file, file_id, offset, offset + len(piece), Head(len(head), xxh3(head))),
        )  # fmt: skip
        marks = [(len(piece), received)]
        writer = SegmentWriter(path, layout, level=1, continues=continues)
        try:
            writer.append(piece, marks)
        except Misfit as misfit:
            writer.abort()
            writer = SegmentWriter(path, misfit.layout, level=1, continues=continues)
            writer.append(piece, marks)
        self._layouts[file_id] = writer.layout
        sealed = writer.close(footer)
        made = finish(sealed.footer, path.read_bytes())
        path.unlink()
        self.seq += 1
        self.row += sealed.rows
        self.chain = made.chain
        return made
