"""The ingress as a well-behaved client meets it: order, pipelining, failures, the life of a session."""

import asyncio
import os
import struct
from pathlib import Path
from typing import BinaryIO

import asyncssh
import pytest

from receiver.ingress import Ingress
from receiver.ingress.reading import Reading
from tape import __version__, sshtune
from tape.durable import Disk
from tape.errors import ConfigError, DiskFull, SyncFailed
from tests.support import rawsftp as raw
from tests.support import wait_until_async
from tests.support.ingress import STREAM, House, bundled, deliver, segment
from tests.support.rawsftp import raw_session


async def test_an_upload_is_committed_on_rename_and_only_then(tmp_path: Path) -> None:
    """Written and closed it is nobody's; renamed it is stored, with its digest taken on the way."""
    content = os.urandom(5 << 20)
    path = f"/{STREAM}/{segment(content)}"
    async with House(tmp_path) as house, house.sftp() as client:
        async with client.open(f"{path}.part", "wb") as file:
            await file.write(content)
        assert not house.store.uploads
        assert (await client.stat(f"{path}.part")).size == len(content)
        await client.rename(f"{path}.part", path)
        assert house.store.contents() == {f"alpha{path}": content}
        upload = house.store.uploads[0]
        assert (upload.agent, upload.stream, upload.size) == ("alpha", STREAM, len(content))
        assert upload.digest == segment(content).digest
        assert upload.path.parent == house.inbox
        assert not list(house.inbox.iterdir())
        assert not await client.exists(path)
        assert not await client.exists(f"{path}.part")


async def test_each_agent_has_a_world_of_its_own(tmp_path: Path) -> None:
    """The same path of two agents is two things."""
    async with House(tmp_path) as house:
        for agent in ("alpha", "beta"):
            async with house.sftp(agent) as client:
                await deliver(client, agent.encode())
        assert sorted(house.store.contents().values()) == [b"alpha", b"beta"]


@pytest.mark.parametrize(
    "later", [b"aes128-gcm@openssh.com", b"aes256-gcm@openssh.com", b"chacha20-poly1305@openssh.com"]
)
async def test_new_keys_in_the_midst_of_an_upload(later: bytes, tmp_path: Path) -> None:
    """Every 3 MiB, and from the second time on with another cipher; nothing is lost on the way."""
    content = os.urandom(20 << 20)
    async with House(tmp_path) as house, house.connect(rekey_bytes=3 << 20) as connection:
        async with connection.start_sftp_client() as client:
            assert isinstance(house.ingress._doors[0].conn._transport.get_protocol(), Reading)  # type: ignore[union-attr] # both are there
            connection._enc_algs = [later]
            async with asyncio.timeout(30):
                await deliver(client, content)
        assert connection.get_extra_info("send_cipher") == later.decode("ascii")
        assert list(house.store.contents().values()) == [content]


async def test_the_banner_says_who_it_is(tmp_path: Path) -> None:
    """The agent sends close and rename unawaited to a server of this name only."""
    async with House(tmp_path) as house, house.connect() as connection:
        version = str(connection.get_extra_info("server_version"))
        assert version == f"SSH-2.0-Hometape_{__version__}"
        assert sshtune.is_hometape(version)
        assert connection.get_extra_info("recv_cipher") == "aes128-gcm@openssh.com"
        assert connection.get_extra_info("send_compression") == "none"


@pytest.mark.parametrize(("version", "packet"), [("Hometape_1", (1 << 20) + 1024), ("OpenSSH_9.9", 32768)])
async def test_large_packets_are_for_our_own_agent(version: str, packet: int, tmp_path: Path) -> None:
    """Others would only become slower by them; the window is the configured one for all."""
    async with House(tmp_path, window=3 << 20) as house, house.connect(client_version=version) as connection:
        chan, _ = await connection.create_session(asyncssh.SSHClientSession, subsystem="sftp", encoding=None)
        assert (chan._send_pktsize, chan._send_window) == (packet, 3 << 20)


