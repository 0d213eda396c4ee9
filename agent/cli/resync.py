"""`tape-agent resync`: compare this server with home, and bring home what it lacks."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from agent.cli.options import ConfigOption, JsonOption, settings_from
from agent.settings import AgentSettings
from tape.bars import counting
from tape.clock import SYSTEM
from tape.console import CRITICAL, WARNING, err, out, print_json
from tape.durable import DISK
from tape.errors import HometapeError, LinkError, NotFound, StoreLocked, UsageError
from tape.log import configure
from tape.sayings import plural, size
from tape.settings import parse_duration, parse_size

if TYPE_CHECKING:
    from agent.resync_desk import Ask, Desk

HELP = "Compare with home and send again what it lacks. Exit 0 level, 1 not level yet, 2 something is gone or wrong."
NO_LINK = 30.0
_LOOK_EVERY = 0.3
_SILENT_AFTER_NS = 5_000_000_000

Seen = Callable[[dict[str, Any]], None]


def resync(
    streams: Annotated[
        list[str] | None, typer.Argument(metavar="[STREAM]...", help="only these streams; `*` and `?` match")
    ] = None,
    config: ConfigOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="compare and show the plan, send nothing")] = False,
    bandwidth: Annotated[
        str | None, typer.Option("--bandwidth", metavar="RATE", help="bytes a second of what is sent again, '2 MB'")
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option("--timeout", metavar="TIME", help="follow it for so long, '10 min'; the service goes on"),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compare with home and send again what it lacks."""
    from agent.resync_desk import Desk

    configure(level="error")
    settings = settings_from(config)
    if not (settings.state / "outbox.db").exists():
        raise NotFound(f"{settings.state} holds no outbox yet", hint="tape-agent run")
    try:
        rate = 0 if bandwidth is None else int(parse_size(bandwidth))
        seconds = None if timeout is None else float(parse_duration(timeout))
    except ValueError as error:
        raise UsageError(str(error)) from error
    desk = Desk(settings.state, clock=SYSTEM, disk=DISK)
    ask, new = desk.put(streams or [], dry_run=dry_run, bandwidth=rate)
    if not new:
        err.print("a resync is under way already: this follows it", markup=False)
    facts: dict[str, Any] = {}
    try:
        with counting("resync", unit="B", quiet=json) as told:
            shower = _Shower(told, quiet=json)
            facts = _until_done(settings, desk, ask, seconds, shower.seen)
    finally:
        if dry_run or facts.get("done"):  # what is to be repaired is left for the service to go on with
            desk.withdraw(ask)
            desk.forget(ask)
    _raise(facts)
    print_json(facts) if json else show(facts, dry_run=dry_run)
    raise typer.Exit(exit_code(facts))


class _Shower:
    """Shows the plan once there is one, then the bar."""

    def __init__(self, told: Callable[[int, int | None], None], *, quiet: bool) -> None:
        self._told = told
        self._quiet = quiet
        self._phase = ""

    def seen(self, facts: dict[str, Any]) -> None:
        """Something changed."""
        if not self._quiet and facts["phase"] == "sending" != self._phase:
            show_plan(facts["plan"])
        if not self._quiet and facts["link"] and self._phase != facts["phase"]:
            err.print(f"waiting for home: {facts['link']}", markup=False)
        self._phase = facts["phase"]
        total = facts["total_bytes"]
        self._told(total - facts["left_bytes"], total or None)


def _until_done(settings: AgentSettings, desk: "Desk", ask: "Ask", seconds: float | None, seen: Seen) -> dict[str, Any]:
    """Do it, or follow the service that does; the last facts, `done` among them if it is. Raises LinkError."""
    from agent.outbox import Outbox

    end = None if seconds is None else SYSTEM.monotonic() + seconds
    while end is None or SYSTEM.monotonic() < end:
        try:
            outbox = Outbox.open(settings.state, settings.agent, clock=SYSTEM)
        except StoreLocked:
            facts = _follow(desk, ask, end, seen)
            if facts.get("done") or (end is not None and SYSTEM.monotonic() >= end):
                return facts
        else:
            try:
                left = None if end is None else max(end - SYSTEM.monotonic(), 0.1)
                return asyncio.run(_alone(settings, desk, ask, outbox, left, seen))
            finally:
                outbox.close()
    return desk.told(ask)


def _follow(desk: "Desk", ask: "Ask", end: float | None, seen: Seen) -> dict[str, Any]:
    """What the service says, until it is done, time is over, or nobody says anything any more."""
    began, heard, link = SYSTEM.monotonic(), SYSTEM.now_ns(), _LinkWatch()
    while end is None or SYSTEM.monotonic() < end:
        facts = desk.told(ask)
        if facts:
            heard = facts["written_ns"]
            if facts.get("done"):
                return facts
            seen(facts)
            link.look(facts)
        if SYSTEM.now_ns() - heard > _SILENT_AFTER_NS and SYSTEM.monotonic() - began > _SILENT_AFTER_NS / 1e9:
            return facts
        SYSTEM.wait(_LOOK_EVERY)
    return desk.told(ask)


