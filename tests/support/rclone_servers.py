"""Real remotes on loopback for tests: rclone's own servers for S3, WebDAV and SFTP, crypt over S3, and Samba."""

import functools
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from receiver.settings import TargetSettings
from receiver.targets.contract import Place
from receiver.targets.rclone import find_rclone
from receiver.targets.remote import RemoteTarget
from receiver.targets.remote_setup import prepare_remote
from tape.clock import ManualClock
from tests.support.needs import need_program
from tests.support.ports import free_port
from tests.support.processes import Program, environment
from tests.support.waiting import wait_until

BUCKET = "hometape"
KEY, SECRET = "AKIDHOMETAPE00000001", "c2VjcmV0LW9mLWEtdGVzdA"
USER, PASSWORD = "tape", "pass-word-of-a-test"


@functools.cache
def obscured(text: str) -> str:
    """A password as rclone keeps it in its configuration: one of many ways, which is as good as any."""
    done = subprocess.run([str(find_rclone()), "obscure", "-"], input=text.encode(), capture_output=True, check=True)
    return done.stdout.decode().strip()


def listening(port: int) -> bool:
    """Whether something accepts connections on a loopback port."""
    import socket

    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Server:
    """One server that stores below `folder`, and the options of the rclone remote that reaches it."""

    kind: str
    folder: Path
    port: int
    options: dict[str, str]
    argv: list[str]
    program: Program | None = None
    prefix: str = ""

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.program = Program(self.argv, env=environment())
        program = self.program
        wait_until(lambda: listening(self.port) or not program.running, within=30, what=f"{self.kind} to listen")
        assert program.running, program.report()

    def stop(self) -> None:
        """End it at once, as a power cut would."""
        if self.program is not None:
            self.program.close()
            self.program = None


def _served(kind: str, folder: Path, options: dict[str, str], *switches: str) -> Server:
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    argv = [str(find_rclone()), "serve", kind, str(folder), "--addr", f"127.0.0.1:{port}", "--config", os.devnull]
    options = {key: value.replace("PORT", str(port)) for key, value in options.items()}
    return Server(kind, folder, port, options, [*argv, "--dir-cache-time=1ms", *switches])


def s3(folder: Path, *switches: str) -> Server:
    """An S3 store with one bucket."""
    (folder / BUCKET).mkdir(parents=True, exist_ok=True)
    options = {
        "type": "s3",
        "provider": "Rclone",
        "endpoint": "http://127.0.0.1:PORT/",
        "access_key_id": KEY,
        "secret_access_key": SECRET,
    }
    server = _served("s3", folder, options, "--auth-key", f"{KEY},{SECRET}", *switches)
    server.prefix = f"{BUCKET}/"
    return server


def webdav(folder: Path, *switches: str) -> Server:
    """A WebDAV server."""
    options = {
        "type": "webdav",
        "vendor": "other",
        "url": "http://127.0.0.1:PORT/",
        "user": USER,
        "pass": obscured(PASSWORD),
    }
    return _served("webdav", folder, options, "--user", USER, "--pass", PASSWORD, *switches)


def sftp(folder: Path, *switches: str) -> Server:
    """An SFTP server."""
    options = {
        "type": "sftp",
        "host": "127.0.0.1",
        "port": "PORT",
        "user": USER,
        "pass": obscured(PASSWORD),
        "known_hosts_file": "none",
        "idle_timeout": "0",
    }
    return _served("sftp", folder, options, "--user", USER, "--pass", PASSWORD, *switches)


def samba(folder: Path) -> Server:
    """A Samba server as a NAS has it, with one share."""
    smbd = need_program("smbd", package="samba")
    port = free_port()
    share, state = folder / "share", folder / "state"
    for path in (share, state):
        path.mkdir(parents=True, exist_ok=True)
    share.chmod(0o777)
    settings = {name: str(state) for name in ("lock directory", "state directory", "cache directory", "pid directory")}
    settings |= {
        "private dir": str(state),
        "ncalrpc dir": str(state),
        "smb ports": str(port),
        "map to guest": "bad user",
    }
    settings |= {
        "bind interfaces only": "yes",
        "interfaces": "lo",
        "disable spoolss": "yes",
        "server role": "standalone",
    }
    lines = ["[global]", *(f"{key} = {value}" for key, value in settings.items())]
    lines += ["log level = 0", f"log file = {state}/log"]
    lines += [f"[{BUCKET}]", f"path = {share}", "guest ok = yes", "read only = no", "force user = root"]
    conf = state / "smb.conf"
    conf.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    options = {"type": "smb", "host": "127.0.0.1", "port": str(port), "user": "guest", "pass": obscured("none")}
    argv = [smbd, "--foreground", "--no-process-group", f"--configfile={conf}"]
    return Server("smb", share, port, options, argv, prefix=f"{BUCKET}/")


SERVERS: dict[str, Callable[[Path], Server]] = {"s3": s3, "webdav": webdav, "sftp": sftp, "smb": samba}


@dataclass
class Remotes:
    """Servers that run, one of a kind, and rclone's configuration that reaches them; each place in them is fresh."""

    folder: Path
    running: dict[str, Server] = field(default_factory=dict)
    made: int = 0

    @property
    def config(self) -> Path:
        """The configuration file of rclone."""
        return self.folder / "rclone.conf"

    def server(self, kind: str) -> Server:
        """The server of a kind, started when first asked for."""
        if kind not in self.running:
            server = SERVERS[kind](self.folder / kind)
            server.start()
            self.running[kind] = server
            self.add(kind, server.options)
        return self.running[kind]

    def add(self, name: str, options: dict[str, str]) -> None:
        """Add a remote to rclone's configuration."""
        lines = [f"[{name}]", *(f"{key} = {value}" for key, value in options.items())]
        with self.config.open("a", encoding="utf-8", newline="\n") as file:
            file.write("\n".join(lines) + "\n")

    def place(self, kind: str) -> str:
        """A fresh `NAME:PATH` of a kind: `local`, `s3`, `crypt`, `webdav`, `sftp`, `smb`."""
        self.made += 1
        name = f"place{self.made}"
        if kind == "local":
            self.add(name, {"type": "alias", "remote": str(self.folder / "local" / name)})
            return f"{name}:"
        server = self.server("s3" if kind == "crypt" else kind)
        if kind == "crypt":
            under = f"s3:{server.prefix}{name}"
            secrets = {"password": obscured("one"), "password2": obscured("two")}
            self.add(name, {"type": "crypt", "remote": under, **secrets})
            return f"{name}:"
        return f"{kind}:{server.prefix}{name}"

    def close(self) -> None:
        """End all servers."""
        for server in self.running.values():
            server.stop()


def entry_of(remote: str, config: Path, *, name: str = "nas", **more: Any) -> TargetSettings:
    """The settings of a remote target."""
    return TargetSettings.model_validate(
        {"id": name, "kind": "remote", "remote": remote, "rclone_config": config, "timeout": "60 s", **more}
    )


def remote_target(remote: str, config: Path, state: Path, *, prepare: bool = True, **more: Any) -> RemoteTarget:
    """A remote target, its place made ready."""
    entry = entry_of(remote, config, **more)
    if prepare:
        prepare_remote(entry, state, clock=ManualClock())
    place = Place(entry.id, kind="remote", medium="cloud", site="cloud", concurrency=entry.concurrency)
    return RemoteTarget(place, entry, state)
