"""Options that several subcommands share, and opening the configuration."""

from pathlib import Path
from typing import Annotated

import typer

from receiver.policy import check_policy
from receiver.settings import ReceiverSettings
from tape.console import default_config
from tape.errors import ConfigError
from tape.settings import load

NAME = "receiver.toml"
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="configuration file (default: receiver.toml in the usual folder)"),
]
RCLONE = "rclone:"  # and NAME:PATH: a bare remote in place of a folder
RcloneConfigOption = Annotated[
    Path | None,
    typer.Option("--rclone-config", help="rclone's configuration file for rclone:NAME:PATH (default: rclone's own)"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON document instead of text")]


def settings_from(config: Path | None) -> ReceiverSettings:
    """Load the configuration; raises ConfigError, also where its targets can't satisfy its policy."""
    path = config or default_config(NAME)
    settings = load(ReceiverSettings, path)
    try:
        check_policy(settings)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}", hint=error.hint) from None
    return settings
