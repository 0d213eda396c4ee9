"""The shell of both commands: exit codes and how errors look."""

import sys
from pathlib import Path

import pytest
import typer

from tape.console import MEANINGS, default_config, err, out, run_app
from tape.errors import HometapeError, StoreLocked, every


def app_that(raises: BaseException | None, code: int | None = None) -> typer.Typer:
    """An application with two commands, one of which does this."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)

    @app.command()
    def act() -> None:
        if raises is not None:
            raise raises
        if code is not None:
            raise typer.Exit(code)

    @app.command()
    def other(number: int) -> None:
        assert number

    return app


def outcome(monkeypatch: pytest.MonkeyPatch, app: typer.Typer, *words: str) -> int | str | None:
    """The exit code of running the application with these words."""
    monkeypatch.setattr(sys, "argv", ["tape-x", *words])
    with pytest.raises(SystemExit) as caught:
        run_app(app, "tape-x")
    return caught.value.code


def test_errors_of_the_tree_show_fact_and_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error is its fact and a hint on standard error, and its own exit code."""
    assert outcome(monkeypatch, app_that(StoreLocked("busy [bold]")), "act") == StoreLocked.exit_code
    assert capsys.readouterr().err.splitlines() == ["busy [bold]", f"hint: {StoreLocked.default_hint}"]


@pytest.mark.parametrize("words", [["nonsense"], ["act", "--nonsense"], ["other", "x"], ["other"], []])
def test_usage_errors(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    """Every kind of wrong command line ends with 64, never with 2, which means critical."""
    assert outcome(monkeypatch, app_that(None), *words) == 64


def test_exit_codes_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check's 1 stays 1; plain success is 0; Ctrl-C is 130."""
    assert outcome(monkeypatch, app_that(None, 1), "act") == 1
    assert outcome(monkeypatch, app_that(None), "act") == 0
    assert outcome(monkeypatch, app_that(KeyboardInterrupt()), "act") == 130


def test_every_error_has_a_documented_exit_code() -> None:
    """No error ends with a code that the table does not explain, and codes of the tree are distinct names."""
    for kind in every():
        assert kind.exit_code in MEANINGS, kind
    names = [kind.code for kind in every() if "code" in vars(kind)]
    assert len(names) == len(set(names))
    assert issubclass(StoreLocked, HometapeError)


def test_default_config_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment names the folder; without it there is a usual one."""
    monkeypatch.setenv("HOMETAPE_CONFIG_DIR", str(tmp_path))
    assert default_config("agent.toml") == tmp_path / "agent.toml"
    monkeypatch.delenv("HOMETAPE_CONFIG_DIR")
    assert default_config("agent.toml").name == "agent.toml"


def test_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """A remote may be called `cloud`: `:cloud:` is its name, not a picture."""
    out.print("rclone:cloud:tape", markup=False)
    err.print("rclone:cloud:tape", markup=False)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("rclone:cloud:tape\n", "rclone:cloud:tape\n")