async def test_everything_may_be_sent_without_waiting(tmp_path: Path) -> None:
    """Open is all one must wait for: writes, close and rename of many uploads follow each other unawaited."""
    contents = [os.urandom(50_000 + n) for n in range(30)]
    async with House(tmp_path) as house, house.connect() as connection, raw_session(connection) as sftp:
        numbers = []
        for seq, content in enumerate(contents):
            path = f"/{STREAM}/{segment(content, seq)}"
            handle = (await sftp.open(f"{path}.part")).handle if seq == 0 else b""
            if not handle:
                opened = sftp.send(
                    raw.OPEN, raw.text(f"{path}.part"), raw.u32(raw.WRITE_FLAG | raw.CREATE), raw.NO_ATTRS
                )
                while True:
                    number, reply = await sftp.receive()
                    if number == opened:
                        break
                    assert reply.code == raw.OK
                handle = reply.handle
            for at in range(0, len(content), 30_000):
                sftp.send(raw.WRITE, raw.text(handle), raw.u64(at), raw.text(content[at : at + 30_000]))
            sftp.send(raw.CLOSE, raw.text(handle))
            numbers.append(sftp.send(raw.RENAME, raw.text(f"{path}.part"), raw.text(path)))
        await wait_until_async(lambda: len(house.store.held("alpha", STREAM)) == len(contents))
        assert sorted(house.store.contents().values()) == sorted(contents)


async def test_a_slow_commit_holds_up_nothing_else(tmp_path: Path) -> None:
    """Not even other uploads of the same session: they share the next sync instead of waiting for the last."""
    async with House(tmp_path) as house, house.sftp() as client:
        house.store.hold = asyncio.Event()
        slow = [asyncio.ensure_future(deliver(client, b"slow %d" % n, n)) for n in range(10)]
        await wait_until_async(lambda: len(house.store.uploads) == 10)
        assert await client.realpath(".") == "/"
        assert not any(task.done() for task in slow)
        house.store.hold.set()
        await asyncio.gather(*slow)
        assert len(house.store.held("alpha", STREAM)) == 10


async def test_the_agent_is_told_what_became_of_its_upload(tmp_path: Path) -> None:
    """Duplicate: OK. Conflict and damage: a failure that starts with the word for it."""
    async with House(tmp_path) as house, house.sftp() as client:
        await deliver(client, b"first")
        await deliver(client, b"first")
        with pytest.raises(asyncssh.SFTPFailure, match=r"^conflict: "):
            await deliver(client, b"second")
        path = f"/{STREAM}/{segment(b'third', 3)}"
        async with client.open(f"{path}.part", "wb") as file:
            await file.write(b"damaged")
        with pytest.raises(asyncssh.SFTPFailure, match=r"^resend: "):
            await client.rename(f"{path}.part", path)
        await deliver(client, b"third", 3)


@pytest.mark.parametrize("error", [SyncFailed("fsync of /secret/path failed"), OSError("secret"), ValueError("secret")])
async def test_a_commit_that_breaks_is_answered_and_tells_nothing(error: Exception, tmp_path: Path) -> None:
    """Whatever was raised, the agent hears `resend`, no text of ours, and the session lives on."""
    async with House(tmp_path) as house, house.sftp() as client:
        house.store.error = error
        with pytest.raises(asyncssh.SFTPFailure, match=r"^resend: ") as caught:
            await deliver(client, b"x")
        assert "secret" not in str(caught.value)
        await wait_until_async(lambda: not list(house.inbox.iterdir()), what="its file to be deleted")
        assert house.ingress._agents["alpha"].serving.allowance.unfinished == 0
        house.store.error = None
        await deliver(client, b"x")
        assert house.store.held("alpha", STREAM) == [segment(b"x")]


