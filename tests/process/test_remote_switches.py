"""The switches that every rclone of a remote is really started with, and what they keep rclone from."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from receiver.settings import TargetSettings
from receiver.targets.contract import SUMS, Parcel
from receiver.targets.rclone import find_rclone
from receiver.targets.remote import RemoteTarget
from receiver.targets.remote_store import RemoteStore
from tape.digest import xxh3
from tape.errors import AlreadyThere, TargetAbsent, TargetError
from tests.support import run
from tests.support.parcels import parcel
from tests.support.rclone_servers import Remotes, entry_of, obscured, remote_target

pytestmark = pytest.mark.process


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The words after `rclone` of every rclone that is started, in order."""
    seen: list[list[str]] = []
    real = subprocess.Popen

    def popen(argv: Sequence[str], **more: Any) -> Any:
        if argv[0] == str(find_rclone()):
            seen.append(list(argv[1:]))
        return real(argv, **more)

    monkeypatch.setattr("receiver.targets.rclone.subprocess.Popen", popen)
    return seen


def crypt_on_disk(remotes: Remotes) -> str:
    """A fresh crypt over a folder of this machine."""
    under = remotes.place("local")
    name = f"crypt-{under.removesuffix(':')}"
    secrets = {"password": obscured("one"), "password2": obscured("two")}
    remotes.add(name, {"type": "crypt", "remote": under, **secrets})
    return f"{name}:"


def use_all(entry: TargetSettings, target: RemoteTarget, state: Path) -> None:
    """Every step that a target takes at its remote."""
    RemoteStore(entry, state).make_root()
    items = [parcel(seq, b"segment %d" % seq) for seq in range(2)]
    with pytest.raises(TargetAbsent), target.store.stage.under_way([items[0].path]):
        raise TargetAbsent("a run that was cut, whose parts are to be swept away")
    assert target.put_many(items) == [None, None]
    target.verify_many(items)
    target.verify(items[0].path)
    target.note_sums([(items[0].path, "0" * 64)])
    target.settle()
    target.set_aside(items[0].path, "a test")
    assert [found.path for found in target.list()] == [items[1].path]
    target.free()
    target.recover()


def test_every_run_keeps_to_the_settings(remotes: Remotes, tmp_path: Path, started: list[list[str]]) -> None:
    """`requests` reaches every rclone, and `transfers` each that moves files; rclone takes them as they are given."""
    entry = entry_of(crypt_on_disk(remotes), remotes.config, requests=75.5, transfers=7)
    state = tmp_path / "state"
    started.clear()  # what made the remote
    target = remote_target(entry.remote, remotes.config, state, requests=75.5, transfers=7)
    use_all(entry, target, state)
    commands = {words[0] for words in started}
    assert commands == {
        *("about", "backend", "cat", "config", "copy", "cryptcheck"),
        *("delete", "lsjson", "mkdir", "moveto"),
    }
    assert [words for words in started if words.count("--tpslimit=75.5") != 1] == []
    assert [words for words in started if words[0] in ("copy", "cryptcheck") and "--transfers=7" not in words] == []


def test_without_a_rate_none_is_set(remotes: Remotes, tmp_path: Path, started: list[list[str]]) -> None:
    """By default nothing slows rclone down."""
    target = remote_target(remotes.place("local"), remotes.config, tmp_path / "state")
    assert target.put_many([parcel(1, b"x")]) == [None]
    assert started
    assert not [word for words in started for word in words if word.startswith(("--tpslimit", "--bwlimit"))]


@pytest.mark.parametrize("option", ["global.no_check_dest", "global.ignore_times"])
def test_nothing_is_replaced_whatever_rclone_is_configured_to(option: str, remotes: Remotes, tmp_path: Path) -> None:
    """A remote may carry switches of a person's own runs, even one that looks at nothing before it writes."""
    item = parcel(1, b"first")
    plain = remotes.place("local")
    target = remote_target(plain, remotes.config, tmp_path / "state")
    assert target.put_many([item]) == [None]
    odd = f"odd-{plain}"
    remotes.add(odd.removesuffix(":"), {"type": "alias", "remote": plain, option: "true"})
    target = remote_target(odd, remotes.config, tmp_path / "state", prepare=False)
    other = Parcel(item.path, 5, xxh3(b"other"), lambda: [b"other"])
    assert isinstance(target.put_many([other])[0], TargetError | AlreadyThere)
    assert b"".join(target.read(item.path)) == b"first"


@pytest.mark.parametrize("kind", ["local", "crypt", "webdav"])
def test_sums_lie_at_the_remote(kind: str, remotes: Remotes, tmp_path: Path) -> None:
    """Once settled, plain rclone finds SHA256SUMS beside the segments, with a line for each, and so again and again."""
    place = crypt_on_disk(remotes) if kind == "crypt" else remotes.place(kind)
    target = remote_target(place, remotes.config, tmp_path / "state")
    items = [parcel(seq, b"%d" % seq) for seq in range(3)]
    assert target.put_many(items) == [None] * 3
    folder, _, _ = items[0].path.rpartition("/")
    at = target.store.at(f"{folder}/{SUMS}")
    lines: list[str] = []
    for seq, item in enumerate(items):
        target.note_sums([(item.path, f"{seq:064x}")])
        target.settle()
        lines.append(f"{seq:064x}  {item.path.rpartition('/')[2]}")
        done = run([str(find_rclone()), "cat", "--config", remotes.config, at], within=60, code=0)
        assert sorted(done.out.splitlines()) == sorted(lines)
