"""`tape-receiver run`: the service."""

from receiver.cli.options import NAME, ConfigOption, settings_from
from tape.clock import SYSTEM
from tape.console import default_config
from tape.log import configure
from tape.notify import Notifier
from tape.supervise import run as run_loop
from tape.supervise import until_stopped

HELP = "Take segments in, prove and copy them until stopped: the service."


def run(config: ConfigOption = None) -> None:
    """Take segments in until stopped."""
    from receiver.service import Service

    settings = settings_from(config)
    configure(level=settings.log_level)
    service = Service(settings, clock=SYSTEM, notifier=Notifier(), config=config or default_config(NAME))
    main = until_stopped(service.run, notifier=service.notifier, clock=SYSTEM, alive=service.heartbeat.alive)
    run_loop(main, uvloop=settings.listen.uvloop)
