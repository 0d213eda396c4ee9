"""Making remotes in rclone's own configuration, which is where their secrets live.

rclone-python creates a remote from its open options. It builds a shell string of them, so they are held to a
narrow alphabet first, and neither the program's path nor the configuration's is part of the string: they come from the
environment. Secrets would stand in the process list that way, for `rclone config create` takes them as arguments only;
they are written into the file here, passwords obscured through rclone's standard input, and the file is the owner's
alone.
"""

import logging
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from receiver.settings import check_remote
from receiver.targets.rclone import Patience, Rclone, environment, find_rclone
from tape.durable import DISK, Disk, named
from tape.errors import AlreadyThere, ConfigError, UsageError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}")
_KEY = re.compile(r"[a-z][a-z0-9_]{0,62}")
_VALUE = re.compile(r"[A-Za-z0-9_.,:;/@+=~ -]{0,500}")
_LOCKED = b"RCLONE_ENCRYPT_V"
_QUICK = Patience(idle=30, whole=30)
PRIVATE = 0o600


def config_file(given: Path | None) -> Path:
    """The configuration file that rclone uses; raises ConfigError."""
    if given is not None:
        return given.absolute()
    ended = Rclone("rclone").run("config", "file", patience=_QUICK)
    lines = ended.out.decode("utf-8", "replace").split("\n")
    path = next((line.strip() for line in reversed(lines) if line.strip()), "")
    if ended.code != 0 or not path:
        raise ConfigError("rclone does not say where its configuration is", hint="name it with --rclone-config")
    return Path(path)


def create(
    name: str,
    kind: str,
    options: Mapping[str, str],
    secrets: Mapping[str, str],
    *,
    obscured: frozenset[str] = frozenset(),
    config: Path | None = None,
    disk: Disk = DISK,
) -> Path:
    """Make a remote; `obscured`: secrets that rclone keeps obscured. The configuration file it went to.

    Raises UsageError for what can't be put into a command, AlreadyThere, ConfigError.
    """
    for text, form in ((name, _NAME), (kind, _KEY), *((key, _KEY) for key in (*options, *secrets))):
        if not form.fullmatch(text):
            raise UsageError(f"{text!r} can't be the name of a remote or of an option of one")
    for key, value in options.items():
        if not _VALUE.fullmatch(value):
            raise UsageError(
                f"{key}: {value!r} has characters that are not passed to rclone",
                hint=f"make the remote with `rclone config`, then add it with --remote {name}:PATH",
            )
    for key, value in secrets.items():
        if not value or any(ord(letter) < 32 for letter in value):
            raise UsageError(f"{key} is empty or has control characters")
    path = config_file(config)
    _check_plain(path)
    with named(path.parent, "creating folder"):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    hidden = {key: obscure(value) if key in obscured else value for key, value in secrets.items()}
    _create_open(name, kind, options, path)
    _add_secrets(path, name, hidden, disk)
    return path


def forget(name: str, *, config: Path | None = None) -> None:
    """Take a remote out of the configuration again; raises ConfigError."""
    ended = Rclone(name, config=config).run("config", "delete", name, patience=_QUICK)
    if ended.code != 0:
        raise ConfigError(f"rclone still has the remote {name}", hint=f"rclone config delete {name}")


def _check_plain(path: Path) -> None:
    with named(path, "reading"):
        head = path.read_bytes() if path.exists() else b""
    if _LOCKED in head[:200]:
        raise ConfigError(
            f"{path} is encrypted: remotes are made in it with `rclone config`",
            hint="then add it with --remote NAME:PATH; the service needs RCLONE_CONFIG_PASS in its environment",
        )


def _create_open(name: str, kind: str, options: Mapping[str, str], path: Path) -> None:
    """By rclone-python: only fixed words and values of the narrow alphabet go into its shell string."""
    from rclone_python import rclone

    rclone.set_log_level(logging.ERROR)
    with _as_rclone_python_finds_it(path):
        try:
            if rclone.check_remote_existing(name):
                raise AlreadyThere(
                    f"rclone has a remote {name!r} already",
                    hint=f"use it with --remote {name}:PATH, or choose another id",
                )
            rclone.create_remote(name, kind, **dict(options))
        except ChildProcessError as error:
            why = str(getattr(error, "error_msg", "")).strip().splitlines()
            raise ConfigError(
                f"rclone could not make the remote {name!r}: {why[-1] if why else 'no reason given'}"
            ) from None
        except OSError as error:
            raise ConfigError(f"rclone could not be started: {error}") from error


@contextmanager
def _as_rclone_python_finds_it(config: Path) -> Iterator[None]:
    """The program first on PATH, the configuration in the environment: neither becomes part of a shell string."""
    before = dict(os.environ)
    os.environ.update(environment({"RCLONE_CONFIG": str(config)}))
    os.environ["PATH"] = os.pathsep.join([str(find_rclone().parent), before.get("PATH", os.defpath)])
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _add_secrets(path: Path, name: str, secrets: Mapping[str, str], disk: Disk) -> None:
    with named(path, "reading"):
        lines = path.read_text(encoding="utf-8").splitlines()
    head = lines.index(f"[{name}]")
    lines[head + 1 : head + 1] = [f"{key} = {value}" for key, value in secrets.items()]
    disk.replace(path, ("\n".join(lines) + "\n").encode(), like=path)
    with named(path, "setting the mode of"):
        path.chmod(PRIVATE)


def obscure(password: str) -> str:
    """A password as rclone keeps it; it goes through standard input, never through the process list."""
    try:
        done = subprocess.run(
            [str(find_rclone()), "obscure", "-"],
            input=password.encode(),
            capture_output=True,
            check=True,
            timeout=30,
            env=environment(),
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError("rclone could not obscure a password") from error
    return done.stdout.decode("ascii", "replace").strip()


def check_place(text: str) -> str:
    """`NAME:PATH`, as the settings take it; raises UsageError."""
    try:
        return check_remote(text)
    except ValueError as error:
        raise UsageError(str(error)) from None
