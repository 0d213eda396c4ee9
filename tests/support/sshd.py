"""A plain OpenSSH server on loopback: what a receiver in drop box mode stands behind.

One user (the one who runs the tests), one key, SFTP only. As root it is chrooted, as such a server is set
up in earnest: `/` of the client is `Sshd.inbox`. Otherwise the client sees real paths and `Sshd.base` is
the inbox as the client must name it.
"""

import getpass
import os
import shutil
import socket
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import asyncssh

from tests.support.needs import need_program
from tests.support.ports import free_port
from tests.support.processes import Program
from tests.support.waiting import wait_until

_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowUsers {user}
MaxStartups 200
MaxSessions 64
LogLevel VERBOSE
Subsystem sftp internal-sftp
ForceCommand internal-sftp
{chroot}
"""


class Sshd:
    """A server with keys of its own. A context manager: running inside, everything gone afterwards.

    `inbox`: the local folder uploads land in. `base`: that folder's path as the client sees it (`/` as
    root). `client_key`: private key file. `host_key`: the server's public key, one line in OpenSSH form.
    """

    host = "127.0.0.1"

    def __init__(self) -> None:
        self._sshd = need_program("sshd", package="openssh-server")
        self.user = getpass.getuser()
        self.port = free_port()
        self.chrooted = hasattr(os, "geteuid") and os.geteuid() == 0
        # Every folder above a chroot must belong to root and be closed to others: /run is, /tmp is not.
        self.folder = Path(tempfile.mkdtemp(prefix="tape-sshd-", dir="/run" if self.chrooted else None))
        self.folder.chmod(0o755)
        self.inbox = self.folder / "inbox"
        self.inbox.mkdir(mode=0o755)
        self.base = "/" if self.chrooted else self.inbox.as_posix()
        self.client_key = self.folder / "client_key"
        self.known_hosts = self.folder / "known_hosts"
        self._make_keys()
        self._program: Program | None = None

    def _make_keys(self) -> None:
        host = asyncssh.generate_private_key("ssh-ed25519")
        client = asyncssh.generate_private_key("ssh-ed25519")
        for path, key in ((self.folder / "host_key", host), (self.client_key, client)):
            path.write_bytes(key.export_private_key())
            path.chmod(0o600)
        self.host_key = host.export_public_key().decode("ascii").strip()
        (self.folder / "authorized_keys").write_bytes(client.export_public_key())
        self.known_hosts.write_text(f"[{self.host}]:{self.port} {self.host_key}\n", encoding="ascii", newline="\n")
        chroot = f"ChrootDirectory {self.inbox}" if self.chrooted else ""
        config = _CONFIG.format(port=self.port, folder=self.folder, user=self.user, chroot=chroot)
        (self.folder / "config").write_text(config, encoding="utf-8", newline="\n")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start it (again, at the same port) and wait until it greets."""
        if self.chrooted:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self._program = Program([self._sshd, "-D", "-e", "-f", self.folder / "config"])
        wait_until(self._greets, what=f"sshd at port {self.port}")

    def _greets(self) -> bool:
        assert self._program is not None
        assert self._program.running, f"sshd ended\n{self._program.report()}"
        try:
            with socket.create_connection((self.host, self.port), timeout=2) as link:
                return link.recv(4) == b"SSH-"
        except OSError:
            return False

    def stop(self) -> None:
        """Kill the server; a session that is open may live on until `cut`."""
        if self._program is not None:
            self._program.close()
            self._program = None

    def log(self) -> str:
        """What the server wrote to its log so far."""
        return self._program.err() if self._program is not None else ""

    def sftp(self, *options: str) -> list[str]:
        """The argument list of OpenSSH's `sftp` as this server's client, `options` before the host."""
        return [
            need_program("sftp", package="openssh-client"),
            *("-F", "/dev/null", "-P", str(self.port), "-i", str(self.client_key)),
            *("-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "StrictHostKeyChecking=yes"),
            *("-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"),
            *options,
            f"{self.user}@{self.host}",
        ]
