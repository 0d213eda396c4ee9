"""What `tape-agent check` looks at: configuration, keys, disk, sources, and a canary the whole way home."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

from agent.canary import fly
from agent.login import pinned
from agent.settings import AgentSettings
from agent.sources.scan import Patterns
from tape.checks import Finding
from tape.clock import SYSTEM
from tape.durable import DISK
from tape.errors import ConfigError, HometapeError
from tape.filenames import archive_suffix
from tape.keys import load_ssh_key, public_line
from tape.layout import Format, detect
from tape.receipt import load_public

SAMPLE = 1 << 20


def examine(settings: AgentSettings, *, wait_s: float, offline: bool) -> list[Finding]:
    """Every finding; the canary flies unless `offline` or a key is missing, and waits `wait_s` for its receipt."""
    findings = [Finding("configuration", 0, f"agent {settings.agent}, state {settings.state}")]
    findings += [*_keys(settings), *_disk(settings), *_sources(settings)]
    if not offline and not any(f.level == 2 and f.what in ("host key", "agent key") for f in findings):
        findings += _canary(settings, wait_s)
    return findings


def _keys(settings: AgentSettings) -> Iterator[Finding]:
    try:
        yield Finding("agent key", 0, public_line(load_ssh_key(settings.key_path)))
    except ConfigError as error:
        yield Finding("agent key", 2, str(error), error.hint)
    try:
        yield Finding("host key", 0, f"{len(pinned(settings.receiver.host_key))} pinned")
    except HometapeError as error:
        yield Finding("host key", 2, str(error), "paste `receiver.host_key` as `tape-receiver check` prints it")
    try:
        load_public(settings.receiver.receipt_key)
        yield Finding("receipt key", 0, "pinned")
    except HometapeError as error:
        yield Finding("receipt key", 2, str(error), "without it nothing is ever freed; `tape-receiver check` prints it")


def _disk(settings: AgentSettings) -> Iterator[Finding]:
    try:
        DISK.make_dirs(settings.state)
        probe = DISK.temp_path(settings.state)
        DISK.write_new(probe, b"probe")
        DISK.remove(probe)
        free = shutil.disk_usage(settings.state).free
    except (HometapeError, OSError) as error:
        yield Finding("state", 2, str(error), "give the service a folder it may write to")
        return
    short = free < settings.spool.keep_free
    text = f"{settings.state}: {free / 1e9:.1f} GB free, spool up to {settings.spool.max_bytes / 1e9:.1f} GB"
    yield Finding("state", 2 if short else 0, text, "free some space, or lower spool.keep_free" if short else "")


def _sources(settings: AgentSettings) -> Iterator[Finding]:
    if not settings.source:
        yield Finding("sources", 1, "none configured: nothing will be read", "add a [[source]]; see configs/agent.toml")
    for source in settings.source:
        what = f"source {source.name}"
        files = sorted(Patterns(source.paths, source.exclude).scan().files)
        if not files:
            text = f"no file matches {', '.join(source.paths)}"
            yield Finding(what, 1, text, "fine if the bot has not started; else correct `paths`")
            continue
        unreadable = 0
        for path in files:
            try:
                with Path(path).open("rb") as file:
                    file.read(1)
            except OSError:
                unreadable += 1
        yield Finding(what, 0, f"{len(files)} files, e.g. {files[0]}: {_looks_like(files[0], source.format)}")
        if unreadable:
            yield Finding(what, 2, f"{unreadable} files can't be read", "let the service's user read them")


def _looks_like(path: str, said: str) -> str:
    if archive_suffix(path):
        return "compressed"
    try:
        with Path(path).open("rb") as file:
            sample = file.read(SAMPLE)
    except OSError as error:
        return f"can't be read: {error.strerror}"
    whole = sample[: sample.rfind(b"\n") + 1]
    if not whole:
        return "no complete line yet"
    layout = detect(whole, Format(said), at_start=True, prior=None)
    return f"{layout.shape.value}, {len(layout.columns)} columns" if layout.columns else layout.shape.value


def _canary(settings: AgentSettings, wait: float) -> Iterator[Finding]:
    try:
        flight = asyncio.run(fly(settings, settings.key_path, clock=SYSTEM, wait_s=wait, said=lambda _: None))
    except HometapeError as error:
        yield Finding("canary", 2, str(error), error.hint)
        return
    yield Finding("receiver", 0, f"{settings.receiver.host}:{settings.receiver.port} ({flight.server})")
    receipt = flight.receipt
    if receipt is None:
        yield Finding("canary", 1, f"delivered in {flight.uploaded_s:.2f} s; no receipt key to read its receipt with")
    elif receipt.refused:
        yield Finding("canary", 2, f"refused: {receipt.refused[0][1]}", "see `tape-receiver status`")
    elif not receipt.safe:
        text = f"delivered in {flight.uploaded_s:.2f} s and held at home, but not safe after {wait:.0f} s"
        yield Finding("canary", 1, text, "a target is behind or absent: `tape-receiver status`")
    else:
        yield Finding("canary", 0, f"delivered in {flight.uploaded_s:.2f} s, safe after {flight.receipt_s:.2f} s")
