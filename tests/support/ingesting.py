"""A receiver's ingest in a folder of its own: real catalog, real files, real inspecting process."""

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from receiver.catalog import Catalog
from receiver.ingest import Ingest
from receiver.ingress.storing import Room, Split
from receiver.inspect import Inspector
from receiver.model import Outcome, Upload
from receiver.settings import AgentEntry, ReceiverSettings, TargetSettings
from receiver.targets.marker import prepare
from tape.bundle import Bundle, Item
from tape.clock import Clock, ManualClock
from tape.digest import xxh3
from tape.durable import DISK, Disk
from tape.names import BundleName
from tape.receipt import Receipt, new_key, open_receipt
from tests.support.segments import Made
from tests.support.trees import read_tree

_KEY = new_key()
_NUMBERS = itertools.count()


@dataclass
class Bench:
    """Ingest with its folders. `home`: the home archive's root; `inbox`: where uploads are laid before commit."""

    settings: ReceiverSettings
    catalog: Catalog
    ingest: Ingest
    inbox: Path
    uploads: list[Path] = field(default_factory=list)

    @property
    def home(self) -> Path:
        """The home archive's root."""
        return self.settings.home.folder

    def upload(self, made: Made, *, digest: str | None = None, data: bytes | None = None) -> Upload:
        """A segment as a finished upload; with other bytes or another arrival digest on request."""
        content = made.data if data is None else data
        path = lay(self.inbox, content)
        self.uploads.append(path)
        arrived = xxh3(content) if digest is None else digest
        return Upload(made.path.agent, made.path.stream, made.path.name, path, len(content), arrived, 1)

    def bundle(self, made: Sequence[Made], *, damage: Made | None = None) -> Upload:
        """Segments as one bundle; with `damage`, a byte of that one is wrong although the bundle's digest is right."""
        entries = [(Item(m.path.stream, m.path.name, len(m.data)), lay(self.inbox, m.data)) for m in made]
        bundle = Bundle(entries)
        content = b"".join(bundle.blocks())
        for _, part in entries:
            part.unlink()
        if damage is not None:
            content = content.replace(damage.data, damage.data[:-5] + b"!" + damage.data[-4:])
        path = lay(self.inbox, content)
        self.uploads.append(path)
        return Upload(made[0].path.agent, "", bundle.name, path, len(content), "", 1)

    def apart(self, upload: Upload) -> Upload:
        """A bundle as the ingress hands it over, taken apart on the way in."""
        assert isinstance(upload.name, BundleName)
        content = upload.path.read_bytes()
        upload.path.unlink()
        store = Split(upload.path, DISK, upload.name, Room())
        store.write(memoryview(content))
        store.end()
        if (pieces := store.pieces()) is not None:
            self.uploads += [piece.path for piece in pieces.found]
        return replace(upload, pieces=pieces)

    async def send(self, made: Made) -> Outcome:
        """Commit one segment."""
        return await self.ingest.commit(self.upload(made))

    async def receipt(self, made: Made) -> Receipt:
        """The stream's receipt, its signature checked."""
        data = await self.ingest.receipt(made.path.agent, made.path.stream)
        assert data is not None
        return open_receipt(data, _KEY.public_key(), agent=made.path.agent, stream=made.path.stream)

    def stored(self) -> dict[str, bytes]:
        """The files of the home archive by path, without the target's own."""
        return {name: data for name, data in read_tree(self.home, "*/**/*").items() if not name.startswith(".")}

    def quarantined(self) -> dict[str, bytes]:
        """The files kept in quarantine by path below it, without the notes."""
        found = read_tree(self.settings.state / "quarantine")
        return {name: data for name, data in found.items() if not name.endswith(".json")}

    def private(self) -> list[str]:
        """Private files that are still there: uploads and unpacked items."""
        left = [path.name for path in self.uploads if path.exists()]
        return left + [path.name for path in (self.home / ".hometape-tmp").rglob(".tmp-*")]


def settings_for(root: Path, *, quota_bytes: int = 0) -> ReceiverSettings:
    """Settings of a receiver below `root`, with the agents `box` and `other` and a NAS beside home."""
    return ReceiverSettings(
        state=root / "state",
        agent=[AgentEntry(name="box", quota_bytes=quota_bytes), AgentEntry(name="other")],
        target=[
            TargetSettings(id="pc", path=root / "home", home=True),
            TargetSettings(id="nas", path=root / "nas", medium="nas"),
        ],
    )


def lay(inbox: Path, data: bytes) -> Path:
    """Some bytes as a private file."""
    path = inbox / f"up-{next(_NUMBERS)}"
    path.write_bytes(data)
    return path


@asynccontextmanager
async def ingesting(
    root: Path,
    *,
    settings: ReceiverSettings | None = None,
    disk: Disk = DISK,
    clock: Clock | None = None,
    inspector: Inspector | None = None,
) -> AsyncIterator[Bench]:
    """A started ingest below `root` (which may hold the folders of an earlier one)."""
    chosen = settings or settings_for(root)
    now = clock or ManualClock()
    inbox = root / "inbox"
    for folder in (chosen.state, inbox):
        folder.mkdir(parents=True, exist_ok=True)
    prepare(chosen.home.folder, chosen.home.id, clock=now)
    with Catalog.open(chosen.state, clock=now) as catalog:
        ingest = Ingest(chosen, catalog, _KEY, clock=now, disk=disk, inspector=inspector)
        await ingest.start()
        try:
            yield Bench(chosen, catalog, ingest, inbox)
        finally:
            await ingest.stop()
