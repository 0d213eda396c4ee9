"""`tape-agent status`: what waits on this server, and why."""

from typing import Any

import typer
from rich.table import Table

from agent.cli.options import ConfigOption, JsonOption, settings_from
from tape.clock import SYSTEM
from tape.console import nothing_known, out, print_json
from tape.errors import StoreLocked
from tape.settings import show_size

HELP = "Show streams, spool and link. Exit 0 fine, 1 warning, 2 critical, 3 nothing known yet."


def status(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show streams, spool and link."""
    from agent import status as facts_of
    from agent.outbox import Outbox

    settings = settings_from(config)
    facts: dict[str, Any] = {}
    if (settings.state / "outbox.db").exists():
        try:
            outbox = Outbox.open(settings.state, settings.agent, clock=SYSTEM)
        except StoreLocked:
            facts = facts_of.read(settings.state, clock=SYSTEM)
        else:
            try:
                facts = facts_of.collect(settings, outbox, clock=SYSTEM)
            finally:
                outbox.close()
    if not facts:
        nothing_known(
            f"nothing is known yet: {settings.state} holds no outbox of a running agent",
            hint="tape-agent run",
            as_json=json,
        )
    if json:
        print_json(facts)
    else:
        show(facts)
    raise typer.Exit(facts_of.exit_code(facts))


def show(facts: dict[str, Any]) -> None:
    """Print the facts for a person."""
    out.print(f"agent {facts['agent']}  epoch {facts['epoch']}  {'running' if facts['running'] else 'not running'}")
    table = Table("stream", box=None)
    for title in ("rows", "segments", "to send", "held", "refused", "waiting for"):
        table.add_column(title, justify="right")
    for stream in facts["streams"]:
        states, waits = stream["states"], stream["oldest_unsent_s"]
        table.add_row(
            stream["stream"],
            f"{stream['rows']:,}",
            f"{stream['segments']:,}",
            f"{states.get('sealed', 0):,}",
            f"{states.get('held', 0) + states.get('safe', 0):,}",
            f"{states.get('refused', 0) + states.get('lost', 0):,}",
            "" if waits is None else f"{waits:.0f} s",
        )
    out.print(table)
    if reading := facts.get("reading"):
        out.print(_reading(reading))
    used, most = facts["spool_bytes"], facts["spool_max_bytes"]
    out.print(f"spool {used / 1e6:,.1f} MB of {show_size(most)}; {facts['waiting_segments']:,} segments to send")
    link = facts["link"]
    if link:
        out.print(f"link {link['connections']} connections, {link['rate_bytes_s'] / 1e6:.1f} MB/s, {link['server']}")
    for problem in facts["problems"]:
        out.print(f"{'critical' if problem['level'] == 2 else 'warning'}: {problem['text']}", markup=False)
    if not facts["problems"]:
        out.print("fine")


def _reading(reading: dict[str, Any]) -> str:
    files, waits = reading["files"], reading["waiting_s"]
    archives = reading.get("archives") or {"unread": 0}  # a service of an older version does not tell
    text = "reading 1 file" if files == 1 else f"reading {files:,} files"
    if waits:
        text += (
            f"; {reading['held_bytes'] / 1e6:,.1f} MB in memory, not sealed yet for {waits:.0f} s "
            f"(`seal.max_age` is {reading['max_age_s']:g} s)"
        )
    elif not archives["unread"]:
        return f"{text}, all of it sealed" if files else "reading nothing: no file matches, or all are read"
    if archives["unread"]:
        text += (
            f"; archives not read yet: {archives['unread']:,} ({archives['bytes'] / 1e6:,.1f} MB), "
            f"for {archives['waiting_s']:.0f} s"
        )
    return text