class FullLater(Disk):
    """A disk that is full from the third write on, until `full` is taken back."""

    def __init__(self) -> None:
        self.writes = 0
        self.full = True

    def write_all(self, file: BinaryIO, data: bytes | memoryview) -> None:
        self.writes += 1
        if self.full and self.writes > 2:
            raise DiskFull(f"no space left while writing {file.name}")
        super().write_all(file, data)


async def test_a_failed_write_is_never_committed(tmp_path: Path) -> None:
    """Close and rename that follow unawaited both fail; once there is room the same upload goes through."""
    disk = FullLater()
    content = bytes(5 * 32768)
    path = f"/{STREAM}/{segment(content)}"
    async with House(tmp_path, disk=disk) as house, house.connect() as connection, raw_session(connection) as sftp:
        handle = (await sftp.open(f"{path}.part")).handle
        for number in range(5):
            sftp.send(raw.WRITE, raw.text(handle), raw.u64(number * 32768), raw.text(bytes(32768)))
        sftp.send(raw.CLOSE, raw.text(handle))
        renamed = sftp.send(raw.RENAME, raw.text(f"{path}.part"), raw.text(path))
        while (answer := await sftp.receive())[0] != renamed:
            pass
        assert answer[1].message == "resend: no space left at the receiver"
        assert not house.store.uploads
        await wait_until_async(lambda: not list(house.inbox.iterdir()))
        disk.full = False
        handle = (await sftp.open(f"{path}.part")).handle
        assert (await sftp.write(handle, 0, content)).code == raw.OK
        assert (await sftp.close(handle)).code == raw.OK
        assert (await sftp.rename(f"{path}.part", path)).code == raw.OK


async def test_a_rename_after_a_failed_close_gives_the_reason_again(tmp_path: Path) -> None:
    """An agent that waits for each answer learns the same."""
    path = f"/{STREAM}/{segment(b'x')}"
    async with House(tmp_path) as house, house.connect() as connection, raw_session(connection) as sftp:
        handle = (await sftp.open(f"{path}.part")).handle
        await sftp.write(handle, 5, b"gap")
        closed = await sftp.close(handle)
        assert closed.message.startswith("refused: ")
        assert (await sftp.rename(f"{path}.part", path)).message == closed.message
        assert (await sftp.rename(f"{path}.part", path)).code == raw.NO_SUCH_FILE


async def test_an_upload_that_was_closed_may_be_started_anew(tmp_path: Path) -> None:
    """The earlier attempt is dropped, and its bytes are not counted any more."""
    content = bytes(100_000)
    path = f"/{STREAM}/{segment(content)}"
    house = House(tmp_path, max_segment=100_000)
    async with house, house.connect() as connection, raw_session(connection) as sftp:
        for _ in range(10):
            handle = (await sftp.open(f"{path}.part")).handle
            assert (await sftp.write(handle, 0, content)).code == raw.OK
            await sftp.close(handle)
        assert (await sftp.rename(f"{path}.part", path)).code == raw.OK
        await wait_until_async(lambda: not list(house.inbox.iterdir()))


async def test_the_end_of_a_session_deletes_what_was_not_delivered(tmp_path: Path) -> None:
    """Open ones and closed ones, whether the session or the whole connection ends."""
    async with House(tmp_path) as house:
        for cut in (False, True):
            async with house.connect() as connection:
                async with raw_session(connection) as sftp:
                    for seq in range(3):
                        handle = (await sftp.open(f"/{STREAM}/{segment(b'', seq)}.part")).handle
                        await sftp.write(handle, 0, bytes(100_000))
                        if seq == 0:
                            await sftp.close(handle)
                    await wait_until_async(lambda: len(list(house.inbox.iterdir())) == 3)
                    if cut:
                        connection.abort()
                await wait_until_async(lambda: not list(house.inbox.iterdir()))
        async with house.sftp() as client:
            await deliver(client, b"x")


