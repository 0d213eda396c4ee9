"""What `tape-receiver check` looks at: configuration, keys, disks, targets, catalog and agents."""

from collections.abc import Iterator

from receiver.catalog import Catalog
from receiver.settings import ReceiverSettings
from receiver.targets.opening import open_targets
from tape.checks import Finding
from tape.clock import SYSTEM
from tape.durable import DISK
from tape.errors import HometapeError, StoreLocked
from tape.keys import HOST_KEY, RECEIPT_KEY, load_receipt_key, load_ssh_key, public_line, receipt_line


def examine(settings: ReceiverSettings) -> list[Finding]:
    """Every finding."""
    findings = [Finding("configuration", 0, f"receiver {settings.name}, state {settings.state}")]
    return [*findings, *_keys(settings), *_disks(settings), *_catalog(settings), *_agents(settings)]


def _keys(settings: ReceiverSettings) -> Iterator[Finding]:
    try:
        yield Finding("host key", 0, public_line(load_ssh_key(settings.state / HOST_KEY)))
    except HometapeError as error:
        yield Finding("host key", 2, str(error), error.hint)
    try:
        yield Finding("receipt key", 0, receipt_line(load_receipt_key(settings.state / RECEIPT_KEY)))
    except HometapeError as error:
        yield Finding("receipt key", 2, str(error), error.hint)


def _disks(settings: ReceiverSettings) -> Iterator[Finding]:
    try:
        probe = DISK.temp_path(settings.state)
        DISK.write_new(probe, b"probe")
        DISK.remove(probe)
        yield Finding("state", 0, f"{settings.state} can be written")
    except HometapeError as error:
        yield Finding("state", 2, str(error), "run `tape-receiver init`, or correct `state`")
    for target in open_targets(settings):
        what, place = f"target {target.id}", target.place
        state = target.state()
        free = target.free() if state.readable else None
        room = "" if free is None else f", {free / 1e9:.1f} GB free"
        if state.writable:
            yield Finding(what, 0, f"ready on {place.medium} at {place.site}{room}")
        else:
            yield Finding(what, 2 if place.home else 1, f"{state.condition.value}: {state.reason}", state.hint)
    media = {target.medium for target in settings.target}
    sites = {target.site for target in settings.target}
    if len(settings.target) < 3 or len(media) < 2 or len(sites) < 2:
        text = f"{len(settings.target)} targets on {len(media)} media at {len(sites)} sites: less than 3-2-1"
        yield Finding("policy", 1, text, "add targets on another medium and at another site")
    else:
        yield Finding("policy", 0, f"{len(settings.target)} targets on {len(media)} media at {len(sites)} sites")


def _catalog(settings: ReceiverSettings) -> Iterator[Finding]:
    if not (settings.state / "catalog.db").exists():
        yield Finding("catalog", 0, "none yet; it is made at the first start, from what the home archive holds")
        return
    try:
        with Catalog.open(settings.state, clock=SYSTEM, read_only=True) as catalog:
            streams = catalog.streams()
            yield Finding("catalog", 0, f"{len(streams)} streams, {sum(s.segments for s in streams):,} segments")
            for incident in catalog.incidents(limit=10):
                yield Finding("incident", 2, incident.text, "see docs/incidents.md")
    except StoreLocked as error:
        yield Finding("catalog", 1, str(error), error.hint)
    except HometapeError as error:
        yield Finding("catalog", 2, str(error), error.hint)


def _agents(settings: ReceiverSettings) -> Iterator[Finding]:
    if not settings.agent:
        yield Finding("agents", 1, "none configured: nobody can deliver", "paste what `tape-agent init` prints")
    for entry in settings.agent:
        what = f"agent {entry.name}"
        if entry.dropbox is not None:
            missing = not entry.dropbox.is_dir()
            yield Finding(what, 2 if missing else 0, f"drop box {entry.dropbox}{' is not there' if missing else ''}")
        elif not entry.key:
            yield Finding(what, 2, "has neither a key nor a drop box", "paste what `tape-agent init` printed")
        else:
            yield _key_of(what, entry.key)
    if settings.listen.enabled and settings.listen.host in ("127.0.0.1", "::1", "localhost"):
        yield Finding("listen", 0, f"{settings.listen.host}:{settings.listen.port}, reachable from this machine only")


def _key_of(what: str, text: str) -> Finding:
    import asyncssh

    try:
        asyncssh.import_public_key(text)
    except asyncssh.KeyImportError as error:
        return Finding(what, 2, f"its key can't be read: {error}", "paste what `tape-agent init` printed")
    return Finding(what, 0, "key pinned")