async def _alone(
    settings: AgentSettings, desk: "Desk", ask: "Ask", outbox: Any, seconds: float | None, seen: Seen
) -> dict[str, Any]:
    """The service does not run: connect, and do it here."""
    from agent.push import Push
    from agent.resync_turn import Turn
    from tape.receipt import load_public

    text = settings.receiver.receipt_key
    key = load_public(text) if text else None
    push = Push(outbox, settings.receiver, agent=settings.agent, key=settings.key_path, receipt_key=key, clock=SYSTEM)
    last: dict[str, Any] = {}
    link = _LinkWatch()

    def note(facts: dict[str, Any]) -> None:
        last.update(facts)
        seen(facts)

    async def watch() -> None:
        while True:
            if last:
                link.look(last)
            await SYSTEM.sleep(_LOOK_EVERY)

    turn = Turn(desk, outbox, push, receipt_key=key, clock=SYSTEM, seen=note)
    work = asyncio.ensure_future(turn.attend(ask))
    delivery, watching = asyncio.ensure_future(push.run()), asyncio.ensure_future(watch())
    try:
        done, _ = await asyncio.wait([delivery, work, watching], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        return {**work.result(), "done": True} if work in done else last
    finally:
        for task in (work, watching):
            task.cancel()
        await asyncio.gather(work, watching, return_exceptions=True)
        await push.stop()
        await asyncio.gather(delivery, return_exceptions=True)


class _LinkWatch:
    """Gives up when home could not be reached for a while, before anything was compared."""

    def __init__(self) -> None:
        self._since: float | None = None

    def look(self, facts: dict[str, Any]) -> None:
        """Raises LinkError."""
        if not facts["link"] or facts["phase"] != "waiting for home":
            self._since = None
            return
        now = SYSTEM.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since > NO_LINK:
            raise LinkError(
                f"home can't be reached: {facts['link']}", hint="the service goes on with it once there is a connection"
            )


def _raise(facts: dict[str, Any]) -> None:
    """The error that ended it, if one did."""
    if not facts.get("error"):
        return
    kinds = {kind.code: kind for kind in _kinds(HometapeError)}
    raise kinds.get(facts["code"], HometapeError)(facts["error"], hint=facts["hint"])


def _kinds(kind: type[HometapeError]) -> list[type[HometapeError]]:
    return [kind, *(deeper for child in kind.__subclasses__() for deeper in _kinds(child))]


def exit_code(facts: dict[str, Any]) -> int:
    """0 level, 1 not level yet, 2 something is gone, wrong, foreign or refused."""
    return int(facts["exit_code"]) if facts.get("done") else max(int(facts.get("exit_code", 0)), WARNING)


# ------------------------------------------------------------------------------------------------- for a person

COLUMNS = {
    "missing": "to send again",
    "waiting": "on its way",
    "gone": "gone everywhere",
    "wrong": "wrong",
    "foreign": "foreign",
    "refused": "refused",
}
SAID = {
    "gone": "{n} segments are gone everywhere: neither here nor in the home archive; `tape-receiver resync` at home"
    " brings them back if another target has them",
    "wrong": "{n} segments are other bytes at home than were made here: see `tape-receiver status` at home, and verify",
    "foreign": "home holds {n} segments that this outbox never made: was it restored from an older copy? move outbox.db"
    " aside so that a new epoch begins",
    "refused": "{n} segments were refused by home and wait for a person: see `tape-agent status`",
    "missing": "{n} segments that are here are not at home yet",
    "waiting": "{n} segments are on their way home",
}


def show_plan(plan: dict[str, Any]) -> None:
    """The plan as a table: a line for each stream, a column for whatever there is of it."""
    table = Table("stream", box=None)
    shown = [fate for fate in COLUMNS if any(stream[fate]["segments"] for stream in plan["streams"])]
    for title in ("made", *(COLUMNS[fate] for fate in shown), ""):
        table.add_column(title, justify="right")
    for stream in plan["streams"]:
        cells = [_cell(stream[fate]) for fate in shown]
        table.add_row(stream["stream"], f"{stream['made']:,}", *cells, "level" if stream["level"] else "")
    out.print(table)
    if plan["by_receipts"]:
        out.print("home has no inventory (a drop box): compared by its receipts, numbers only, no digests")
    if plan["other_epochs"]:
        others = plural(len(plan["other_epochs"]), "epoch")
        out.print(f"home also holds {others} of earlier outboxes, which nobody here can compare")


def _cell(count: dict[str, Any]) -> str:
    if not count["segments"]:
        return ""
    said = f" ({size(count['bytes'])})" if count["bytes"] else ""
    return f"{count['segments']:,}{said}"


def show(facts: dict[str, Any], *, dry_run: bool) -> None:
    """What came of it."""
    last = facts.get("after") or facts.get("plan")
    if last is None:
        out.print("home was not reached in time; the service goes on with it")
        return
    show_plan(last)
    if facts["again_segments"]:
        out.print(f"{facts['again_segments']:,} segments, {size(facts['again_bytes'])}, were to be sent again")
    if not facts.get("done"):
        left = f"{facts['left_segments']:,} segments, {size(facts['left_bytes'])}"
        out.print(f"not done yet: {left} are left; the service goes on, and this command follows it again")
    code = exit_code(facts)
    for fate, text in SAID.items():
        count = sum(stream[fate]["segments"] for stream in last["streams"])
        if count:
            word = "critical" if code == CRITICAL and fate not in ("missing", "waiting") else "note"
            out.print(f"{word}: {text.format(n=f'{count:,}')}", markup=False)
    if not last["streams"]:
        out.print("nothing was sealed here yet: there is nothing to compare before `tape-agent run` has read the files")
    elif last["level"] and facts.get("done"):
        out.print("level: home holds exactly what was made here")
    elif dry_run:
        out.print("nothing was sent (--dry-run)")
