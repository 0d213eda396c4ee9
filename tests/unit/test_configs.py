"""The annotated configurations in configs/ are what `init` writes, and hold every option."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent.cli import app as agent_app
from agent.settings import AgentSettings
from receiver.cli import app as receiver_app
from receiver.settings import ReceiverSettings
from tape.errors import ConfigError
from tape.settings import load, options

CONFIGS = Path(__file__).parents[2] / "configs"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEXAMPLEexampleEXAMPLEexampleEXAMPLEexampleEXAMP"
AGENT = ["init", "--dry-run", "--agent", "server1", "--state", "/var/lib/hometape", "--path", "/srv/bot/ticks/*.csv"]
RECEIVER = ["init", "--dry-run", "--state", "/srv/hometape/state", "--home", "/srv/hometape/archive"]
RECEIVER += ["--target", "nas=/mnt/nas/hometape,nas,home", "--agent", f"server1={KEY}"]


@pytest.mark.parametrize(("name", "app", "words"), [("agent", agent_app, AGENT), ("receiver", receiver_app, RECEIVER)])
def test_configs_are_what_init_prints(name: str, app: object, words: list[str]) -> None:
    """The file in configs/ is exactly what the command in its first lines prints."""
    result = CliRunner().invoke(app, words)  # type: ignore[arg-type] # a typer application
    assert result.exit_code == 0, result.output
    path = CONFIGS / f"{name}.toml"
    assert path.read_text(encoding="utf-8").strip() == result.output.strip(), (
        f"renew {path} with: tape-{name} {' '.join(words)}"
    )


@pytest.mark.parametrize(("name", "model"), [("agent", AgentSettings), ("receiver", ReceiverSettings)])
def test_configs_load_and_hold_every_option(name: str, model: type[AgentSettings]) -> None:
    """Each option stands in its file with its meaning before it, and the file loads."""
    path = CONFIGS / f"{name}.toml"
    load(model, path)
    text = path.read_text(encoding="utf-8")
    for option in options(model):
        assert f"\n{option.key} = " in text or f"\n#{option.key} = " in text or f"\n#{option.key} =" in text, option.key
        assert " ".join(option.meaning.split()[:4]) in text, option.key


@pytest.mark.parametrize(("app", "model"), [(agent_app, AgentSettings), (receiver_app, ReceiverSettings)])
def test_help_lists_every_option(app: object, model: type[AgentSettings]) -> None:
    """`run --help` names each option of the configuration with its default."""
    result = CliRunner().invoke(app, ["run", "--help"], terminal_width=500)  # type: ignore[arg-type] # a typer application
    text = " ".join(result.output.split())
    for option in options(model):
        key = f"{option.table}.{option.key}" if option.table else option.key
        assert f"{key} (" in text, key


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--host-key", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA"),
        ("--host-key", "hometape-receipt-key x"),
        ("--receipt-key", "hometape-receipt-key AAAA"),
        ("--receipt-key", KEY),
    ],
)
def test_a_key_that_is_none_is_refused_before_anything_is_written(tmp_path: Path, option: str, value: str) -> None:
    """A key cut off in copying, or the other one of the two, is told at once, not when the agent can't log in."""
    config = tmp_path / "agent.toml"
    words = ["init", "--config", str(config), "--agent", "a", "--state", str(tmp_path / "state"), option, value]
    with pytest.raises(ConfigError, match=f"receiver.{option[2:].replace('-', '_')} can't be read") as caught:
        CliRunner().invoke(agent_app, words, standalone_mode=False, catch_exceptions=False)
    assert "tape-receiver check" in caught.value.hint
    assert not config.exists()
