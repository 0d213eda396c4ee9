"""`tape-receiver init`: configuration, keys and targets of a new home side."""

from pathlib import Path
from typing import Annotated

import typer

from receiver.cli.options import NAME, ConfigOption
from receiver.settings import ReceiverSettings
from tape.annotate import annotated, chosen, quoted
from tape.console import default_config, out
from tape.durable import DISK
from tape.errors import AlreadyThere, UsageError
from tape.settings import load

HELP = "Write a configuration, make the keys, mark the targets. Never overwrites a configuration."
INTRO = "Configuration of the Hometape receiver. Sizes take KiB, MiB, GiB, TiB; durations ms, s, min, h, d."


def init(
    config: ConfigOption = None,
    state: Annotated[Path, typer.Option(help="folder for catalog, inbox and keys")] = Path("hometape-state"),
    home: Annotated[Path, typer.Option(help="folder of the home archive")] = Path("hometape-home"),
    target: Annotated[
        list[str] | None,
        typer.Option(help="further folder (a NAS, a second disk) as ID=PATH or ID=PATH,MEDIUM,SITE; may be repeated"),
    ] = None,
    agent: Annotated[
        list[str] | None, typer.Option(help="agent as NAME=KEY or NAME=dropbox:FOLDER; may be repeated")
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on")] = 2222,
    copies: Annotated[
        int | None, typer.Option(help="copies that make a segment safe (default: 2, or 1 with one target)")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="any other option as KEY=VALUE, e.g. listen.window=64MiB; may be repeated"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the configuration, write nothing")] = False,
) -> None:
    """Write a configuration, make the keys, mark the targets."""
    from receiver.targets.opening import prepare_target
    from tape.keys import HOST_KEY, RECEIPT_KEY, make_receipt_key, make_ssh_key, public_line, receipt_line

    path = (config or default_config(NAME)).absolute()
    targets = [_target(f"home={home},pc-disk,home", home=True), *(_target(text, home=False) for text in target or [])]
    values = {
        "state": quoted(str(state.absolute())),
        "listen.host": quoted(host),
        "listen.port": str(port),
        "policy.copies": str(min(2, len(targets)) if copies is None else copies),
        **chosen(ReceiverSettings, set_ or []),
    }
    text = annotated(ReceiverSettings, INTRO, values, {"agent": [_agent(a) for a in agent or []], "target": targets})
    if dry_run:
        out.print(text, markup=False)
        return
    if path.exists():
        raise AlreadyThere(f"{path} exists already", hint=f"edit it, then run `tape-receiver check --config {path}`")
    DISK.make_dirs(path.parent)
    DISK.write_new(path, text.encode("utf-8"))
    settings = load(ReceiverSettings, path)
    host_key = make_ssh_key(settings.state / HOST_KEY, "hometape receiver")
    receipt_key = make_receipt_key(settings.state / RECEIPT_KEY)
    for entry in settings.target:
        prepare_target(entry)
    out.print(f"configuration written to {path}", markup=False)
    out.print("for agent.toml on the server:\n", markup=False)
    out.print("[receiver]", markup=False)
    out.print(f"host = {quoted(host)}\nport = {port}", markup=False)
    out.print(
        f"host_key = {quoted(public_line(host_key))}\nreceipt_key = {quoted(receipt_line(receipt_key))}\n", markup=False
    )
    out.print(f"hint: tape-receiver check --config {path}", markup=False)
    out.print("hint: a disk that comes and goes: tape-receiver disk init ID MOUNT_POINT", markup=False)
    out.print("hint: a cloud or another server: tape-receiver remote add", markup=False)


def _split(text: str, what: str) -> tuple[str, str]:
    name, found, rest = text.partition("=")
    if not found or not rest:
        raise UsageError(f"{what} {text!r} is not NAME=VALUE")
    return name, rest


def _target(text: str, *, home: bool) -> dict[str, str]:
    name, rest = _split(text, "target")
    place, *more = rest.split(",")
    medium, site = (more + ["disk", "home"][len(more) :])[:2]
    entry = {"id": quoted(name), "path": quoted(str(Path(place).absolute()))}
    if home:
        entry["home"] = "true"
    return {**entry, "medium": quoted(medium), "site": quoted(site)}


def _agent(text: str) -> dict[str, str]:
    name, rest = _split(text, "agent")
    if rest.startswith("dropbox:"):
        return {"name": quoted(name), "dropbox": quoted(str(Path(rest.removeprefix("dropbox:")).absolute()))}
    return {"name": quoted(name), "key": quoted(" ".join(rest.split()[:2]))}
