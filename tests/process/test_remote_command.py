"""`tape-receiver remote`: a person's way to a remote, with real servers; and where its secrets go."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest

from receiver.targets.contract import MARKER, README
from receiver.targets.rclone_config import create
from tape.errors import AlreadyThere, UsageError
from tests.support import Finished, command, run
from tests.support.fake_b2 import FakeB2
from tests.support.parcels import parcel
from tests.support.processes import environment
from tests.support.rclone_servers import KEY, PASSWORD, SECRET, USER, Remotes, remote_target

pytestmark = pytest.mark.process


class Home:
    """A receiver's configuration, and its command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "receiver.toml"
        self.rclone_config = folder / "rclone.conf"
        self.call("init", "--state", str(folder / "state"), "--home", str(folder / "home"), code=0)

    def call(self, *args: str, code: int | None = None, **env: str) -> Finished:
        """Run `tape-receiver` without a terminal."""
        given = environment(HOMETAPE_CONFIG_DIR=str(self.folder), **env)
        return run([*command("tape-receiver"), *args], code=code, env=given)

    def targets(self) -> list[str]:
        """The ids that are configured."""
        return [entry["id"] for entry in tomllib.loads(self.config.read_text(encoding="utf-8"))["target"]]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A receiver without remotes."""
    return Home(tmp_path)


def s3_options(remotes: Remotes) -> list[str]:
    server = remotes.server("s3")
    given = {"provider": "Rclone", "endpoint": server.options["endpoint"], "access_key_id": KEY}
    return [word for key, value in given.items() for word in ("--option", f"{key}={value}")]


def test_adds_an_encrypted_bucket_and_tries_it_out(home: Home, remotes: Remotes) -> None:
    """One command makes bucket, remote and crypt, prepares the place and adds the target; the others show it works."""
    done = home.call(
        *("remote", "add", "cloud", "--kind", "s3", *s3_options(remotes), "--path", "fresh-bucket/tape", "--crypt"),
        *("--create-bucket", "--rclone-config", str(home.rclone_config)),
        HOMETAPE_REMOTE_SECRET=SECRET,
        code=0,
    )
    assert "cryptcheck md5" in done.out
    assert home.targets() == ["home", "cloud"]
    kept = home.rclone_config.read_text(encoding="utf-8")
    assert SECRET in kept
    if sys.platform != "win32":
        assert home.rclone_config.stat().st_mode & 0o777 == 0o600
    assert SECRET not in done.out + done.err + home.config.read_text(encoding="utf-8")
    stored = [path for path in (remotes.server("s3").folder / "fresh-bucket").rglob("*") if path.is_file()]
    assert len(stored) == 2
    assert not any(path.name in (MARKER, README) or b"hometape" in path.read_bytes().lower() for path in stored)

    listed = json.loads(home.call("remote", "list", "--json", code=0).out)
    assert [(one["id"], one["type"], one["crypt"], one["proof"], one["state"]) for one in listed] == [
        ("cloud", "s3", True, "cryptcheck md5", "ready")
    ]
    tried = home.call("remote", "test", "cloud", "--size", "64", code=0)
    for step in ("place", "write", "proof", "read", "list", "never replaces", "set aside", "delete"):
        assert f"ok       cloud {step}: " in tried.out, tried.out
    assert "MiB/s" in tried.out
    left = [path for path in (remotes.server("s3").folder / "fresh-bucket").rglob("*") if path.is_file()]
    assert sorted(left) == sorted(stored)


@pytest.mark.parametrize("kind", ["webdav", "sftp", "local"])
def test_adds_other_kinds(kind: str, home: Home, remotes: Remotes) -> None:
    """WebDAV and SFTP with a password, and a folder of this machine; each says how copies are proven there."""
    options: dict[str, str] = {}
    path = str(home.folder / "elsewhere")
    if kind != "local":
        server, path = remotes.server(kind), "added"
        names = ("url", "vendor") if kind == "webdav" else ("host", "port", "known_hosts_file")
        options = {"user": USER, **{name: server.options[name] for name in names}}
    words = [word for key, value in options.items() for word in ("--option", f"{key}={value}")]
    done = home.call(
        *("remote", "add", "other", "--kind", kind, *words, "--path", path, "--rclone-config", str(home.rclone_config)),
        HOMETAPE_REMOTE_SECRET=PASSWORD,
        code=0,
    )
    assert "copies are proven by: " in done.out
    assert PASSWORD not in home.rclone_config.read_text(encoding="utf-8")
    home.call("remote", "test", code=0)


def words_for_b2(home: Home, b2: FakeB2, *more: str) -> list[str]:
    words = ["remote", "add", "cloud", "--kind", "b2", "--option", f"account={b2.account}"]
    words += ["--option", f"endpoint={b2.url}", "--path", f"{b2.bucket}/tape", *more]
    return [*words, "--rclone-config", str(home.rclone_config)]


@pytest.mark.parametrize("crypt", [False, True], ids=["plain", "crypt"])
def test_adds_backblaze(home: Home, crypt: bool) -> None:
    """With key id and application key, which stay with rclone; the checksums of B2 prove copies, and all steps work."""
    with FakeB2("0012ab34cd56", "K001/application+key=of-a-test", "our-bucket") as b2:
        words = words_for_b2(home, b2, *(["--crypt"] if crypt else []))
        done = home.call(*words, HOMETAPE_REMOTE_SECRET=b2.key, code=0)
        assert f"copies are proven by: {'cryptcheck' if crypt else 'remote'} sha1" in done.out
        kept = ConfigParser(interpolation=None)
        kept.read(home.rclone_config, encoding="utf-8")
        made = dict(kept["cloud-base" if crypt else "cloud"])
        assert made == {"type": "b2", "account": b2.account, "key": b2.key, "endpoint": b2.url}
        assert b2.key not in done.out + done.err + home.config.read_text(encoding="utf-8")
        assert home.targets() == ["home", "cloud"]
        assert len(b2.files) == 2
        assert ({f"tape/{MARKER}", f"tape/{README}"} == set(b2.files)) is not crypt
        before = set(b2.files)
        assert "ok       cloud never replaces: " in home.call("remote", "test", "cloud", "--size", "64", code=0).out
        assert set(b2.files) == before


def test_a_wrong_key_for_backblaze_leaves_nothing_behind(home: Home) -> None:
    """Exit 77; neither the configuration of rclone nor ours knows the remote then, and the key is not told."""
    with FakeB2("0012ab34cd56", "K001right", "our-bucket") as b2:
        done = home.call(*words_for_b2(home, b2), HOMETAPE_REMOTE_SECRET="K001wrongwrongwrong", code=77)
        assert b2.asked
        assert not b2.files
    assert "K001wrong" not in done.out + done.err
    assert "[cloud" not in home.rclone_config.read_text(encoding="utf-8")
    assert home.targets() == ["home"]


@pytest.mark.parametrize("crypt", [[], ["--crypt"]], ids=["plain", "crypt"])
def test_a_failed_add_leaves_nothing_behind(home: Home, remotes: Remotes, crypt: list[str]) -> None:
    """Wrong credentials: exit 77, and nothing stays, nor with rclone; the same command with the right ones works."""
    before = home.config.read_bytes()
    words = ["remote", "add", "cloud", "--kind", "s3", *s3_options(remotes), "--path", "hometape/again", *crypt]
    words += ["--rclone-config", str(home.rclone_config)]
    done = home.call(*words, HOMETAPE_REMOTE_SECRET="WRONGSECRETWRONGSECRET", code=77)
    assert home.config.read_bytes() == before
    assert "[cloud" not in home.rclone_config.read_text(encoding="utf-8")
    assert "then the same command again" in done.err
    assert "WRONGSECRET" not in done.err + done.out
    home.call(*words, HOMETAPE_REMOTE_SECRET=SECRET, code=0)
    assert home.targets() == ["home", "cloud"]


def test_the_configuration_that_was_used_is_written_down(home: Home, remotes: Remotes) -> None:
    """Wherever rclone's configuration is, the service, perhaps of another user, learns it from receiver.toml."""
    words = ["remote", "add", "cloud", "--kind", "s3", *s3_options(remotes), "--path", "hometape/noted"]
    home.call(*words, HOMETAPE_REMOTE_SECRET=SECRET, RCLONE_CONFIG=str(home.rclone_config), code=0)
    entry = tomllib.loads(home.config.read_text(encoding="utf-8"))["target"][-1]
    assert entry["rclone_config"] == str(home.rclone_config)
    assert "ready" in home.call("remote", "list", code=0).out


