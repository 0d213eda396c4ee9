"""The add-only view of one session: what may be asked, and what each request does.

Allowed: create an upload exclusively, write it from start to end, close it, rename it to its own name
(which commits it), and read receipts and pages of the inventory, which are made when they are opened.
Folders are virtual and look alike whether or not anything is stored in them; a delivered file does not
exist here. Whatever is not in the table is not supported.

A request is answered at once where nothing has to be waited for; else its method gives an awaitable, and
the requests behind it go on meanwhile: order matters per upload, and each upload keeps its own.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from receiver.ingress import wire
from receiver.ingress.inbox import WRITE_COST, Arrival, Inbox
from receiver.ingress.limits import Allowance
from receiver.ingress.names import Kind, Spot, locate
from receiver.model import Answer, Committer, Outcome, Upload
from tape.clock import Clock
from tape.errors import HometapeError, NameRefused
from tape.log import get_logger
from tape.names import BundleName

_log = get_logger(__name__)

Reply = bytes | Awaitable[bytes]

EXTENSIONS = [b"posix-rename@openssh.com", b"fsync@openssh.com", b"limits@openssh.com"]
_HARMLESS = wire.ATTR_MODE | wire.ATTR_TIMES
_MAX_READ = 4
_MAX_FAILED = 64
_RETRY = Outcome(Answer.RESEND, "the receiver could not store it")


@dataclass(slots=True)
class Serving:
    """What all sessions of one agent share."""

    agent: str
    inbox: Inbox
    committer: Committer
    clock: Clock
    allowance: Allowance
    max_handles: int
    stored: Callable[[str], int]


class Host(Protocol):
    """The session a view belongs to: told what is under way, so that it can slow its client down."""

    def queued(self, size: int) -> None:
        """So many more bytes wait for the disk (fewer, if negative)."""

    def refused(self, what: str) -> None:
        """A request was refused."""


class View:
    """One session's uploads and handles."""

    def __init__(self, serving: Serving, host: Host) -> None:
        self._serving = serving
        self._host = host
        self._uploads: dict[str, Arrival] = {}  # by the path of the .part
        self._failed: dict[str, str] = {}  # closed in failure; why, for the rename that may follow
        self._handles: dict[bytes, tuple[str, Arrival]] = {}
        self._reading: dict[bytes, bytes] = {}  # receipts and pages that are open
        self._making = 0  # more of them, not made yet
        self._last_handle = 0
        self._ended = False
        self._requests: dict[int, Callable[[int, wire.Fields], Reply]] = {
            wire.OPEN: self._open,
            wire.CLOSE: self._close,
            wire.READ: self._read,
            wire.STAT: self._stat,
            wire.LSTAT: self._stat,
            wire.FSTAT: self._fstat,
            wire.SETSTAT: self._setstat,
            wire.FSETSTAT: self._fsetstat,
            wire.MKDIR: self._mkdir,
            wire.REALPATH: self._realpath,
            wire.RENAME: self._rename,
        }
        self._extended: dict[bytes, Callable[[int, wire.Fields], Reply]] = {
            b"posix-rename@openssh.com": self._rename,
            b"fsync@openssh.com": self._fsync,
            b"limits@openssh.com": self._limits,
        }

    def answer(self, packet: memoryview) -> Reply:
        """The answer to one request, from its type on; raises LinkError if it can't be read."""
        fields = wire.Fields(packet, 1)
        kind, number = packet[0], fields.u32()
        if kind == wire.WRITE:
            return self._write(number, fields)
        name = fields.string() if kind == wire.EXTENDED else b""
        method = self._extended.get(name) if kind == wire.EXTENDED else self._requests.get(kind)
        if method is None:
            return self._no(number, wire.OP_UNSUPPORTED, "not supported", f"request {kind} {name[:40]!r}")
        return method(number, fields)

    def end(self) -> None:
        """The session is over: what was not delivered is deleted."""
        self._ended = True
        for arrival in self._uploads.values():
            self._drop(arrival)
        self._uploads.clear()
        self._handles.clear()
        self._reading.clear()

    # ------------------------------------------------------------------ uploads

    def _open(self, number: int, fields: wire.Fields) -> Reply:
        raw, flags = fields.string(), fields.u32()
        fields.attrs()
        fields.end()
        spot = _spot(raw)
        if spot is not None and spot.kind in _READABLE and flags == wire.FLAG_READ:
            return self._open_readable(number, spot)
        wanted = wire.FLAG_WRITE | wire.FLAG_CREATE
        allowed = wanted | wire.FLAG_TRUNCATE | wire.FLAG_EXCLUSIVE
        if spot is None or spot.kind is not Kind.PART or flags & wanted != wanted or flags & ~allowed:
            return self._no(number, wire.PERMISSION_DENIED, _ONLY_PARTS, f"open {raw[:120]!r} {flags:#x}")
        earlier = self._uploads.get(spot.path)
        if earlier is not None and not earlier.closed:
            return self._no(number, wire.FAILURE, "that upload exists already", f"open again {spot.path}")
        if earlier is not None:  # an attempt that was closed and not delivered: this one starts anew
            self._drop(self._uploads.pop(spot.path))
        if len(self._uploads) + len(self._reading) >= self._serving.max_handles:
            return self._no(number, wire.FAILURE, "resend: too many uploads at a time", "open: too many")
        why = self._serving.allowance.begin(self._serving.stored(self._serving.agent))
        if why:
            return self._no(number, wire.FAILURE, why, "open: quota")
        bundle = spot.name if isinstance(spot.name, BundleName) else None
        arrival = self._serving.inbox.arrive(lambda size: self._host.queued(-size), bundle)
        self._uploads[spot.path] = arrival
        self._failed.pop(spot.path, None)
        handle = self._new_handle()
        self._handles[handle] = (spot.path, arrival)
        return wire.handle(number, handle)

    def _write(self, number: int, fields: wire.Fields) -> Reply:
        handle, offset, content = fields.string(), fields.u64(), fields.view()
        fields.end()
        found = self._handles.get(handle)
        if found is None:
            return self._no(number, wire.FAILURE, _NO_HANDLE, "write: no such handle")
        arrival = found[1]
        if offset != arrival.size:
            arrival.fail("refused: an upload is written from start to end, without gaps")
        elif len(content) > wire.MAX_WRITE:
            arrival.fail(f"refused: a write holds {wire.MAX_WRITE} bytes at most")
        elif not arrival.failed:
            arrival.fail(self._serving.allowance.take(len(content), arrival.size))
        if arrival.failed:
            return self._no(number, wire.FAILURE, arrival.failed, f"write: {arrival.failed}")
        if len(content):
            self._host.queued(len(content) + WRITE_COST)
            arrival.write(content)
        return wire.ok(number)

    def _close(self, number: int, fields: wire.Fields) -> Reply:
        handle = fields.string()
        fields.end()
        if self._reading.pop(handle, None) is not None:
            return wire.ok(number)
        found = self._handles.pop(handle, None)
        if found is None:
            return self._no(number, wire.FAILURE, _NO_HANDLE, "close: no such handle")
        path, arrival = found
        return self._closed(number, path, arrival, arrival.finish())

    async def _closed(self, number: int, path: str, arrival: Arrival, finished: Awaitable[str]) -> bytes:
        why = await finished
        if not why:
            return wire.ok(number)
        if self._uploads.get(path) is arrival:
            del self._uploads[path]
            self._drop(arrival)
            self._failed[path] = why
            if len(self._failed) > _MAX_FAILED:
                del self._failed[next(iter(self._failed))]
        return self._no(number, wire.FAILURE, why, f"close: {why}")

    def _fsync(self, number: int, fields: wire.Fields) -> Reply:
        found = self._handles.get(fields.string())
        fields.end()
        if found is None:
            return self._no(number, wire.FAILURE, _NO_HANDLE, "fsync: no such handle")
        return self._synced(number, found[1].sync())

    async def _synced(self, number: int, synced: Awaitable[str]) -> bytes:
        why = await synced
        return self._no(number, wire.FAILURE, why, f"fsync: {why}") if why else wire.ok(number)

    def _rename(self, number: int, fields: wire.Fields) -> Reply:
        source, target = fields.string(), fields.string()
        fields.end()
        part, final = _spot(source), _spot(target)
        if (
            part is None
            or final is None
            or (part.kind, final.kind) != (Kind.PART, Kind.FINAL)
            or (part.stream, part.name) != (final.stream, final.name)
        ):
            return self._no(number, wire.PERMISSION_DENIED, _ONLY_OWN_NAME, f"rename {source[:120]!r} {target[:120]!r}")
        if part.path in self._failed:
            return self._no(number, wire.FAILURE, self._failed.pop(part.path), f"rename of failed {part.path}")
        arrival = self._uploads.get(part.path)
        if arrival is None:
            return self._no(number, wire.NO_SUCH_FILE, _NO_FILE, f"rename {part.path}: no such upload")
        if any(open_one is arrival for _, open_one in self._handles.values()):
            return self._no(number, wire.FAILURE, "close the upload before renaming it", f"rename of open {part.path}")
        del self._uploads[part.path]
        return self._deliver(number, final, arrival)

    async def _deliver(self, number: int, spot: Spot, arrival: Arrival) -> bytes:
        why = await arrival.finish()
        if why:
            self._drop(arrival)
            return self._no(number, wire.FAILURE, why, f"rename: {why}")
        outcome = await self._commit(spot, arrival)
        arrival.let_go()
        self._serving.allowance.give_back(arrival.size)
        if outcome.ok:
            return wire.ok(number)
        word = {Answer.QUARANTINED: "refused", Answer.CONFLICT: "conflict"}.get(outcome.answer, "resend")
        why = f"{word}: {outcome.reason}"
        _log.warning("an upload was not taken", agent=self._serving.agent, path=spot.path, why=why)
        return self._no(number, wire.FAILURE, why, f"rename: {word}")

    async def _commit(self, spot: Spot, arrival: Arrival) -> Outcome:
        assert spot.name is not None
        serving = self._serving
        upload = Upload(
            agent=serving.agent,
            stream=spot.stream,
            name=spot.name,
            path=arrival.path,
            size=arrival.size,
            digest=arrival.digest,
            received_ns=serving.clock.now_ns(),
            pieces=arrival.pieces(),
        )
        try:
            return await serving.committer.commit(upload)
        except Exception:  # noqa: BLE001 - whatever broke, the bytes are counted back and the agent sends again
            _log.exception("an upload could not be committed", agent=serving.agent, path=spot.path)
            arrival.discard()
            return _RETRY

    def _drop(self, arrival: Arrival) -> None:
        arrival.discard()
        self._serving.allowance.give_back(arrival.size)

    # ------------------------------------------------------------- what can be read

    async def _open_readable(self, number: int, spot: Spot) -> bytes:
        if len(self._reading) + self._making >= _MAX_READ:
            return self._no(number, wire.FAILURE, _TOO_MANY_READ, "open: too many to read")
        content = await self._content(spot)
        if content is None or self._ended:
            return wire.status(number, wire.NO_SUCH_FILE, _NO_FILE)
        if not content:
            return self._no(number, wire.FAILURE, _NOT_MADE, "open: could not be made")
        handle = self._new_handle()
        self._reading[handle] = content
        return wire.handle(number, handle)

    async def _stat_readable(self, number: int, spot: Spot) -> bytes:
        if len(self._reading) + self._making >= _MAX_READ:
            return self._no(number, wire.FAILURE, _TOO_MANY_READ, "stat: too many to read")
        content = await self._content(spot)
        if content is None:
            return wire.status(number, wire.NO_SUCH_FILE, _NO_FILE)
        if not content:
            return self._no(number, wire.FAILURE, _NOT_MADE, "stat: could not be made")
        return wire.file_attrs(number, len(content))

    async def _content(self, spot: Spot) -> bytes | None:
        """What lies at a spot that can be read, made now; None: nothing, empty: it could not be made."""
        serving = self._serving
        self._making += 1
        try:
            if spot.page is not None:
                return await serving.committer.inventory(serving.agent, spot.page)
            return await serving.committer.receipt(serving.agent, spot.stream)
        except (HometapeError, OSError) as error:
            _log.error("nothing could be served", agent=serving.agent, path=spot.path, error=str(error))
            return b""
        finally:
            self._making -= 1

    def _read(self, number: int, fields: wire.Fields) -> Reply:
        handle, offset, length = fields.string(), fields.u64(), fields.u32()
        fields.end()
        content = self._reading.get(handle)
        if content is None:
            return self._no(number, wire.PERMISSION_DENIED, "only receipts and the inventory can be read", "read")
        piece = content[offset : offset + min(length, wire.MAX_READ)]
        return wire.data(number, piece) if piece else wire.status(number, wire.EOF, "end of file")

    # ------------------------------------------------------ what surrounds them

    def _stat(self, number: int, fields: wire.Fields) -> Reply:
        spot = _spot(fields.string())
        fields.end()
        if spot is not None and spot.kind is Kind.FOLDER:
            return wire.folder_attrs(number)
        if spot is not None and spot.path in self._uploads:
            return wire.file_attrs(number, self._uploads[spot.path].size)
        if spot is not None and spot.kind in _READABLE:
            return self._stat_readable(number, spot)
        return wire.status(number, wire.NO_SUCH_FILE, _NO_FILE)

    def _fstat(self, number: int, fields: wire.Fields) -> Reply:
        handle = fields.string()
        fields.end()
        if handle in self._handles:
            return wire.file_attrs(number, self._handles[handle][1].size)
        if handle in self._reading:
            return wire.file_attrs(number, len(self._reading[handle]))
        return self._no(number, wire.FAILURE, _NO_HANDLE, "fstat: no such handle")

    def _setstat(self, number: int, fields: wire.Fields) -> Reply:
        spot, flags = _spot(fields.string()), fields.attrs()
        own = spot is not None and spot.path in self._uploads
        return self._harmless(number, flags, own=own)

    def _fsetstat(self, number: int, fields: wire.Fields) -> Reply:
        own, flags = fields.string() in self._handles, fields.attrs()
        return self._harmless(number, flags, own=own)

    def _harmless(self, number: int, flags: int, *, own: bool) -> bytes:
        """Mode and times of an own upload may be set, to no effect: clients do it by habit."""
        if own and not flags & ~_HARMLESS:
            return wire.ok(number)
        return self._no(number, wire.PERMISSION_DENIED, "attributes can't be set", f"setstat {flags:#x}")

    def _mkdir(self, number: int, fields: wire.Fields) -> Reply:
        raw = fields.string()
        fields.attrs()
        fields.end()
        spot = _spot(raw)
        if spot is not None and spot.kind is Kind.FOLDER:
            return wire.ok(number)
        return self._no(number, wire.PERMISSION_DENIED, "no folder may have that name", f"mkdir {raw[:120]!r}")

    def _realpath(self, number: int, fields: wire.Fields) -> Reply:
        spot = _spot(fields.string())
        fields.end()
        if spot is None:
            return wire.status(number, wire.NO_SUCH_FILE, _NO_FILE)
        return wire.path(number, spot.path)

    def _limits(self, number: int, fields: wire.Fields) -> Reply:
        fields.end()
        return wire.limits(number, self._serving.max_handles)

    def _new_handle(self) -> bytes:
        self._last_handle += 1
        return self._last_handle.to_bytes(8, "big")

    def _no(self, number: int, code: int, message: str, what: str) -> bytes:
        self._host.refused(what)
        return wire.status(number, code, message)


_READABLE = (Kind.RECEIPT, Kind.INVENTORY)
_TOO_MANY_READ = "too many receipts or pages open"
_NOT_MADE = "resend: the receiver could not make it"
_NO_FILE = "no such file"
_NO_HANDLE = "no such handle"
_ONLY_PARTS = "uploads are created as <stream>/<name>.part and written once; nothing else can be opened"
_ONLY_OWN_NAME = "an upload is renamed to its own name without .part, nothing else"


def _spot(raw: bytes) -> Spot | None:
    try:
        return locate(raw)
    except NameRefused:
        return None
