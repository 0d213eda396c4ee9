"""`tape-agent run`: the service."""

from typing import Annotated

import typer

from agent.cli.options import ConfigOption, settings_from
from tape.clock import SYSTEM
from tape.log import configure
from tape.notify import Notifier
from tape.supervise import run as run_loop
from tape.supervise import until_stopped

HELP = "Read, seal and send until stopped: the service. --drain: what is there now, then stop."


def run(
    config: ConfigOption = None,
    drain: Annotated[
        bool, typer.Option("--drain", help="read all that is there now, send it, wait until home holds it, then end")
    ] = False,
    seal_only: Annotated[
        bool, typer.Option("--seal-only", help="with --drain: seal what is there and end without sending")
    ] = False,
) -> None:
    """Read, seal and send until stopped."""
    import pyarrow as pa

    from agent.service import Service
    from tape import sshtune

    settings = settings_from(config)
    configure(level=settings.log_level)
    sshtune.tune_allocator()
    pa.set_memory_pool(pa.system_memory_pool())  # one allocator: Arrow's own would keep as much memory again
    service = Service(settings, clock=SYSTEM, notifier=Notifier(), drain=drain or seal_only, send=not seal_only)
    run_loop(
        until_stopped(service.run, notifier=service.notifier, clock=SYSTEM, alive=service.heartbeat.alive), uvloop=True
    )