def test_a_remote_below_an_encryption_is_never_offered_as_it_is(home: Home, remotes: Remotes) -> None:
    """Its name is taken: the hint does not lead to a target without the encryption that was asked for."""
    create("cloud-base", "s3", {}, {}, config=home.rclone_config)
    words = ["remote", "add", "cloud", "--kind", "s3", *s3_options(remotes), "--path", "hometape/x", "--crypt"]
    done = home.call(*words, "--rclone-config", str(home.rclone_config), HOMETAPE_REMOTE_SECRET=SECRET, code=73)
    assert "--remote" not in done.err
    assert "another id" in done.err
    assert "[cloud-base]" in home.rclone_config.read_text(encoding="utf-8")


def test_secrets_are_not_taken_from_a_command_line(home: Home) -> None:
    """An option that is a secret is refused, with the way that is safe; a missing one is named."""
    done = home.call("remote", "add", "x", "--kind", "webdav", "--option", "pass=hunter2", code=64)
    assert "HOMETAPE_REMOTE_SECRET" in done.err
    done = home.call("remote", "add", "x", "--kind", "b2", "--option", "account=a", "--path", "b", code=64)
    assert "HOMETAPE_REMOTE_SECRET" in done.err


@pytest.mark.parametrize("kind", ["drive", "dropbox"])
def test_explains_what_needs_a_browser(kind: str, home: Home) -> None:
    """The exact commands are printed; nothing is configured yet, and the exit code says so."""
    done = home.call("remote", "add", "cloud", "--kind", kind, code=1)
    assert f'rclone authorize "{kind}"' in done.err
    assert "tape-receiver remote add cloud --remote cloud:" in done.err
    assert home.targets() == ["home"]


