"""Export: what came in, given back. The original files to the last byte, or the rows as CSV or Parquet.

An export is complete or says what is missing: without leave to go on, nothing is written when something
is not there. Files are written under a temporary name and get their own when they are whole; what
exists is never touched unless asked. Reads from a shelf: the receiver's targets, or a bare folder.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from receiver.export_plan import (
    EVERYTHING,
    FilePlan,
    Hole,
    Part,
    Window,
    extent,
    missing_newest,
    missing_segments,
    parts_of,
    plan_files,
)
from receiver.export_read import at_rows, part_bytes, part_rows, prefix_of, same_bytes
from receiver.export_tables import CsvSink, ParquetSink, RowSink, fitted, table_schema
from receiver.model import ExportForm, Held
from receiver.shelf import Shelf, shelf_from_folder, shelf_of
from tape.digest import new_xxh3
from tape.durable import DISK, Disk, named, when_free
from tape.errors import AlreadyThere, DiskError, ExportError, NotFound, UsageError
from tape.layout import Layout

__all__ = [
    "Export",
    "ExportForm",
    "Progress",
    "Report",
    "Request",
    "Shelf",
    "Window",
    "find_stream",
    "shelf_from_folder",
    "shelf_of",
]

_MOST_NAMED = 8


@dataclass(frozen=True, slots=True)
class Request:
    """What to export. `window`: receive times. `allow_gaps`: write what is there although something is missing."""

    agent: str
    stream: str
    form: ExportForm = ExportForm.ORIGINAL
    window: Window = EVERYTHING
    allow_gaps: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """A file that was written. `source`: the path the agent read it from; `digest`: XXH3-128 of what was written."""

    path: str
    source: str
    bytes: int
    rows: int
    digest: str


@dataclass(slots=True)
class Report:
    """What an export did. `holes`: what is missing, in words."""

    agent: str
    stream: str
    form: str
    files: list[Written] = field(default_factory=list)
    holes: list[str] = field(default_factory=list)
    segments: int = 0
    rows: int = 0
    bytes: int = 0

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(asdict(self), indent=2)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an export is: segments and, for originals, bytes of the source."""

    segments: int
    of_segments: int
    bytes: int
    of_bytes: int
    file: str


def find_stream(shelf: Shelf, text: str) -> tuple[str, str]:
    """(agent, stream) from `agent/stream`, or from `stream` where only one agent has it; raises NotFound."""
    known = [(totals.agent, totals.stream) for totals in shelf.catalog.streams()]
    wanted = text.strip("/")
    found = [pair for pair in known if "/".join(pair) == wanted] or [pair for pair in known if pair[1] == wanted]
    if len(found) == 1:
        return found[0]
    names = ", ".join("/".join(pair) for pair in (found or known)[:_MOST_NAMED]) or "none at all"
    what = f"stream {wanted} is there from several agents" if found else f"there is no stream {wanted}"
    raise NotFound(what, hint=f"give one as AGENT/STREAM: {names}")


