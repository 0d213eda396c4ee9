"""An ingress on loopback with two agents, before a small committer that really hashes, syncs and stores."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import asyncssh

from receiver.ingress import Ingress
from receiver.model import Answer, Outcome, Upload
from receiver.settings import AgentEntry, ListenSettings, PolicySettings, ReceiverSettings, TargetSettings
from tape import keys, sshtune
from tape.bundle import Bundle, BundleReader, Item
from tape.clock import SYSTEM, Clock
from tape.digest import digest_of, xxh3
from tape.durable import DISK, Disk
from tape.inventory import Page, answer
from tape.names import BundleName, SegmentName
from tape.receipt import EpochReceipt, Receipt, new_key, to_ranges
from tests.support.inventories import PlainTree
from tests.support.needs import need_program

EPOCH = "00c0ffee00c0ffee"
STREAM = "binance/btcusdt/frames"


def segment(content: bytes, seq: int = 0, *, epoch: str = EPOCH) -> SegmentName:
    """The name of a segment that holds these bytes."""
    return SegmentName(epoch, seq, xxh3(content))


class Store:
    """A committer without verdicts on content: digest against name, then kept for good below `root`.

    `uploads`: every upload that came; `asked`: what came damaged. `hold`: while set to an unset event, commits wait.
    """

    def __init__(self, root: Path, disk: Disk = DISK) -> None:
        self.root = root
        self.uploads: list[Upload] = []
        self.asked: list[tuple[str, str, SegmentName]] = []
        self.hold: asyncio.Event | None = None
        self.error: BaseException | None = None
        self._disk = disk
        self._key = new_key()
        self._issued = 0

    def path(self, agent: str, stream: str, name: SegmentName | BundleName) -> Path:
        """Where an upload ends up."""
        return self.root / agent / (stream or ".bundles") / str(name)

    async def commit(self, upload: Upload) -> Outcome:
        """Keep it, or each segment of a bundle, or say why not; the first bad answer is a bundle's."""
        self.uploads.append(upload)
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        return await asyncio.to_thread(self._keep_all, upload)

    def _keep_all(self, upload: Upload) -> Outcome:
        outcomes = [self._keep(part) for part in parts_of(upload)]
        return next((outcome for outcome in outcomes if not outcome.ok), outcomes[0])

    def _keep(self, upload: Upload) -> Outcome:
        name, final = upload.name, self.path(upload.agent, upload.stream, upload.name)
        found = digest_of(upload.path)
        if found != name.digest or upload.digest not in ("", found) or upload.path.stat().st_size != upload.size:
            self._disk.remove(upload.path)
            return Outcome(Answer.RESEND, "the bytes do not have the digest in the name")
        if final.exists():
            self._disk.remove(upload.path)
            return Outcome(Answer.DUPLICATE)
        if isinstance(name, SegmentName):
            others = [p for p in self.held(upload.agent, upload.stream) if (p.epoch, p.seq) == (name.epoch, name.seq)]
            if others:
                self._disk.remove(upload.path)
                return Outcome(Answer.CONFLICT, "other bytes are held under that number")
        self._disk.make_dirs(final.parent)
        self._disk.publish(upload.path, final)
        return Outcome(Answer.ACCEPTED)

    def held(self, agent: str, stream: str) -> list[SegmentName]:
        """The segments of a stream, in order."""
        folder = self.root / agent / stream
        return sorted(SegmentName.parse(p.name) for p in folder.glob("*")) if folder.is_dir() else []

    def contents(self) -> dict[str, bytes]:
        """Every stored file by its path below `root`."""
        files = [path for path in self.root.rglob("*") if path.is_file()]
        return {path.relative_to(self.root).as_posix(): path.read_bytes() for path in files}

    async def ask_again(self, agent: str, segments: Sequence[tuple[str, SegmentName]], why: str) -> None:
        """Note what is asked for."""
        if self.error is not None:
            raise self.error
        self.asked += [(agent, *one) for one in segments]

    async def receipt(self, agent: str, stream: str, *, anew: bool = False) -> bytes | None:
        """A signed receipt of what is held."""
        held = self.held(agent, stream)
        if not held:
            return None
        self._issued += 1
        epochs = {name.epoch: [n.seq for n in held if n.epoch == name.epoch] for name in held}
        parts = {epoch: EpochReceipt(held=to_ranges(seqs)) for epoch, seqs in epochs.items()}
        return Receipt(agent, stream, self._issued, parts).sign(self._key)

    async def inventory(self, agent: str, page: Page) -> bytes | None:
        """A page over what is held of an agent."""
        if self.error is not None:
            raise self.error
        return await asyncio.to_thread(self._page, agent, page)

    def _page(self, agent: str, page: Page) -> bytes | None:
        root = self.root / agent
        found = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".bundle"]
        names = [(path.parent.relative_to(root).as_posix(), SegmentName.parse(path.name)) for path in found]
        held = {(stream, name.epoch, name.seq): bytes.fromhex(name.digest) for stream, name in names}
        return answer(PlainTree(held), page)


