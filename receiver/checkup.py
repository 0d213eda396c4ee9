"""What `tape-receiver check` looks at: configuration, keys, state, targets, policy, catalog and agents."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from receiver.catalog import Catalog
from receiver.policy import check_policy, rules_of
from receiver.report_policy import rule_text
from receiver.report_targets import REMOTE, REMOVABLE, Seen, ask_all, hanging, look_at
from receiver.settings import ReceiverSettings
from receiver.targets.contract import MARKER, Condition, Place, State, Target
from receiver.targets.medium import takes_writes
from receiver.targets.opening import open_targets
from tape.checks import Finding
from tape.clock import SYSTEM
from tape.durable import DISK
from tape.errors import ConfigError, HometapeError, StoreLocked
from tape.keys import HOST_KEY, RECEIPT_KEY, load_receipt_key, load_ssh_key, public_line, receipt_line
from tape.sayings import duration, plural, size

ANSWER_WITHIN, REMOTE_WITHIN = 10.0, 60.0  # seconds


def examine(settings: ReceiverSettings) -> list[Finding]:
    """Every finding."""
    findings = [Finding("configuration", 0, f"receiver {settings.name}, state {settings.state}")]
    targets = (*_targets(settings), *_policy(settings))
    return [*findings, *_keys(settings), *_state(settings), *targets, *_catalog(settings), *_agents(settings)]


def _keys(settings: ReceiverSettings) -> Iterator[Finding]:
    try:
        yield Finding("host key", 0, public_line(load_ssh_key(settings.state / HOST_KEY)))
    except HometapeError as error:
        yield Finding("host key", 2, str(error), error.hint)
    try:
        yield Finding("receipt key", 0, receipt_line(load_receipt_key(settings.state / RECEIPT_KEY)))
    except HometapeError as error:
        yield Finding("receipt key", 2, str(error), error.hint)


def _state(settings: ReceiverSettings) -> Iterator[Finding]:
    try:
        probe = DISK.temp_path(settings.state)
        DISK.write_new(probe, b"probe")
        DISK.remove(probe)
        yield Finding("state", 0, f"{settings.state} can be written")
    except HometapeError as error:
        yield Finding("state", 2, str(error), "run `tape-receiver init`, or correct `state`")


@dataclass(frozen=True, slots=True)
class _Looked:
    """A target as it was found: see `Seen`; `error` from its marker; where it lies, whether that takes writes."""

    seen: Seen
    error: HometapeError | None = None
    root: Path | None = None
    writes: bool = True


def _targets(settings: ReceiverSettings) -> Iterator[Finding]:
    """Each target: is it there, mounted, the right one, writable; of a remote: does it answer and let us in."""
    try:
        targets = open_targets(settings)
    except ConfigError as error:
        yield Finding("targets", 2, str(error), error.hint)
        return
    near = [target for target in targets if target.place.kind != REMOTE]
    far = [target for target in targets if target.place.kind == REMOTE]
    found = ask_all(near, _look_at, within=ANSWER_WITHIN) | ask_all(far, _look_at, within=REMOTE_WITHIN)
    last = _last_seen(settings)
    for target in targets:
        within = REMOTE_WITHIN if target.place.kind == REMOTE else ANSWER_WITHIN
        yield _target(target, found.get(target.id) or _Looked(Seen(hanging(within))), last.get(target.id))
    yield from _shared_fates(targets, found)


def _look_at(target: Target) -> _Looked:
    seen = look_at(target)
    if not seen.state.readable:
        return _Looked(seen)
    try:
        target.instance()
    except HometapeError as error:
        return _Looked(seen, error)
    marker = target.local(MARKER)
    if marker is None:
        return _Looked(seen)
    return _Looked(seen, None, marker.parent, not seen.state.writable or takes_writes(marker.parent, DISK))


def _target(target: Target, looked: _Looked, last_ns: int | None) -> Finding:
    place, state = target.place, looked.seen.state
    what, bad = f"target {target.id}", 2 if place.home else 1
    if place.kind == REMOVABLE and state.condition is Condition.ABSENT:
        return _away(what, place, state, last_ns)
    if not state.writable:
        return Finding(what, bad, f"{state.condition.value}: {state.reason}", state.hint)
    if looked.error is not None:
        return Finding(what, bad, f"its marker can't be read: {looked.error}", looked.error.hint)
    if not looked.writes:
        hint = "let the user that runs the receiver write there"
        return Finding(what, bad, f"{looked.root} takes no writes from this user", hint)
    room = "" if looked.seen.free is None else f", {size(looked.seen.free)} free"
    where = "" if looked.root is None else f" in {looked.root}"
    return Finding(what, 0, f"{place.kind}{where}, ready on {place.medium} at {place.site}{room}")


def _away(what: str, place: Place, state: State, last_ns: int | None) -> Finding:
    """A removable disk that is not plugged in is where it belongs, as long as it comes in time."""
    if last_ns is None:
        return Finding(what, 0, f"{place.kind}, {state.reason}; never seen yet", state.hint)
    gone = (SYSTEM.now_ns() - last_ns) / 1e9
    text = f"{place.kind}, away; last seen {duration(gone)} ago, due every {duration(place.max_age)}"
    return Finding(what, int(gone > place.max_age), text, state.hint)


def _shared_fates(targets: Sequence[Target], found: Mapping[str, _Looked]) -> Iterator[Finding]:
    """Two media that lie on one disk are one."""
    known: dict[int, Target] = {}
    for target in targets:
        looked = found.get(target.id)
        if looked is None or looked.root is None:
            continue
        try:
            device = looked.root.stat().st_dev
        except OSError:
            continue
        other = known.setdefault(device, target)
        if other.place.medium != target.place.medium:
            media = f"{other.place.medium!r} and {target.place.medium!r}"
            text = f"lies on the same file system as target {other.id}, so {media} are one medium"
            yield Finding(f"target {target.id}", 1, text, "give both the same `medium`, or move one to another disk")


def _last_seen(settings: ReceiverSettings) -> dict[str, int | None]:
    """When each target was last there, as the catalog knows it."""
    try:
        with Catalog.open(settings.state, clock=SYSTEM, read_only=True) as catalog:
            return {known.name: known.seen_ns for known in catalog.targets()}
    except HometapeError:  # told by the finding about the catalog
        return {}


def _policy(settings: ReceiverSettings) -> Iterator[Finding]:
    try:
        check_policy(settings)
    except ConfigError as error:
        yield Finding("policy", 2, str(error), error.hint)
        return
    for one in rules_of(settings).streams:
        text = f"{rule_text(one.rule)}; the server may free a segment at {rule_text(one.release)}"
        yield Finding("policy" if one.match == "*" else f"policy {one.match}", 0, text)
    media = {target.medium for target in settings.target}
    sites = {target.site for target in settings.target}
    on = "1 medium" if len(media) == 1 else f"{len(media)} media"
    text = f"{plural(len(settings.target), 'target')} on {on} at {plural(len(sites), 'site')}"
    if len(settings.target) < 3 or len(media) < 2 or len(sites) < 2:
        yield Finding("3-2-1", 1, f"{text}: less than 3-2-1", "add targets on another medium and at another site")
    else:
        yield Finding("3-2-1", 0, text)


def _catalog(settings: ReceiverSettings) -> Iterator[Finding]:
    if not (settings.state / "catalog.db").exists():
        yield Finding("catalog", 0, "none yet; it is made at the first start, from what the home archive holds")
        return
    try:
        with Catalog.open(settings.state, clock=SYSTEM, read_only=True) as catalog:
            streams = catalog.streams()
            yield Finding(
                "catalog", 0, f"{plural(len(streams), 'stream')}, {plural(sum(s.segments for s in streams), 'segment')}"
            )
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
