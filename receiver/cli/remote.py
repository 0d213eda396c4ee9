"""`tape-receiver remote`: targets behind rclone: add one, list them, try one out."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from receiver.cli.options import ConfigOption, JsonOption, settings_from
from receiver.cli.remote_add import HELP as ADD_HELP
from receiver.cli.remote_add import add
from receiver.settings import ReceiverSettings, TargetSettings
from tape.checks import WORDS, Finding
from tape.console import CRITICAL, OK, WARNING, out, print_json
from tape.errors import HometapeError, NotFound, UsageError
from tape.log import configure

HELP = (
    "Targets in a cloud or on a server: add, list, try out. By rclone: S3, Google Drive, Dropbox, B2, SFTP, WebDAV ..."
)
LIST_HELP = "Show kind, encryption, proof and state of each remote. Exit 1 if one is away."
TEST_HELP = "Write, prove, read, list and delete a probe file at a remote. Exit 1 for a warning, 2 if it can't be used."
_PROBE = 1024

app = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
app.command("add", help=ADD_HELP)(add)


@app.command("list", help=LIST_HELP)
def list_remotes(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show the remotes."""
    configure(level="error")
    settings = settings_from(config)
    found = [_look(settings, entry) for entry in _remotes(settings)]
    if json:
        print_json(found)
    for one in [] if json else found:
        name = f"{one['type']}, encrypted" if one["crypt"] else one["type"]
        out.print(f"{one['id']:<16}{one['state']:<11}{one['remote']} ({name or 'not known'})", markup=False)
        if one["proof"]:
            out.print(f"{'':16}copies are proven by: {one['proof']}", markup=False)
        for line in (one["reason"], one["hint"] and f"hint: {one['hint']}"):
            if line:
                out.print(f"{'':16}{line}", markup=False)
    if not found and not json:
        out.print("there is no remote yet\nhint: tape-receiver remote add ID", markup=False)
    states = {one["state"] for one in found}
    raise typer.Exit(OK if states <= {"ready"} else CRITICAL if "refused" in states else WARNING)


@app.command("test", help=TEST_HELP)
def try_out(
    target: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="these remotes; empty: all")] = None,
    config: ConfigOption = None,
    size: Annotated[int, typer.Option("--size", min=1, max=2**20, help="size of the probe in KiB")] = _PROBE,
    json: JsonOption = False,
) -> None:
    """Try remotes out."""
    from receiver.targets.opening import scratch_of
    from receiver.targets.remote_probe import Probe

    configure(level="error")
    settings = settings_from(config)
    found: list[Finding] = []
    for entry in _chosen(settings, target or []):
        for finding in Probe(entry, scratch_of(entry, settings.state), size=size * 1024).run():
            found.append(finding)
            if not json:
                _show(finding)
    worst = max((finding.level for finding in found), default=OK)
    if json:
        print_json({"level": worst, "findings": [asdict(finding) for finding in found]})
    raise typer.Exit(worst)


def _show(finding: Finding) -> None:
    out.print(f"{WORDS[finding.level]:<9}{finding.what}: {finding.text}", markup=False)
    if finding.hint and finding.level:
        out.print(f"{'':9}hint: {finding.hint}", markup=False)


def _remotes(settings: ReceiverSettings) -> list[TargetSettings]:
    return [entry for entry in settings.target if entry.kind == "remote"]


def _chosen(settings: ReceiverSettings, names: list[str]) -> list[TargetSettings]:
    remotes = _remotes(settings)
    known = [entry.id for entry in remotes]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise NotFound(f"there is no remote {unknown[0]}", hint=f"remotes are {', '.join(known) or 'none'}")
    if not remotes:
        raise UsageError("no remote is configured", hint="tape-receiver remote add ID")
    return [entry for entry in remotes if not names or entry.id in names]


def _look(settings: ReceiverSettings, entry: TargetSettings) -> dict[str, Any]:
    from receiver.targets.opening import place_of, scratch_of
    from receiver.targets.remote import RemoteTarget

    target = RemoteTarget(place_of(entry), entry, scratch_of(entry, settings.state))
    state = target.state()
    found: dict[str, Any] = {
        "id": entry.id,
        "remote": entry.remote,
        "state": str(state.condition),
        "reason": state.reason,
        "hint": state.hint,
        "type": "",
        "crypt": False,
        "proof": "",
        "free": None,
    }
    try:
        kind = target.kind
        found |= {"type": kind.base if kind.crypt else kind.type, "crypt": kind.crypt, "proof": kind.method}
        found["free"] = target.free() if state.readable else None
    except HometapeError as error:
        found["reason"] = found["reason"] or str(error)
    return found
