"""Plain OpenSSH programs as clients of the ingress: delivering works as usual, the rest is not there."""

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from tests.support import need_program
from tests.support.ingress import EPOCH, STREAM, House, bundled, deliver, segment

CONTENT = bytes(range(256)) * 5000
NAME = segment(CONTENT, 3)
PATH = f"/{STREAM}/{NAME}"


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    """A local file to deliver."""
    path = tmp_path / "local"
    path.write_bytes(CONTENT)
    return path


PUTS = {
    "absolute": "put {0} {1}.part\nrename {1}.part {1}\n",
    "with times and mode": "put -p {0} {1}.part\nrename {1}.part {1}\n",
    "with fsync": "put -f {0} {1}.part\nrename {1}.part {1}\n",
    "the old rename": "put {0} {1}.part\nrename -l {1}.part {1}\n",
    "from the folder": "mkdir /binance\nmkdir /{2}\ncd /{2}\nput {0} {3}.part\nrename {3}.part {3}\n",
    "twice": "put {0} {1}.part\nrename {1}.part {1}\nput {0} {1}.part\nrename {1}.part {1}\n",
    "after changing the mode": "put {0} {1}.part\nchmod 600 {1}.part\nrename {1}.part {1}\n",
    "put again before renaming": "put {0} {1}.part\nput {0} {1}.part\nrename {1}.part {1}\n",
}


GCM = ["-c", "aes128-gcm@openssh.com"]
OPTIONS = [
    [],
    ["-C"],
    ["-B", "1000", "-R", "1"],
    ["-c", "chacha20-poly1305@openssh.com"],
    GCM,
    [*GCM, "-o", "RekeyLimit=256K"],
]


@pytest.mark.parametrize("how", PUTS)
@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
async def test_put_and_rename_deliver(how: str, options: list[str], tmp_path: Path, upload: Path) -> None:
    """A batch of put and rename stores the file, byte for byte."""
    async with House(tmp_path) as house:
        batch = PUTS[how].format(upload, PATH, STREAM, NAME)
        ended = await house.openssh(batch, *options)
        assert ended.returncode == 0, ended.stderr
        assert house.store.contents() == {f"alpha{PATH}": CONTENT}


async def test_a_bundle_is_delivered(tmp_path: Path, upload: Path) -> None:
    """The same for bundles, which are taken apart on the way in: a write of `sftp` ends in the midst of a segment."""
    made = [(STREAM, segment(data, seq), data) for seq, data in enumerate((b"one", CONTENT, b"two", CONTENT * 3))]
    name, content = bundled(tmp_path, made)
    upload.write_bytes(content)
    path = f"/.bundles/{name}"
    async with House(tmp_path) as house:
        ended = await house.openssh(f"put {upload} {path}.part\nrename {path}.part {path}\n")
        assert ended.returncode == 0, ended.stderr
        assert house.store.contents() == {f"alpha/{stream}/{name}": data for stream, name, data in made}
        assert house.store.uploads[0].pieces is not None


async def test_a_receipt_can_be_fetched(tmp_path: Path) -> None:
    """`get` of the receipt gives what the committer signed."""
    async with House(tmp_path) as house:
        async with house.sftp() as client:
            await deliver(client, CONTENT, 3)
        ended = await house.openssh(f"get /.receipts/{STREAM}.json {tmp_path / 'receipt'}\n")
        assert ended.returncode == 0, ended.stderr
        receipt = json.loads((tmp_path / "receipt").read_bytes())["receipt"]
        assert receipt["epochs"][EPOCH]["held"] == [[3, 3]]


REFUSED = {
    "overwrite": f"put {{0}} {PATH}",
    "append": f"put -a {{0}} {PATH}",
    "resume": f"reput {{0}} {PATH}",
    "get": f"get {PATH} {{1}}",
    "get all": f"get /{STREAM}/* {{1}}",
    "list a stream": f"ls /{STREAM}",
    "list what is stored": f"ls {PATH}",
    "delete": f"rm {PATH}",
    "delete a folder": f"rmdir /{STREAM}",
    "rename what is stored": f"rename {PATH} {PATH}.part",
    "chmod": f"chmod 777 {PATH}",
    "chown": f"chown 0 {PATH}",
    "link": f"ln {PATH} /{STREAM}/other",
    "symlink": f"ln -s {PATH} /{STREAM}/other",
    "copy": f"copy {PATH} {PATH}.part",
    "df": "df /",
    "a strange name": "put {0} /a/b.txt",
    "above": "put {0} /../b.part",
    "write a receipt": f"put {{0}} /.receipts/{STREAM}.json",
    "make a strange folder": "mkdir /Upper",
    "go to a strange folder": "cd /../etc/Upper",
}


