"""`tape-agent init`: configuration and key of a new server side."""

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.options import NAME, ConfigOption
from agent.settings import AgentSettings
from tape.annotate import annotated, chosen, quoted
from tape.console import default_config, out
from tape.durable import DISK
from tape.errors import AlreadyThere
from tape.settings import load

HELP = "Write a configuration and make the agent's key. Never overwrites a configuration."
INTRO = "Configuration of the Hometape agent. Sizes take KiB, MiB, GiB, TiB; durations ms, s, min, h, d."


def init(
    agent: Annotated[str, typer.Option(help="this agent's name: a-z, 0-9 and '-'")],
    config: ConfigOption = None,
    state: Annotated[Path, typer.Option(help="folder for outbox, spool and key, on a local disk")] = Path(
        "hometape-state"
    ),
    path: Annotated[list[str] | None, typer.Option(help="glob pattern of tick files; may be repeated")] = None,
    stream: Annotated[
        str, typer.Option(help="stream name for these files; may hold {stem} and others")
    ] = "ticks/{base}",
    host: Annotated[str, typer.Option(help="the receiver's address")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="the receiver's port")] = 2222,
    host_key: Annotated[str, typer.Option(help="the receiver's host key, as `tape-receiver init` printed it")] = "",
    receipt_key: Annotated[str, typer.Option(help="the receiver's receipt key, as it printed it")] = "",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="any other option as KEY=VALUE, e.g. seal.max_age=5s; may be repeated"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the configuration, write nothing")] = False,
) -> None:
    """Write a configuration and make the agent's key."""
    from tape.keys import make_ssh_key, public_line

    _check_keys(host_key, receipt_key)
    place = (config or default_config(NAME)).absolute()
    values = {
        "agent": quoted(agent),
        "state": quoted(str(state.absolute())),
        "receiver.host": quoted(host),
        "receiver.port": str(port),
        "receiver.host_key": quoted(host_key),
        "receiver.receipt_key": quoted(receipt_key),
        **chosen(AgentSettings, set_ or []),
    }
    patterns = [quoted(str(Path(p).absolute())) for p in path or []]
    source = {"name": quoted("ticks"), "paths": f"[{', '.join(patterns)}]", "stream": quoted(stream)}
    text = annotated(AgentSettings, INTRO, values, {"source": [source] if patterns else []})
    if dry_run:
        out.print(text, markup=False)
        return
    if place.exists():
        raise AlreadyThere(f"{place} exists already", hint=f"edit it, then run `tape-agent check --config {place}`")
    DISK.make_dirs(place.parent)
    DISK.write_new(place, text.encode("utf-8"))
    settings = load(AgentSettings, place)
    key = make_ssh_key(settings.key_path, f"hometape agent {agent}")
    out.print(f"configuration written to {place}", markup=False)
    out.print("for receiver.toml at home:\n", markup=False)
    out.print(f"[[agent]]\nname = {quoted(agent)}\nkey = {quoted(public_line(key))}\n", markup=False)
    missing = [name for name, value in (("host_key", host_key), ("receipt_key", receipt_key)) if not value]
    if missing:
        out.print(
            f"still to fill in: receiver.{' and receiver.'.join(missing)} (`tape-receiver check` prints them)",
            markup=False,
        )
    out.print(f"hint: tape-agent check --config {place}", markup=False)


def _check_keys(host_key: str, receipt_key: str) -> None:
    """Raises ConfigError where what was given is no key: a part of one, or one of another kind."""
    if host_key:
        from agent.login import pinned

        pinned(host_key)
    if receipt_key:
        from tape.receipt import load_public

        load_public(receipt_key)
