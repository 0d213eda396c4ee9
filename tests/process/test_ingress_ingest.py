"""Ingress and drop box before the real ingest: real segments, to the home archive and back as a receipt."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import pytest

from receiver.dropbox import DropBox
from receiver.ingress import Ingress
from receiver.settings import AgentEntry
from tape.clock import SYSTEM
from tape.names import BundleName
from tests.support import Sshd, run, wait_until_async
from tests.support.ingesting import Bench, ingesting
from tests.support.ingress import House
from tests.support.segments import Made, Maker

pytestmark = pytest.mark.process

STREAM = "demo/ticks"


@dataclass
class Home:
    """A house whose committer is the real ingest, `bench`."""

    house: House
    bench: Bench


@contextlib.asynccontextmanager
async def home(folder: Path) -> AsyncIterator[Home]:
    """The receiver's front half, at work."""
    house = House(folder)
    async with ingesting(folder, settings=house.settings, clock=SYSTEM) as bench:
        house.ingress = Ingress(house.settings, house.host_key, bench.ingest, stored=bench.catalog.agent_bytes)
        async with house:
            yield Home(house, bench)


def made(count: int, *, stream: str = STREAM) -> list[Made]:
    """A stream's first segments."""
    maker = Maker("alpha", stream)
    return [maker.make() for _ in range(count)]


async def send(client: asyncssh.SFTPClient, path: str, content: bytes) -> None:
    """Deliver a file, each step awaited."""
    async with client.open(f"{path}.part", "wb") as file:
        await file.write(content)
    await client.rename(f"{path}.part", path)


def expected(segments: list[Made]) -> dict[str, bytes]:
    """How they lie in the home archive."""
    return {str(one.path): one.data for one in segments}


def parquet(stored: dict[str, bytes]) -> dict[str, bytes]:
    """The segments among the archive's files."""
    return {path: data for path, data in stored.items() if path.endswith(".parquet")}


async def test_segments_sent_at_once_over_many_sessions_are_all_held(tmp_path: Path) -> None:
    """In any order, some of them twice at the same time: each is stored once, and the receipt says so."""
    segments = made(60)
    async with home(tmp_path) as at:
        async with at.house.connect() as connection:
            clients = [await connection.start_sftp_client() for _ in range(4)]
            jobs = [(n, one) for n, one in enumerate([*reversed(segments), *segments[::3]])]
            await asyncio.gather(*(send(clients[n % 4], f"/{STREAM}/{one.path.name}", one.data) for n, one in jobs))
        assert parquet(at.bench.stored()) == expected(segments)
        receipt = await at.bench.receipt(segments[0])
        assert receipt.epochs[segments[0].path.name.epoch].held == ((0, 59),)
        await wait_until_async(lambda: not list(at.house.inbox.iterdir()), what="an empty inbox")


async def test_openssh_delivers_a_segment_and_a_bundle(tmp_path: Path) -> None:
    """Plain `sftp` is client enough; the receipt it fetches is signed and says what is held."""
    one, *more = made(4)
    async with home(tmp_path) as at:
        upload = at.bench.bundle(more)
        assert isinstance(upload.name, BundleName)
        local = tmp_path / "one"
        local.write_bytes(one.data)
        single, bundle = f"/{STREAM}/{one.path.name}", f"/.bundles/{upload.name}"
        ended = await at.house.openssh(
            f"put {local} {single}.part\nrename {single}.part {single}\n"
            f"put {upload.path} {bundle}.part\nrename {bundle}.part {bundle}\n"
            f"get /.receipts/{STREAM}.json {tmp_path / 'receipt'}\n"
        )
        assert ended.returncode == 0, ended.stderr
        assert parquet(at.bench.stored()) == expected([one, *more])
        assert (await at.bench.receipt(one)).epochs[one.path.name.epoch].held == ((0, 3),)
        assert b'"held":[[0,3]]' in (tmp_path / "receipt").read_bytes()


async def test_what_is_no_segment_is_refused_and_kept_aside(tmp_path: Path) -> None:
    """The agent hears `refused` with the reason; other bytes under a held number are a conflict."""
    one = made(1)[0]
    forged = Maker("alpha", STREAM, salt=b"forged").make()
    junk = b"no parquet at all"
    async with home(tmp_path) as at, at.house.sftp() as client:
        await send(client, f"/{STREAM}/{one.path.name}", one.data)
        upload = at.bench.upload(one, data=junk)
        name = f"{one.path.name.epoch}-{7:012d}-{upload.digest}.parquet"
        with pytest.raises(asyncssh.SFTPFailure, match=r"^refused: "):
            await send(client, f"/{STREAM}/{name}", junk)
        with pytest.raises(asyncssh.SFTPFailure, match=r"^conflict: "):
            await send(client, f"/{STREAM}/{forged.path.name}", forged.data)
        assert parquet(at.bench.stored()) == expected([one])
        assert sorted(at.bench.quarantined().values()) == sorted([junk, forged.data])


async def test_a_drop_box_behind_a_plain_sshd_brings_segments_home(tmp_path: Path, sshd: Sshd) -> None:
    """OpenSSH on both ends of the wire: uploads vanish from its folder once they are held, receipts appear in it."""
    segments = made(3)
    house = House(tmp_path)
    async with ingesting(tmp_path, settings=house.settings, clock=SYSTEM) as bench:
        entry = AgentEntry(name="alpha", dropbox=sshd.inbox)
        box = DropBox(entry, house.settings.state, bench.ingest, streams=lambda: [STREAM], poll=3600)
        box.start()
        task = asyncio.ensure_future(box.run())
        base = sshd.base.rstrip("/")
        lines = [f"mkdir {base}/demo", f"mkdir {base}/{STREAM}"]
        for number, one in enumerate(segments):
            local, final = tmp_path / f"local{number}", f"{base}/{STREAM}/{one.path.name}"
            local.write_bytes(one.data)
            lines += [f"put {local} {final}.part", f"rename {final}.part {final}"]
        batch = tmp_path / "batch"
        batch.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
        await asyncio.to_thread(run, sshd.sftp("-b", str(batch)), code=0)
        await wait_until_async(lambda: parquet(bench.stored()) == expected(segments), what="three segments at home")
        await wait_until_async(lambda: not list((sshd.inbox / STREAM).iterdir()), what="an empty drop box")
        receipt = sshd.inbox / ".receipts" / f"{STREAM}.json"
        await wait_until_async(lambda: receipt.exists() and b'"held":[[0,2]]' in receipt.read_bytes())
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
