"""A small home side for tests: catalog, home archive and further targets in folders, filled with segments."""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from receiver.catalog import Catalog
from receiver.model import Held
from receiver.targets.contract import Entry, Parcel, Place, Proof, State, Target
from receiver.targets.directory import DirectoryTarget
from receiver.targets.marker import prepare
from tape.clock import SYSTEM, Clock
from tape.errors import HometapeError
from tests.support.segments import Made, Maker, put


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


class Mischief(Target):
    """A target around a good one that can be made to misbehave; counts what it is asked to do."""

    def __init__(self, inner: Target) -> None:
        super().__init__(inner.place)
        self.inner = inner
        self.capabilities = inner.capabilities
        self.limits = inner.limits
        self.gate = threading.Event()  # cleared: every call hangs
        self.gate.set()
        self.puts = 0
        self.refuse: HometapeError | None = None  # every put fails with this
        self.corrupt = False  # stores other bytes than it was given
        self.forget = False  # says it stored, and does not
        self.explode: Exception | None = None  # something nobody foresaw

    def put_many(self, parcels: Sequence[Parcel]) -> list[HometapeError | None]:
        self.gate.wait()
        self.puts += len(parcels)
        if self.explode is not None:
            raise self.explode
        if self.refuse is not None:
            return [self.refuse] * len(parcels)
        if self.forget:
            return [None] * len(parcels)
        answers = self.inner.put_many(parcels)
        if self.corrupt:
            for parcel in parcels:
                local = self.inner.local(parcel.path)
                assert local is not None
                local.write_bytes(b"~" + local.read_bytes()[1:])
        return answers

    def read(self, path: str) -> Iterator[bytes]:
        self.gate.wait()
        return self.inner.read(path)

    def stat(self, path: str) -> int | None:
        return self.inner.stat(path)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        return self.inner.list(prefix)

    def verify(self, path: str) -> Proof:
        self.gate.wait()
        return self.inner.verify(path)

    def set_aside(self, path: str, why: str) -> str:
        return self.inner.set_aside(path, why)

    def note_sums(self, sums: Sequence[tuple[str, str]]) -> None:
        self.inner.note_sums(sums)

    def sums(self, folder: str) -> dict[str, str]:
        return self.inner.sums(folder)

    def free(self) -> int | None:
        return self.inner.free()

    def state(self) -> State:
        self.gate.wait()
        return self.inner.state()

    def recover(self) -> None:
        self.inner.recover()
