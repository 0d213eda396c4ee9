"""`tape-receiver export`: a stream back, as it was or as a table."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from receiver.cli.options import RCLONE, ConfigOption, JsonOption, RcloneConfigOption, settings_from
from receiver.model import ExportForm
from receiver.settings import ReceiverSettings
from tape.bars import Told, counting
from tape.clock import SYSTEM
from tape.console import WARNING, err, out
from tape.errors import ConfigError, NotFound, UsageError
from tape.log import configure

if TYPE_CHECKING:
    from receiver.export import Export, Progress, Report
    from receiver.shelf import Shelf
    from receiver.targets.contract import Target

HELP = "Give a stream back: original files, or rows as CSV or Parquet."


def export(
    stream: Annotated[str, typer.Argument(help="AGENT/STREAM, or STREAM where only one agent has it")],
    output: Annotated[
        str, typer.Option("--output", "-o", help="folder for original files, or one file; - for standard output")
    ],
    config: ConfigOption = None,
    origin: Annotated[
        str | None,
        typer.Option(
            "--from", help="read only from this target, from a bare folder of segments, or from rclone:NAME:PATH"
        ),
    ] = None,
    rclone_config: RcloneConfigOption = None,
    form: Annotated[ExportForm, typer.Option("--format", help="what comes out")] = ExportForm.ORIGINAL,
    from_time: Annotated[str | None, typer.Option(help="rows received at or after this time (ISO 8601, UTC)")] = None,
    to_time: Annotated[str | None, typer.Option(help="rows received before this time (ISO 8601, UTC)")] = None,
    concatenate: Annotated[
        bool, typer.Option("--concatenate", help="several original files one after the other into one")
    ] = False,
    allow_gaps: Annotated[
        bool, typer.Option("--allow-gaps", help="write what is there although something is missing; exit 1")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="replace files that exist")] = False,
    json: JsonOption = False,
) -> None:
    """Give a stream back."""
    from receiver.export import Export, Request, Window, find_stream

    configure(level="error")
    with _shelf(config, origin, stream, rclone_config) as shelf:
        agent, name = find_stream(shelf, stream)
        window = Window(time_ns(from_time), time_ns(to_time))
        request = Request(agent, name, form=form, window=window, allow_gaps=allow_gaps, force=force)
        with counting("exporting", unit="B", quiet=output == "-") as told:
            report = _write(Export(shelf, request, progress=_telling(told)), form, output, concatenate=concatenate)
    if output != "-":
        _tell(report, json=json)
    elif report.holes:
        err.print("\n".join(report.holes), markup=False)
    raise typer.Exit(WARNING if report.holes else 0)


def _write(job: "Export", form: ExportForm, output: str, *, concatenate: bool) -> "Report":
    if output == "-":
        return job.to_stream(sys.stdout.buffer, concatenate=concatenate)
    path = Path(output)
    if form is ExportForm.ORIGINAL and not concatenate:
        return job.to_folder(path)
    return job.to_file(path, concatenate=concatenate)


@contextlib.contextmanager
def _shelf(config: Path | None, origin: str | None, stream: str, rclone_config: Path | None) -> "Iterator[Shelf]":
    from receiver.catalog import Catalog
    from receiver.shelf import shelf_from_folder, shelf_of

    if origin is not None and origin.startswith(RCLONE):
        from receiver.shelf_remote import shelf_from_remote

        with (
            counting("reading", unit="segments") as told,
            shelf_from_remote(origin, stream, config=rclone_config, progress=lambda count: told(count, None)) as shelf,
        ):
            yield shelf
        return
    if origin is not None and _is_folder(origin) and not _is_target(config, origin):
        with shelf_from_folder(Path(origin)) as shelf:
            yield shelf
        return
    settings = settings_from(config)
    targets = _chosen(settings, origin)
    if not (settings.state / "catalog.db").exists():
        raise NotFound(
            f"{settings.state} holds no catalog yet",
            hint=f"start `tape-receiver run` once, or export from a bare folder: --from {targets[0].id} as a path",
        )
    with Catalog.open(settings.state, clock=SYSTEM, read_only=True) as catalog:
        yield shelf_of(catalog, targets)


def _is_folder(text: str) -> bool:
    return Path(text).is_dir()


def _is_target(config: Path | None, text: str) -> bool:
    if "/" in text or "\\" in text:
        return False
    try:
        return any(entry.id == text for entry in settings_from(config).target)
    except ConfigError:
        return False


def _chosen(settings: ReceiverSettings, origin: str | None) -> "list[Target]":
    from receiver.targets.opening import open_targets

    targets = [t for t in open_targets(settings) if origin in (None, t.id)]
    if not targets:
        names = ", ".join(entry.id for entry in settings.target)
        raise NotFound(f"there is no target or folder {origin}", hint=f"targets are {names}")
    return targets


def time_ns(text: str | None) -> int | None:
    """Nanoseconds since 1970 of an ISO 8601 time, UTC where it names no zone; raises UsageError."""
    if text is None:
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is no time such as 2026-11-21 or 2026-11-21T14:30:00") from None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    whole = int(when.replace(microsecond=0).timestamp())
    return whole * 1_000_000_000 + when.microsecond * 1000


def _telling(told: Told) -> "Callable[[Progress], None]":
    def tell(now: "Progress") -> None:
        told(now.bytes if now.of_bytes else now.segments, now.of_bytes or now.of_segments)

    return tell


def _tell(report: "Report", *, json: bool) -> None:
    if json:
        sys.stdout.write(report.to_json() + "\n")
        return
    for written in report.files:
        out.print(f"{written.path}  {written.bytes:,} B, {written.rows:,} rows, xxh3 {written.digest}", markup=False)
    for hole in report.holes:
        err.print(f"missing: {hole}", markup=False)
    from tape.sayings import plural

    made = f"{plural(len(report.files), 'file')}, {plural(report.segments, 'segment')}"
    out.print(f"{made}, {report.bytes:,} B, every digest matched")
