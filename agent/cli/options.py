"""Options that several subcommands share, and opening the configuration."""

from pathlib import Path
from typing import Annotated

import typer

from agent.settings import AgentSettings
from tape.console import default_config
from tape.settings import load

NAME = "agent.toml"
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="configuration file (default: agent.toml in the usual folder)"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON document instead of text")]


def settings_from(config: Path | None) -> AgentSettings:
    """Load the configuration; raises ConfigError."""
    return load(AgentSettings, config or default_config(NAME))