class Export:
    """One export of one stream. Raises ExportError, NotFound, AlreadyThere, UsageError, DiskError."""

    def __init__(
        self,
        shelf: Shelf,
        request: Request,
        *,
        progress: Callable[[Progress], None] | None = None,
        disk: Disk = DISK,
    ) -> None:
        self._shelf = shelf
        self._catalog = shelf.catalog
        self._request = request
        self._progress = progress or (lambda _: None)
        self._disk = disk
        self._report = Report(request.agent, request.stream, request.form.value)
        self._segments = self._bytes = 0

    def to_folder(self, folder: Path) -> Report:
        """The original files, each under the name it had, into a folder (made if missing)."""
        if self._request.form is not ExportForm.ORIGINAL:
            raise UsageError(f"{self._request.form} comes out as one file", hint="name a file, not a folder")
        plans = self._planned()
        if not self._request.force:
            for plan in plans:
                if (folder / plan.name).exists():
                    raise _exists(folder / plan.name)
        self._disk.make_dirs(folder)
        for plan in plans:
            with self._placed(folder / plan.name) as out:
                self._write_original(plan, out)
            self._wrote(str(folder / plan.name), plan, out)
        return self._report

    def to_file(self, path: Path, *, concatenate: bool = False) -> Report:
        """All of it as one file."""
        if path.exists() and not self._request.force:
            raise _exists(path)
        if path.is_dir():
            raise UsageError(f"{path} is a folder", hint="name a file in it")
        plans = self._planned(one=not concatenate)
        self._disk.make_dirs(path.absolute().parent)
        with self._placed(path) as out:
            self._write_one(plans, out, str(path))
        return self._report

    def to_stream(self, out: BinaryIO, *, concatenate: bool = False) -> Report:
        """All of it into an open stream, such as standard output."""
        self._write_one(self._planned(one=not concatenate), _Counted(lambda data: _write_all(out, data)), "-")
        return self._report

    # ---------------------------------------------------------------------------------------- planning

    def _planned(self, *, one: bool = False) -> list[FilePlan]:
        """The files. Raises NotFound if there is nothing, ExportError if something is missing without leave."""
        request, shelf = self._request, self._shelf
        plans = plan_files(
            self._catalog,
            request.agent,
            request.stream,
            request.window,
            same=lambda a, b: same_bytes(shelf, request.agent, request.stream, a, b),
            prefix=lambda life: prefix_of(shelf, request.agent, request.stream, life),
        )
        if not plans:
            during = "" if request.window.open else " in that time"
            raise NotFound(f"there is nothing of {request.agent}/{request.stream}{during}")
        if one and len(plans) > 1 and request.form is ExportForm.ORIGINAL:
            raise UsageError(
                f"{request.agent}/{request.stream} is {len(plans)} files",
                hint="name a folder for them, or add --concatenate for one file in the order of time",
            )
        holes = [hole.text for hole in missing_segments(self._catalog, request.agent, request.stream, request.window)]
        newest = missing_newest(self._catalog, shelf.unmet, request.agent, request.stream, request.window)
        holes += [hole.text for hole in newest]
        holes += self._shelf.damaged_in(request.agent, request.stream)
        for plan in plans:
            for item in self._parts(plan):
                if isinstance(item, Hole):
                    holes.append(item.text)
                else:
                    self._segments += 1
                    self._bytes += item.high - item.low
        self._missing(holes)
        return plans

    def _missing(self, holes: list[str]) -> None:
        if holes and not self._request.allow_gaps:
            more = f" and {len(holes) - _MOST_NAMED} more" if len(holes) > _MOST_NAMED else ""
            raise ExportError(
                f"{self._request.agent}/{self._request.stream} is not complete, missing are: "
                f"{'; '.join(holes[:_MOST_NAMED])}{more}",
                hint="they may still be on their way: see `tape-receiver status`; --allow-gaps exports what is there",
            )
        self._report.holes += holes

    def _parts(self, plan: FilePlan) -> Iterator[Part | Hole]:
        return parts_of(self._catalog, self._request.agent, self._request.stream, plan, self._request.window)

    # ----------------------------------------------------------------------------------------- writing

    def _write_one(self, plans: list[FilePlan], out: "_Counted", name: str) -> None:
        if self._request.form is ExportForm.ORIGINAL:
            for plan in plans:
                self._write_original(plan, out)
        else:
            self._write_rows(plans, out)
        self._wrote(name, plans[0] if len(plans) == 1 else None, out)

    def _write_original(self, plan: FilePlan, out: "_Counted") -> None:
        for part in self._shelf.along(self._parts(plan), _segment_of):
            if isinstance(part, Hole):
                continue
            with self._bearing():
                for data, rows in part_bytes(self._shelf, part, self._request.window):
                    out.write(data)
                    out.rows += rows
            self._tell(out.bytes, plan.name)

    def _write_rows(self, plans: list[FilePlan], out: "_Counted") -> None:
        sink, schema = self._sink(out)
        merged = self._merged(plans)
        for held in self._shelf.along(self._in_order(), lambda held: held):
            assert held.footer is not None
            parts = [Part(held, *extent(held))]
            if held.footer.source.file_id in merged:
                parts = merged[held.footer.source.file_id].get(held.id, [])
            with self._bearing():
                for part in parts:
                    for _, batch in part_rows(self._shelf, part, self._request.window):
                        sink.write(fitted(batch, schema))
                        out.rows += batch.num_rows
            self._tell(out.bytes, "")
        sink.close()

    def _sink(self, out: "_Counted") -> tuple[RowSink, Any]:
        layouts: dict[str, Layout] = {}
        for held in self._in_order():
            assert held.footer is not None
            if held.footer.schema not in layouts:
                layouts[held.footer.schema] = Layout.from_json(held.footer.layout, where=str(held.path))
        schema = table_schema(layouts.values())
        if self._request.form is ExportForm.CSV:
            return CsvSink(out, schema), schema
        return ParquetSink(out, schema, {"agent": self._request.agent, "stream": self._request.stream}), schema

    def _merged(self, plans: list[FilePlan]) -> dict[str, dict[int, list[Part]]]:
        """For files with bytes sealed twice: file id -> segment -> its parts; one without any brings nothing new."""
        found: dict[str, dict[int, list[Part]]] = {}
        for plan in plans:
            if plan.overlaps:
                parts: dict[int, list[Part]] = {}
                for part in at_rows(self._shelf, (item for item in self._parts(plan) if isinstance(item, Part))):
                    parts.setdefault(part.held.id, []).append(part)
                found.update(dict.fromkeys((life.file_id for life in plan.lives), parts))
        return found

    def _in_order(self) -> Iterator[Held]:
        request = self._request
        until = request.window.until_ns
        yield from self._catalog.segments(
            request.agent,
            request.stream,
            first_ns=request.window.first_ns,
            last_ns=None if until is None else until - 1,
        )

    @contextlib.contextmanager
    def _bearing(self) -> Iterator[None]:
        """With leave to go on, a segment that can't be had is one more hole."""
        try:
            yield
        except ExportError as error:
            if not self._request.allow_gaps:
                raise
            self._report.holes.append(str(error))
        self._report.segments += 1

    def _tell(self, size: int, name: str) -> None:
        done = self._report.bytes + size
        self._progress(Progress(self._report.segments, self._segments, done, self._bytes, name))

    def _wrote(self, path: str, plan: FilePlan | None, out: "_Counted") -> None:
        source = plan.lives[0].name if plan is not None else ""
        self._report.files.append(Written(path, source, out.bytes, out.rows, out.digest()))
        self._report.bytes += out.bytes
        self._report.rows += out.rows

    @contextlib.contextmanager
    def _placed(self, path: Path) -> Iterator["_Counted"]:
        """A temporary file that becomes `path`, durably, if all goes well."""
        disk, final = self._disk, path.absolute()
        temp = disk.temp_path(final.parent)
        try:
            with disk.create(temp) as file:
                yield _Counted(lambda data: disk.write_all(file, data))
            if not self._request.force:
                disk.publish(temp, final)
                return
            disk.sync_path(temp)
            with named(final, "replacing"):
                when_free(lambda: temp.replace(final))
            disk.sync_dir(final.parent)
        except BaseException:
            with contextlib.suppress(DiskError):  # the first error is the one to tell
                disk.remove(temp)
            raise


class _Counted:
    """A stream that counts and digests what goes through it."""

    closed = False

    def __init__(self, out: Callable[[bytes], None]) -> None:
        self._out = out
        self._fast = new_xxh3()
        self.bytes = 0
        self.rows = 0

    def write(self, data: bytes) -> int:
        """Write all of it."""
        self._out(data)
        self._fast.update(data)
        self.bytes += len(data)
        return len(data)

    def digest(self) -> str:
        """XXH3-128 of everything so far."""
        return self._fast.hexdigest()

    def flush(self) -> None:
        """Nothing is held back here."""

    def tell(self) -> int:
        """Bytes so far."""
        return self.bytes

    def close(self) -> None:
        """Whoever opened it closes it."""


def _segment_of(item: Part | Hole) -> Held | None:
    return item.held if isinstance(item, Part) else None


def _write_all(out: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[out.write(view) :]


def _exists(path: Path) -> AlreadyThere:
    return AlreadyThere(f"{path} exists already", hint="name another place, or add --force to replace it")