def test_takes_a_remote_that_is_there(home: Home, remotes: Remotes) -> None:
    """`--remote NAME:PATH` prepares and adds it; another target's place is refused, as is an id that is taken."""
    place = remotes.place("s3")
    config = ["--rclone-config", str(remotes.config)]
    home.call("remote", "add", "one", "--remote", place, *config, code=0)
    refused = home.call("remote", "add", "two", "--remote", place, *config, code=74)
    assert "'one'" in refused.err
    home.call("remote", "add", "one", "--remote", f"{place}/x", *config, code=73)
    assert home.targets() == ["home", "one"]
    unreachable = home.call("remote", "add", "three", "--remote", "nobody:x", *config)
    assert unreachable.code == 69
    assert "remote add" in unreachable.err


def test_list_and_test_say_what_is_wrong(home: Home, remotes: Remotes) -> None:
    """A remote that is away: exit 1 from the list, 2 from the test, with the reason."""
    place = remotes.place("s3")
    config = ["--rclone-config", str(home.rclone_config)]
    home.rclone_config.write_bytes(remotes.config.read_bytes())
    home.call("remote", "add", "one", "--remote", place, *config, code=0)
    text = home.rclone_config.read_text(encoding="utf-8")
    text = text.replace(remotes.server("s3").options["endpoint"], "http://127.0.0.1:1/")
    home.rclone_config.write_text(text, encoding="utf-8", newline="\n")
    assert "refused" in home.call("remote", "list", code=1).out
    assert "refused" in home.call("remote", "test", "one", code=2).out
    home.call("remote", "test", "nobody", code=66)


