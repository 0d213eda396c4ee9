"""Options that several subcommands share, and opening the configuration."""

from pathlib import Path
from typing import Annotated

import typer

from receiver.settings import ReceiverSettings
from tape.console import default_config
from tape.settings import load

NAME = "receiver.toml"
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="configuration file (default: receiver.toml in the usual folder)"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON document instead of text")]


def settings_from(config: Path | None) -> ReceiverSettings:
    """Load the configuration; raises ConfigError."""
    return load(ReceiverSettings, config or default_config(NAME))
