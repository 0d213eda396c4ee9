"""Changes of receiver.toml by command: targets added and taken out, every other line left as it was.

The text that would result is read and judged first, as any command does it; only then does it replace the
file, durably and all or nothing. What it was before stays beside it as `receiver.toml.bak`.
"""

import contextlib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tomlkit
from filelock import FileLock, Timeout
from tomlkit.items import Array

from receiver.settings import ReceiverSettings
from tape.durable import DISK, Disk, named
from tape.errors import AlreadyThere, ConfigError, NotFound, StoreLocked
from tape.settings import parse

BACKUP = ".bak"
_LOCK = ".lock"
_PATIENCE = 10.0
_TABLE = "target"
_HEADER = re.compile(r"[ \t]*\[\[[ \t]*(?:target|\"target\"|'target')[ \t]*\]\]")
_ANY_HEADER = re.compile(r"[ \t]*\[")
Plain = dict[str, Any]


def add_target(
    config: Path, values: Mapping[str, Any], *, dry_run: bool = False, disk: Disk = DISK
) -> ReceiverSettings:
    """Add a `[[target]]` with these options (those that are None are left out); the settings as they are then.

    Raises AlreadyThere if there is a target of that id, ConfigError if the result would not load.
    """
    given = {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}
    entry = {key: value for key, value in given.items() if value is not None}

    def change(text: str, plain: Plain) -> Iterator[str]:
        if any(one.get("id") == entry.get("id") for one in plain.get(_TABLE, [])):
            raise AlreadyThere(f"{config} has a target {entry.get('id')!r} already", hint="choose another id")
        plain.setdefault(_TABLE, []).append(dict(entry))
        yield _with_block(text, entry)
        yield _with_entry(text, entry)

    return _edit(config, change, dry_run=dry_run, disk=disk)


def remove_target(config: Path, target: str, *, dry_run: bool = False, disk: Disk = DISK) -> ReceiverSettings:
    """Take a target out; the settings as they are then. Raises NotFound, ConfigError if the result would not load."""

    def change(text: str, plain: Plain) -> Iterator[str]:
        there = [one.get("id") for one in plain.get(_TABLE, [])]
        if target not in there:
            raise NotFound(f"{config} has no target {target!r}", hint=f"targets are {', '.join(map(str, there))}")
        number = there.index(target)
        del plain[_TABLE][number]
        yield from _without_block(text, number)
        yield _without_entry(text, number)

    return _edit(config, change, dry_run=dry_run, disk=disk)


def _edit(
    config: Path, change: Callable[[str, Plain], Iterator[str]], *, dry_run: bool, disk: Disk
) -> ReceiverSettings:
    """Apply the first of the texts a change offers that says exactly what the change made of the plain content."""
    path = config.resolve()  # a link stays a link
    with _alone(path):
        with named(path, "reading"):
            try:
                old = path.read_bytes()
            except FileNotFoundError:
                raise ConfigError(f"{config}: no such configuration file", hint="run `init` to write one") from None
        text = _text(old, config)
        parse(ReceiverSettings, text, config)  # a file that is wrong already is told as it is
        wanted = tomllib.loads(text)
        fitting = (new for new in change(text, wanted) if _says(new, wanted))
        new = next(fitting, None)
        if new is None:
            raise ConfigError(f"{config}: its [[target]] entries are written in a way that can't be edited by command")
        settings = parse(ReceiverSettings, new, config)
        if not dry_run:
            disk.replace(path.with_name(path.name + BACKUP), old, like=path)
            disk.replace(path, new.encode("utf-8"), like=path)
    return settings


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One command at a time. The lock file stays, so that nobody waits at one that is gone."""
    lock = FileLock(path.with_name(path.name + _LOCK), mode=0o600)
    with named(path, "locking"):
        try:
            lock.acquire(timeout=_PATIENCE)
        except Timeout:
            raise StoreLocked(f"{path} is being changed by another command", hint="try again when it is done") from None
    try:
        yield
    finally:
        lock.release()


def _text(data: bytes, config: Path) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{config}: can't be read: {error}") from None


def _says(text: str, wanted: Plain) -> bool:
    try:
        return bool(tomllib.loads(text) == wanted)
    except tomllib.TOMLDecodeError:
        return False


# ------------------------------------------------------------- [[target]] tables: whole lines come and go


def _with_block(text: str, entry: Plain) -> str:
    """The text with one more table at its end, in the line ends that it has."""
    table = tomlkit.table()
    table.update(entry)
    tables = tomlkit.aot()
    tables.append(table)
    block = tomlkit.dumps({_TABLE: tables}).strip() + "\n"
    end = "\r\n" if "\r\n" in text else "\n"
    return text.rstrip() + (f"\n\n{block}" if text.strip() else block).replace("\n", end)


def _without_block(text: str, number: int) -> Iterator[str]:
    """The text without the lines of one table, for each pair of lines that may be its head and the next one's."""
    lines = text.splitlines(keepends=True)
    heads = [at for at, line in enumerate(lines) if _ANY_HEADER.match(line)]
    ours = [at for at in heads if _HEADER.match(lines[at])]
    for head in [*ours[number : number + 1], *ours]:  # what looks like one may stand in a string
        for after in [*(at for at in heads if at > head), len(lines)]:
            kept = [*lines[: _start(lines, head)], *lines[_end(lines, head, after) :]]
            yield "".join(kept).rstrip() + ("\r\n" if "\r\n" in text else "\n")


def _start(lines: list[str], head: int) -> int:
    """Where a table begins: with the comments right above its head, unless they belong to what is above them."""
    start = head
    while start and lines[start - 1].lstrip().startswith("#"):
        start -= 1
    return start if not start or not lines[start - 1].strip() else head


def _end(lines: list[str], head: int, after: int) -> int:
    """Where it ends: comments that stand apart from it, before the next head, stay."""
    last = max(at for at in range(head, after) if at == head or _is_content(lines[at]))
    end = last + 1
    while end < after and lines[end].lstrip().startswith("#"):
        end += 1
    if end == after and after < len(lines):  # no blank line between: who knows whose they are
        end = last + 1
    while end < after and not lines[end].strip():
        end += 1
    return end


def _is_content(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


# -------------------------------------------------------------------------- `target = [{...}, ...]`


def _with_entry(text: str, entry: Plain) -> str:
    document = tomlkit.parse(text)
    found = document.get(_TABLE)
    if isinstance(found, Array):
        inline = tomlkit.inline_table()
        inline.update(entry)
        found.append(inline)
    return tomlkit.dumps(document)


def _without_entry(text: str, number: int) -> str:
    document = tomlkit.parse(text)
    found = document.get(_TABLE)
    if isinstance(found, Array):
        del found[number]
    return tomlkit.dumps(document)