@pytest.fixture
def started() -> Iterator[list[str]]:
    """Every command that this process starts, as the process list would show it."""
    seen: list[str] = []
    listening = [True]

    def hook(event: str, args: tuple[object, ...]) -> None:
        if listening and event == "subprocess.Popen":
            seen.append(str(args[1]))

    sys.addaudithook(hook)
    yield seen
    listening.clear()


def test_no_secret_is_ever_in_the_process_list(remotes: Remotes, tmp_path: Path, started: list[str]) -> None:
    """Making a remote, storing, proving, reading: no command line holds a password, obscured ones included."""
    place = remotes.place("crypt")
    config = tmp_path / "rclone.conf"
    config.write_bytes(remotes.config.read_bytes())
    create(
        "dav", "webdav", {"url": "http://127.0.0.1:1/"}, {"pass": PASSWORD}, obscured=frozenset({"pass"}), config=config
    )
    target = remote_target(place, config, tmp_path / "state")
    item = parcel(1, b"x")
    target.put_many([item])
    target.verify_many([item])
    target.verify(item.path)
    lines = config.read_text(encoding="utf-8").splitlines()
    hidden = [line.partition(" = ")[2] for line in lines if line.startswith(("pass", "secret"))]
    assert len(hidden) >= 4
    assert len(started) > 8
    for secret in (*hidden, PASSWORD, SECRET):
        assert not [words for words in started if secret in words and "'serve'" not in words]  # the test's own servers


@pytest.mark.parametrize("value", ["x$(touch PWNED)", "a`touch PWNED`", 'a" ; touch PWNED; "', "a\\b", "a\nb"])
def test_what_a_shell_would_read_never_reaches_one(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library builds a shell string: whatever a shell could read is refused before."""
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "odd $(touch PWNED) folder" / "rclone.conf"
    with pytest.raises(UsageError):
        create("x", "webdav", {"url": value}, {}, config=config)
    with pytest.raises(UsageError):
        create(value, "webdav", {}, {}, config=config)
    create("x", "webdav", {"url": "http://127.0.0.1:1/a b"}, {"pass": value.replace("\n", "")}, config=config)
    with pytest.raises(AlreadyThere):
        create("x", "webdav", {}, {}, config=config)
    assert not list(tmp_path.rglob("PWNED"))
    assert "PATH" in os.environ
    assert "url = http://127.0.0.1:1/a b" in config.read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal is imitated by a pseudo terminal")
def test_asks_on_a_terminal(home: Home) -> None:
    """Without options it asks, the password unseen, and ends with a target that works."""
    import pty

    upper, lower = pty.openpty()
    words = [*command("tape-receiver"), "remote", "add", "ask", "--crypt", "--rclone-config", str(home.rclone_config)]
    with subprocess.Popen(
        words,
        stdin=lower,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(HOMETAPE_CONFIG_DIR=str(home.folder)),
        start_new_session=True,
    ) as process:
        os.close(lower)
        assert process.stderr is not None
        asked = b""
        for prompt, answer in (
            (b"[s3]:", "local"),
            (b"machine:", str(home.folder / "there")),
            (b"one): ", "my own pw"),
        ):
            while not asked.endswith(prompt):  # what is typed before a hidden prompt is dropped
                letter = process.stderr.read(1)
                assert letter, asked.decode()
                asked += letter
            os.write(upper, f"{answer}\n".encode())
        said, rest = process.communicate(timeout=60)
        asked += rest
    os.close(upper)
    assert process.returncode == 0, asked.decode()
    assert b"target ask was added" in said
    assert b"kind of remote" in asked
    assert b"my own pw" not in said + asked
    assert "my own pw" not in home.rclone_config.read_text(encoding="utf-8")
    home.call("remote", "test", "ask", "--size", "16", code=0)
