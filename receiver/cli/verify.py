"""`tape-receiver verify`: re-read copies and compare them with what they must be."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from receiver.cli.options import RCLONE, ConfigOption, JsonOption, RcloneConfigOption, settings_from
from receiver.settings import ReceiverSettings
from tape.bars import counting
from tape.clock import SYSTEM
from tape.console import out
from tape.errors import NotFound, StoreLocked
from tape.log import configure
from tape.settings import parse_duration, parse_size

if TYPE_CHECKING:
    from receiver.verify import Budget, Result
    from receiver.verify_folder import FolderResult

HELP = "Re-read copies, longest unchecked first, and compare digests. Exit 0 fine, 1 a target is away, 2 a bad copy."


def verify(
    config: ConfigOption = None,
    target: Annotated[list[str] | None, typer.Option("--target", help="only this target; may be repeated")] = None,
    stream: Annotated[str | None, typer.Option("--stream", help="only this stream, AGENT/STREAM")] = None,
    folder: Annotated[
        str | None,
        typer.Option(
            "--folder", help="check a bare folder of segments, or rclone:NAME:PATH: no configuration, no catalog"
        ),
    ] = None,
    rclone_config: RcloneConfigOption = None,
    for_time: Annotated[
        str | None, typer.Option("--for", help="stop after so long, e.g. '30 min'; goes on next time")
    ] = None,
    for_bytes: Annotated[str | None, typer.Option("--bytes", help="stop after reading so much, e.g. '50 GB'")] = None,
    json: JsonOption = False,
) -> None:
    """Re-read copies and compare digests."""
    configure(level="error")
    if folder is not None:
        found = (
            _remote(folder, stream or "", rclone_config)
            if folder.startswith(RCLONE)
            else _folder(Path(folder), stream or "")
        )
        typer.echo(found.to_json()) if json else _show_folder(found)
        raise typer.Exit(found.exit_code)
    from receiver.verify import Budget

    seconds = None if for_time is None else float(parse_duration(for_time))
    budget = Budget(seconds, None if for_bytes is None else int(parse_size(for_bytes)))
    result = _verify(settings_from(config), target or [], stream, budget)
    typer.echo(result.to_json()) if json else _show(result)
    raise typer.Exit(result.exit_code)


def _folder(folder: Path, stream: str) -> "FolderResult":
    from receiver.verify_folder import VerifyFolder

    with counting("verifying", unit="segments") as told:
        return VerifyFolder(folder, stream=stream, progress=lambda segments, _: told(segments, None)).run()


def _remote(text: str, stream: str, config: Path | None) -> "FolderResult":
    from receiver.shelf_remote import BareRemote, fetched_in_turn
    from receiver.verify_folder import VerifyFolder

    with contextlib.closing(BareRemote(text, config)) as remote, counting("verifying", unit="segments") as told:
        root = remote.scratch / "tree"
        root.mkdir()
        files = fetched_in_turn(remote, stream, root)
        found = VerifyFolder(root, files=files, progress=lambda segments, _: told(segments, None)).run()

    def there(words: str) -> str:
        return words.replace(str(root), text.rstrip("/"))

    found.bad = [(there(path), there(why)) for path, why in found.bad]
    found.gaps, found.notes = [there(words) for words in found.gaps], [there(words) for words in found.notes]
    return found


def _verify(settings: ReceiverSettings, only: list[str], stream: str | None, budget: "Budget") -> "Result":
    from receiver.catalog import Catalog
    from receiver.export import find_stream
    from receiver.shelf import shelf_of
    from receiver.targets.opening import open_targets
    from receiver.verify import Direct, Notes, Progress, Recorder, Verify

    targets = open_targets(settings)
    unknown = sorted(set(only) - {t.id for t in targets})
    if unknown:
        raise NotFound(f"there is no target {unknown[0]}", hint=f"targets are {', '.join(t.id for t in targets)}")
    if not (settings.state / "catalog.db").exists():
        raise NotFound(f"{settings.state} holds no catalog yet", hint="tape-receiver run, or verify --folder PATH")
    try:
        catalog, alone = Catalog.open(settings.state, clock=SYSTEM), True
    except StoreLocked:  # the service runs: it takes in what is found
        catalog, alone = Catalog.open(settings.state, clock=SYSTEM, read_only=True), False
    seen = {target.id: (0, 0) for target in targets}  # all of them: it must not grow, for targets tell in threads
    with catalog, counting("verifying", unit="B") as told:

        def tell(now: Progress) -> None:
            seen[now.target] = (now.bytes, now.of_bytes)
            told(sum(done for done, _ in seen.values()), sum(total for _, total in seen.values()))

        recorder: Recorder = Direct(catalog, targets, clock=SYSTEM) if alone else Notes(settings.state, clock=SYSTEM)
        chosen = None if stream is None else find_stream(shelf_of(catalog, targets), stream)
        return Verify(catalog, targets, recorder, clock=SYSTEM, progress=tell).run(
            only=only, stream=chosen, budget=budget
        )


def _show(result: "Result") -> None:
    for one in result.targets:
        left = f", {one.left:,} left for next time" if one.left else ""
        out.print(f"{one.target}: {one.copies:,} copies, {one.bytes:,} B read{left}", markup=False)
        if one.error:
            out.print(f"  stopped: {one.error}\n  hint: {one.hint}", markup=False)
        for bad in one.bad:
            out.print(f"  bad: {bad.path}: {bad.why}", markup=False)
    bad_count = sum(len(one.bad) for one in result.targets)
    if bad_count:
        out.print(f"{bad_count} bad copies were set aside; the service makes them again from good ones")
    elif not result.exit_code:
        out.print("every copy is what it must be")


def _show_folder(found: "FolderResult") -> None:
    from tape.sayings import plural

    whole = f"{plural(found.streams, 'stream')}, {plural(found.segments, 'segment')}, {plural(found.rows, 'row')}"
    out.print(f"{whole}, {found.bytes:,} B")
    for path, why in found.bad:
        out.print(f"bad: {path}: {why}", markup=False)
    for text in (*found.gaps, *found.notes):
        out.print(f"note: {text}", markup=False)
    if not found.exit_code:
        out.print("every segment is what it must be, and the chain is whole")