@pytest.mark.parametrize("what", REFUSED)
async def test_everything_else_is_refused(what: str, tmp_path: Path, upload: Path) -> None:
    """The command fails, gives no bytes, and what is stored stays as it was."""
    got = tmp_path / "got"
    async with House(tmp_path) as house:
        async with house.sftp() as client:
            await deliver(client, CONTENT, 3)
        upload.write_bytes(b"forged")
        ended = await house.openssh(REFUSED[what].format(upload, got) + "\n")
        assert ended.returncode != 0, ended.stdout
        assert not got.exists()
        assert house.store.contents() == {f"alpha{PATH}": CONTENT}


@pytest.mark.parametrize("where", [PATH, f"/{STREAM}/", "/"])
async def test_scp_gets_nothing_and_leaves_nothing(where: str, tmp_path: Path, upload: Path) -> None:
    """scp, in its old and its new way, neither fetches nor overwrites."""
    async with House(tmp_path) as house:
        async with house.sftp() as client:
            await deliver(client, CONTENT, 3)
        await house.openssh("pwd\n")  # writes the key files
        upload.write_bytes(b"forged")
        options = [
            *("-F", "/dev/null", "-P", str(house.port), "-i", str(tmp_path / "alpha_key"), "-o", "BatchMode=yes"),
            *("-o", f"UserKnownHostsFile={tmp_path / 'known_hosts'}", "-o", "IdentitiesOnly=yes"),
        ]
        remote = f"alpha@{house.host}:{where}"
        for old in ([], ["-O"]):
            for pair in ([str(upload), remote], [remote, str(tmp_path / "got")]):
                argv = [need_program("scp", package="openssh-client"), *old, *options, *pair]
                ended = await asyncio.to_thread(subprocess.run, argv, capture_output=True, timeout=60, check=False)
                assert ended.returncode != 0, argv
        assert not (tmp_path / "got").exists()
        assert house.store.contents() == {f"alpha{PATH}": CONTENT}


async def test_ssh_gets_no_shell_and_no_forwarding(tmp_path: Path) -> None:
    """With a command, without one, and with a forwarded port, `ssh` ends at once."""
    async with House(tmp_path) as house:
        await house.openssh("pwd\n")
        options = [
            *("-F", "/dev/null", "-p", str(house.port), "-i", str(tmp_path / "alpha_key"), "-o", "BatchMode=yes"),
            *("-o", f"UserKnownHostsFile={tmp_path / 'known_hosts'}", "-o", "IdentitiesOnly=yes"),
            *("-o", "ExitOnForwardFailure=yes"),
        ]
        ssh = need_program("ssh", package="openssh-client")
        for more in ([], ["-tt"], ["-R", "0:127.0.0.1:22", "-N"], ["-A", "-X"]):
            for command in ([], ["id"]):
                argv = [ssh, *options, *more, f"alpha@{house.host}", *command]
                ended = await asyncio.to_thread(
                    subprocess.run, argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
                )
                assert ended.returncode != 0, argv
                assert b"uid=" not in ended.stdout


async def test_why_an_upload_was_not_taken_is_logged(
    tmp_path: Path, upload: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bytes that do not fit the name: the rename fails, and since `sftp` does not show the reason, the log does."""
    upload.write_bytes(b"other bytes")
    async with House(tmp_path) as house:
        ended = await house.openssh(f"put {upload} {PATH}.part\nrename {PATH}.part {PATH}\n")
        assert ended.returncode != 0
        assert "resend: the bytes do not have the digest in the name" in capsys.readouterr().out
        assert house.store.contents() == {}
