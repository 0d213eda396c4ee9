"""Settings: sizes, durations, and errors that name file, line and key."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.settings import AgentSettings
from receiver.cli.options import settings_from
from receiver.settings import ReceiverSettings
from tape.annotate import annotated, quoted
from tape.errors import ConfigError
from tape.settings import load, options, parse_duration, parse_size, show_duration, show_size

MINIMAL = 'agent = "server1"\nstate = "/x"\n'


@pytest.mark.parametrize(
    ("text", "size"), [("5", 5), ("64 MiB", 2**26), ("20GB", 20 * 10**9), ("1.5 k", 1500), ("2TiB", 2**41), ("0 B", 0)]
)
def test_sizes(text: str, size: int) -> None:
    """Sizes read in decimal and binary units."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("60 s", 60), ("5min", 300), ("26 h", 93600), ("250ms", 0.25), ("1 d", 86400)]
)
def test_durations(text: str, seconds: float) -> None:
    """Durations read in the usual units."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "x", "5 parsecs", "-1", "1e3", "5 MiB s"])
def test_bad_sizes_and_durations(text: str) -> None:
    """What is neither is refused with an example."""
    with pytest.raises(ValueError, match="such as"):
        parse_size(text)
    with pytest.raises(ValueError, match="such as"):
        parse_duration(text)


@given(st.integers(0, 2**50))
def test_sizes_show_as_they_read(size: int) -> None:
    """A size that is shown reads back exactly."""
    assert parse_size(show_size(size)) == size


@given(st.integers(0, 10**6))
def test_durations_show_as_they_read(seconds: int) -> None:
    """A duration that is shown reads back exactly."""
    assert parse_duration(show_duration(float(seconds))) == seconds


def write(tmp_path: Path, text: str) -> Path:
    """A configuration file with this text."""
    path = tmp_path / "agent.toml"
    path.write_text(text, encoding="utf-8", newline="\n")
    return path


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (MINIMAL + "[seal]\nmax_age = 'soon'\n", r"agent.toml:4: seal.max_age: 'soon' is not a duration"),
        (MINIMAL + "[seal]\nmax_agee = 5\n", r"agent.toml:4: seal.max_agee: unknown key"),
        (MINIMAL + "[receiver]\nport = 99999\n", r"agent.toml:4: receiver.port"),
        ('state = "/x"\n', r"agent: required, but missing"),
        ('agent = "Server"\nstate = "/x"\n', r"agent.toml:1: agent"),
        (
            MINIMAL + '[[source]]\nname="a"\npaths=["/x"]\nstream="s"\n[[source]]\nname="b"\nstream="t"\n',
            r"source.1.paths: required",
        ),
        (
            MINIMAL + '[[source]]\nname="a"\npaths=["/x"]\nstream="{what}"\n',
            r"agent.toml:6: source.0.stream: unknown placeholder",
        ),
        (MINIMAL + '[[source]]\nname="a"\npaths=["/x"]\nstream="s"\n' * 2, r"agent|declare|overwrite"),
        ("agent = [\n", r"agent.toml: "),
    ],
)
def test_errors_name_file_line_and_key(tmp_path: Path, text: str, wanted: str) -> None:
    """Each mistake in a file is named where it stands."""
    with pytest.raises(ConfigError, match=wanted):
        load(AgentSettings, write(tmp_path, text))


def test_a_missing_file_has_a_hint(tmp_path: Path) -> None:
    """Without a file the error says how to get one."""
    with pytest.raises(ConfigError, match="no such configuration file") as caught:
        load(AgentSettings, tmp_path / "absent.toml")
    assert "init" in caught.value.hint


def test_a_policy_that_cannot_be_satisfied_is_refused(tmp_path: Path) -> None:
    """Every command refuses a policy that its targets can't satisfy, and says what lacks and what there is."""
    home = '[[target]]\nid="home"\nhome=true\npath="/h"\n'
    nas = '[[target]]\nid="nas"\nmedium="nas"\npath="/n"\n'
    policy = '[policy]\ncopies=2\nmedia=2\n[[policy.stream]]\nmatch="*/btc/*"\ncopies=3\nsites=2\n'
    path = write(tmp_path, 'state="/x"\n' + policy + home)
    with pytest.raises(ConfigError) as raised:
        settings_from(path)
    never = "can't be satisfied by the configured targets"
    assert str(raised.value) == (
        f"{path}: [[policy.stream]] '*/btc/*' {never}: 1 of 3 copies, 1 of 2 media, 1 of 2 sites;"
        f" [policy] {never}: 1 of 2 copies, 1 of 2 media"
    )
    assert raised.value.hint == "configured: home (disk at home); add a target, or lower `policy` in receiver.toml"
    with pytest.raises(ConfigError, match=r": \[\[policy.stream\]\] .*: 2 of 3 copies, 1 of 2 sites$"):
        settings_from(write(tmp_path, 'state="/x"\n' + policy + home + nas))
    cloud = '[[target]]\nid="cloud"\nkind="remote"\nremote="s3:x"\n'
    assert len(settings_from(write(tmp_path, 'state="/x"\n' + policy + home + nas + cloud)).target) == 3


@pytest.mark.parametrize("homes", [0, 2])
def test_exactly_one_home(tmp_path: Path, homes: int) -> None:
    """Without a home archive, or with two, nothing starts."""
    targets = "".join(f'[[target]]\nid="t{n}"\npath="/{n}"\nhome={str(n < homes).lower()}\n' for n in range(2))
    with pytest.raises(ConfigError, match="exactly one target"):
        load(ReceiverSettings, write(tmp_path, 'state="/x"\n' + targets))


@pytest.mark.parametrize("model", [AgentSettings, ReceiverSettings])
def test_every_option_says_what_it_means(model: type[AgentSettings]) -> None:
    """No option is without a meaning, and none with a default lacks its text."""
    for option in options(model):
        assert option.meaning, option.key


def test_an_annotated_file_reads_back(tmp_path: Path) -> None:
    """What `init` writes is a valid file with the defaults, Windows paths included."""
    values = {"agent": quoted("server1"), "state": quoted(r"C:\Users\me")}
    source = {"name": quoted("ticks"), "paths": "['/x/*.csv']", "stream": quoted("a/{stem}")}
    settings = load(
        AgentSettings,
        write(tmp_path, annotated(AgentSettings, "Intro.", values, {"source": [source, source | {"name": "'b'"}]})),
    )
    assert str(settings.state) == r"C:\Users\me"
    assert [s.name for s in settings.source] == ["ticks", "b"]
    assert settings.seal == AgentSettings(agent="x", state=Path("/x")).seal