async def test_a_commit_under_way_survives_the_connection(tmp_path: Path) -> None:
    """The agent will hear `duplicate` when it tries again."""
    async with House(tmp_path) as house:
        house.store.hold = asyncio.Event()
        async with house.connect() as connection:
            client = await connection.start_sftp_client()
            task = asyncio.ensure_future(deliver(client, b"x"))
            await wait_until_async(lambda: house.store.uploads)
            connection.abort()
            await asyncio.gather(task, return_exceptions=True)
        house.store.hold.set()
        await wait_until_async(lambda: house.store.held("alpha", STREAM))
        async with house.sftp() as client:
            await deliver(client, b"x")


async def test_stopping_waits_for_a_commit_and_cuts_the_rest(tmp_path: Path) -> None:
    """What is being made durable is finished; unfinished uploads are deleted."""
    house = House(tmp_path)
    async with house:
        house.store.hold = asyncio.Event()
        async with house.connect() as connection:
            client = await connection.start_sftp_client()
            file = await client.open(f"/{STREAM}/{segment(b'y', 1)}.part", "wb")
            await file.write(b"y")
            task = asyncio.ensure_future(deliver(client, b"x"))
            await wait_until_async(lambda: house.store.uploads)
            stopping = asyncio.ensure_future(house.ingress.stop())
            await connection.wait_closed()
            assert not stopping.done()
            house.store.hold.set()
            await stopping
            await asyncio.gather(task, return_exceptions=True)
        assert house.store.held("alpha", STREAM) == [segment(b"x")]
        assert not list(house.inbox.iterdir())


async def test_a_start_clears_what_a_dead_process_left(tmp_path: Path) -> None:
    """Nobody will ever ask for it."""
    house = House(tmp_path)
    house.inbox.mkdir(parents=True)
    (house.inbox / "up-0123").write_bytes(b"left")
    async with house:
        assert not list(house.inbox.iterdir())


async def test_receipts_are_fresh_and_readable_in_pieces(tmp_path: Path) -> None:
    """Each open gives what holds at that moment."""
    path = f"/.receipts/{STREAM}.json"
    house = House(tmp_path)
    async with house, house.connect() as connection, house.sftp() as client, raw_session(connection) as sftp:

        async def read(handle: bytes, offset: int, length: int) -> bytes:
            return (await sftp.ask(raw.READ, raw.text(handle), raw.u64(offset), raw.u32(length))).fields[4:]

        assert (await sftp.open(path, raw.READ_FLAG)).code == raw.NO_SUCH_FILE
        await deliver(client, b"0", 0)
        before = (await sftp.open(path, raw.READ_FLAG)).handle
        await deliver(client, b"1", 1)
        after = (await sftp.open(path, raw.READ_FLAG)).handle
        assert b'"held":[[0,0]]' in await read(before, 0, 10_000)
        whole = await read(after, 0, 10_000)
        assert b'"held":[[0,1]]' in whole
        assert await read(after, 5, 10) == whole[5:15]
        assert (await sftp.ask(raw.READ, raw.text(after), raw.u64(len(whole)), raw.u32(1))).code == raw.EOF
        assert (await client.stat(path)).size == len(whole)


async def test_bundles_have_a_folder_of_their_own(tmp_path: Path) -> None:
    """Their uploads carry no stream."""
    name, content = bundled(tmp_path, [(STREAM, segment(b"one"), b"one"), (STREAM, segment(b"two", 1), b"two")])
    async with House(tmp_path) as house, house.sftp() as client:
        async with client.open(f"/.bundles/{name}.part", "wb") as file:
            await file.write(content)
        await client.posix_rename(f"/.bundles/{name}.part", f"/.bundles/{name}")
        assert house.store.uploads[0].stream == ""
        assert house.store.uploads[0].name == name
        assert sorted(house.store.contents().values()) == [b"one", b"two"]
        assert not list(house.inbox.iterdir())