def parts_of(upload: Upload) -> list[Upload]:
    """The segments of a bundle as uploads of their own, taken apart on the way in or not; of a segment, itself."""
    if not isinstance(upload.name, BundleName):
        return [upload]
    if upload.pieces is not None:
        assert (upload.pieces.digest, upload.pieces.problem) == (upload.name.digest, "")
        found = [(piece.stream, piece.name, piece.path, piece.size, piece.digest) for piece in upload.pieces.found]
    else:
        found = []
        with upload.path.open("rb") as file:
            reader = BundleReader(file, upload.size, epoch=upload.name.epoch)
            assert reader.head.digest == upload.name.digest
            for number, item in enumerate(reader.items):
                path = upload.path.with_name(f"{upload.path.name}.{number}")
                with path.open("wb") as out:
                    _, digest = reader.copy(out)
                found.append((item.stream, item.name, path, item.size, digest))
        upload.path.unlink()
    return [
        replace(upload, pieces=None, stream=stream, name=name, path=path, size=size, digest=digest)
        for stream, name, path, size, digest in found
    ]


def bundled(folder: Path, entries: Sequence[tuple[str, SegmentName, bytes]]) -> tuple[BundleName, bytes]:
    """A bundle of segments, each a stream, a name and bytes; laid in `folder` meanwhile."""
    paths = [folder / f"laid-{number}" for number in range(len(entries))]
    for path, (_, _, data) in zip(paths, entries, strict=True):
        path.write_bytes(data)
    items = [Item(stream, name, len(data)) for stream, name, data in entries]
    bundle = Bundle(list(zip(items, paths, strict=True)))
    content = b"".join(bundle.blocks())
    for path in paths:
        path.unlink()
    return bundle.name, content


class House:
    """An `Ingress` for agents `alpha` and `beta`, each with a key of its own. An async context manager."""

    host = "127.0.0.1"

    def __init__(
        self,
        folder: Path,
        *,
        store: Any = None,
        clock: Clock = SYSTEM,
        disk: Disk = DISK,
        stored: int = 0,
        **limits: Any,
    ) -> None:
        self.folder = folder
        self.store = store if store is not None else Store(folder / "store")
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.keys = {name: asyncssh.generate_private_key("ssh-ed25519") for name in ("alpha", "beta")}
        listen = {key: value for key, value in limits.items() if key in ListenSettings.model_fields}
        entry = {key: value for key, value in limits.items() if key in AgentEntry.model_fields}
        assert len(listen) + len(entry) == len(limits), f"unknown limits in {limits}"
        self.settings = ReceiverSettings(
            state=folder / "state",
            listen=ListenSettings(host=self.host, port=0, **listen),
            agent=[AgentEntry(name=name, key=keys.public_line(key), **entry) for name, key in self.keys.items()],
            target=[TargetSettings(id="home", path=folder / "home", home=True)],
            policy=PolicySettings(copies=1),
        )
        self.ingress = Ingress(
            self.settings, self.host_key, self.store, clock=clock, disk=disk, stored=lambda _agent: stored
        )

    async def __aenter__(self) -> Self:
        await self.ingress.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.ingress.stop()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self.ingress.port

    @property
    def inbox(self) -> Path:
        """Where unfinished uploads lie."""
        return self.settings.state / "inbox"

    @asynccontextmanager
    async def connect(self, agent: str = "alpha", **options: Any) -> AsyncIterator[asyncssh.SSHClientConnection]:
        """A connection of an agent, tuned as the real one; `options` replace single ones."""
        known = asyncssh.import_known_hosts(f"[{self.host}]:{self.port} {keys.public_line(self.host_key)}")
        defaults: dict[str, Any] = {
            "username": agent,
            "client_keys": [self.keys[agent]] if agent in self.keys else [],
            "known_hosts": known,
            "client_version": f"{sshtune.BANNER}_test",
            "config": None,
            "agent_path": None,
            "login_timeout": 20,
            **sshtune.algorithms(),
        }
        async with asyncssh.connect(self.host, self.port, **{**defaults, **options}) as connection:
            yield connection

    @asynccontextmanager
    async def sftp(self, agent: str = "alpha") -> AsyncIterator[asyncssh.SFTPClient]:
        """An SFTP session of an agent."""
        async with self.connect(agent) as connection, connection.start_sftp_client() as client:
            yield client

    async def openssh(self, batch: str, *options: str, agent: str = "alpha") -> subprocess.CompletedProcess[str]:
        """Run OpenSSH's `sftp` with a batch of commands as an agent."""
        key, hosts = self.folder / f"{agent}_key", self.folder / "known_hosts"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(self.keys[agent].export_private_key())
        line = f"[{self.host}]:{self.port} {keys.public_line(self.host_key)}\n"
        hosts.write_text(line, encoding="ascii", newline="\n")
        argv = [
            need_program("sftp", package="openssh-client"),
            *("-F", "/dev/null", "-P", str(self.port), "-i", str(key), "-b", "-"),
            *("-o", f"UserKnownHostsFile={hosts}", "-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes"),
            *options,
            f"{agent}@{self.host}",
        ]
        return await asyncio.to_thread(
            subprocess.run, argv, input=batch, capture_output=True, text=True, encoding="utf-8", timeout=60, check=False
        )


async def deliver(client: asyncssh.SFTPClient, content: bytes, seq: int = 0, *, stream: str = STREAM) -> None:
    """Upload a segment as an agent does; raises asyncssh.SFTPError."""
    path = f"/{stream}/{segment(content, seq)}"
    async with client.open(f"{path}.part", "wb") as file:
        await file.write(content)
    await client.rename(f"{path}.part", path)
