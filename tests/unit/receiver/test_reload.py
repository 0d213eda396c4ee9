"""A changed configuration: what is followed, what waits for a restart, what is refused, and when it is looked at."""

from pathlib import Path
from typing import Any

import pytest

from receiver.reload import HOME, ConfigWatch, compare
from receiver.settings import ReceiverSettings
from tape.errors import ConfigError
from tape.settings import load

BASE = """\
state = "state"

[policy]
copies = 2

[[target]]
id = "home"
path = "home"
home = true

[[target]]
id = "nas"
path = "nas"
medium = "nas"
"""
CLOUD = '\n[[target]]\nid = "attic"\npath = "attic"\n'


class File:
    """A configuration file and the watch on it, as the service has them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "receiver.toml"
        self.write(BASE)
        self.watch = ConfigWatch(self.path, load(ReceiverSettings, self.path))

    def write(self, text: str) -> None:
        self.path.write_text(text, encoding="utf-8", newline="\n")

    def settle(self) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """Two looks; what the second one found: what is followed, and what waits for a restart."""
        assert self.watch.look() is None
        change = self.watch.look()
        if change is None:
            return None
        self.watch.running = change.settings
        return change.followed, change.restart


@pytest.fixture
def file(tmp_path: Path) -> File:
    """See the class."""
    return File(tmp_path)


def test_an_unchanged_file_asks_for_nothing(file: File) -> None:
    """Not at the first looks, nor later, nor when it was merely written again."""
    assert file.settle() == ((), ())
    file.write(BASE)
    assert [file.watch.look() for _ in range(3)] == [None, None, None]
    file.write(BASE + "\n# a remark\n")
    assert file.settle() == ((), ())


def test_targets_and_policy_are_followed(file: File) -> None:
    """Each section by its name; the settings to go on with hold them."""
    file.settle()
    file.write(BASE.replace("copies = 2", "copies = 3") + CLOUD)
    assert file.settle() == (("target", "policy"), ())
    assert [target.id for target in file.watch.running.target] == ["home", "nas", "attic"]
    assert file.watch.running.policy.copies == 3


def test_a_file_that_is_being_written_is_left_alone(file: File) -> None:
    """An editor writes piece by piece: a piece that would be valid by itself must not cost a target for a moment."""
    file.settle()
    file.write(BASE.replace("copies = 2", "copies = 1")[: BASE.index('\n[[target]]\nid = "nas"')])
    assert file.watch.look() is None
    file.write(BASE + CLOUD)
    assert file.watch.look() is None
    change = file.watch.look()
    assert change is not None
    assert (change.followed, len(change.settings.target)) == (("target",), 3)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (BASE + "nonsense", "receiver.toml"),
        (BASE.replace("copies", "copeis"), "policy.copeis: unknown key"),
        (BASE.replace("copies = 2", "copies = 3"), "2 of 3 copies"),
        (BASE.replace("home = true", ""), "home = true"),
    ],
)
def test_what_can_not_be_used_is_told_once(file: File, text: str, word: str) -> None:
    """Broken, wrong or out of reach: raised once with the reason, and the same file never again."""
    file.settle()
    file.write(text)
    assert file.watch.look() is None
    with pytest.raises(ConfigError) as caught:
        file.watch.look()
    assert word in str(caught.value)
    assert [file.watch.look() for _ in range(3)] == [None, None, None]
    file.write(BASE + CLOUD)
    assert file.settle() == (("target",), ())


def test_a_file_that_vanishes_is_told_once(file: File) -> None:
    """Gone for a while, as in a careless replacement: told once; when it is back as it was, nothing is asked for."""
    file.settle()
    file.path.unlink()
    assert file.watch.look() is None
    with pytest.raises(ConfigError, match="can't be read"):
        file.watch.look()
    assert file.watch.look() is None
    file.write(BASE)
    assert file.settle() == ((), ())


def test_not_text_is_told(file: File) -> None:
    """Bytes that are no UTF-8 text."""
    file.path.write_bytes(b"\xff\xfe\x00")
    file.watch.look()
    with pytest.raises(ConfigError, match="can't be read"):
        file.watch.look()


def settings(**changes: Any) -> ReceiverSettings:
    targets = [{"id": "home", "path": "home", "home": True}, {"id": "nas", "path": "nas"}]
    return ReceiverSettings.model_validate({"state": "state", "target": targets, **changes})


def test_the_rest_waits_for_a_restart(file: File) -> None:
    """Other options are named, and not taken over; what can be followed beside them is."""
    change = compare(settings(), settings(name="other", listen={"port": 1}, policy={"copies": 1}))
    assert (change.followed, change.restart) == (("policy",), ("name", "listen"))
    assert (change.settings.name, change.settings.policy.copies) == ("home", 1)


@pytest.mark.parametrize(
    "home", [{"id": "home", "path": "elsewhere", "home": True}, {"id": "h2", "path": "home", "home": True}]
)
def test_another_home_archive_is_never_followed(home: dict[str, Any]) -> None:
    """Uploads are committed there: neither it nor what came with it is taken over under way."""
    change = compare(settings(), settings(target=[home, {"id": "attic", "path": "attic"}], policy={"copies": 1}))
    assert (change.followed, change.restart) == ((), (HOME,))
    assert change.settings == settings()