async def test_limits_are_told(tmp_path: Path) -> None:
    """A client that asks learns how large its writes may be and how many uploads it may hold."""
    house = House(tmp_path, max_handles=7)
    async with house, house.connect() as connection, raw_session(connection) as sftp:
        reply = await sftp.ask(raw.EXTENDED, raw.text("limits@openssh.com"))
        assert struct.unpack(">QQQQ", reply.fields) == ((1 << 20) + 1024, 255 << 10, 1 << 20, 7)


class Stuck(Disk):
    """A disk that stands still until the gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def write_all(self, file: BinaryIO, data: bytes | memoryview) -> None:
        """As in Disk, once it may."""
        asyncio.run_coroutine_threadsafe(self.gate.wait(), self._loop).result()
        super().write_all(file, data)


async def taken_in(house: House) -> int:
    """Bytes of the agent's uploads that the receiver took, once these become no more."""
    allowance = house.ingress._agents["alpha"].serving.allowance
    last = -1

    def still() -> bool:
        nonlocal last
        before, last = last, allowance.unfinished
        return before == last > 0

    await wait_until_async(still, every=0.2)
    return last


async def test_a_slow_disk_slows_the_client_down(tmp_path: Path) -> None:
    """While the disk stands still only a bounded number of bytes is taken in; then everything arrives."""
    disk = Stuck()
    content = os.urandom(48 << 20)
    house = House(tmp_path, disk=disk, window=16 << 20)
    async with house, house.sftp() as client:
        sending = asyncio.ensure_future(deliver(client, content))
        taken = await taken_in(house)
        disk.gate.set()
        assert 0 < taken <= (8 << 20) + (2 << 20)
        await sending
        assert house.store.contents() == {f"alpha/{STREAM}/{segment(content)}": content}


async def test_tiny_writes_count_for_the_memory_they_take(tmp_path: Path) -> None:
    """A client that writes single bytes is slowed down long before all of them wait for the disk."""
    disk, count = Stuck(), 20_000
    house = House(tmp_path, disk=disk, window=4 << 20)
    async with house, house.connect() as connection, raw_session(connection) as sftp:
        handle = raw.text((await sftp.open(f"/{STREAM}/{segment(b'x')}.part")).handle)
        for number in range(count):
            sftp.send(raw.WRITE, handle, raw.u64(number), raw.text(b"x"))
        taken = await taken_in(house)
        disk.gate.set()
        assert taken <= 5_000
        for _ in range(count):
            assert (await sftp.receive())[1].code == raw.OK
        assert await taken_in(house) == count


def test_an_unreadable_key_names_its_agent(tmp_path: Path) -> None:
    """And says where to get the right one."""
    house = House(tmp_path)
    entry = house.settings.agent[0].model_copy(update={"key": "ssh-ed25519 AAAA"})
    settings = house.settings.model_copy(update={"agent": [entry]})
    with pytest.raises(ConfigError, match="alpha") as caught:
        Ingress(settings, house.host_key, house.store)
    assert "tape-agent init" in caught.value.hint


async def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    """With the address, and which setting to change."""
    async with House(tmp_path / "one") as house:
        taken = house.settings.listen.model_copy(update={"port": house.port})
        second = Ingress(
            house.settings.model_copy(update={"listen": taken, "state": tmp_path / "two"}), house.host_key, house.store
        )
        with pytest.raises(ConfigError, match=f"127.0.0.1 port {house.port}") as caught:
            await second.start()
        assert "listen.port" in caught.value.hint


async def test_an_agent_without_a_key_can_not_log_in(tmp_path: Path) -> None:
    """It has a drop box only."""
    house = House(tmp_path)
    entry = house.settings.agent[0].model_copy(update={"key": ""})
    house.ingress = Ingress(house.settings.model_copy(update={"agent": [entry]}), house.host_key, house.store)
    async with house:
        with pytest.raises(asyncssh.PermissionDenied):
            async with house.connect():
                pass
