"""Targets added to and taken out of receiver.toml by command: everything else stays as a person wrote it."""

import sys
import threading
import tomllib
from pathlib import Path

import pytest
from filelock import FileLock

from receiver import config_edit
from receiver.config_edit import add_target, remove_target
from receiver.settings import ReceiverSettings
from tape.durable import DISK, Disk
from tape.errors import AlreadyThere, ConfigError, DiskError, NotFound, StoreLocked
from tape.settings import load

WRITTEN = """\
# my tape at home
state = "/s"   # on the big disk

[[target]]
# a short name
id = "home"
path = "/h"
home = true
#medium = "disk"

# the old box in the cellar
[[target]]
id = "nas"
path = "/mnt/nas"  # [[target]]
#unmount = false

# ---- who may deliver

[[agent]]
name = "bot"
[[target]]
id = "far"
path = '''/mnt/
[[target]]
id = "nas"
'''
[policy]
copies = 1
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with comments everywhere, and a path that looks like one."""
    path = tmp_path / "receiver.toml"
    path.write_text(WRITTEN, encoding="utf-8", newline="")
    return path


def text_of(path: Path) -> str:
    return path.read_bytes().decode()


def test_a_target_is_added_at_the_end(config: Path) -> None:
    """Every line stays, one table is added, and the file says of each option what was given."""
    found = add_target(
        config, {"id": "usb1", "kind": "removable", "path": Path("tape"), "max_age": "31 d", "site": None}
    )
    assert text_of(config) == WRITTEN + (
        '\n[[target]]\nid = "usb1"\nkind = "removable"\npath = "tape"\nmax_age = "31 d"\n'
    )
    assert found == load(ReceiverSettings, config)
    assert found.target[-1].max_age == 31 * 86400
    assert text_of(config.with_name("receiver.toml.bak")) == WRITTEN


@pytest.mark.parametrize("value", ['quo"te', "back\\slash", "ünicode", "new\nline", "#no comment", "]]", "'"])
def test_any_text_comes_back_as_it_was(config: Path, value: str) -> None:
    """What an option holds can't break the file."""
    assert add_target(config, {"id": "x", "path": value}).target[-1].path == Path(value)
    remove_target(config, "x")
    assert text_of(config) == WRITTEN


def test_a_target_is_taken_out_with_its_own_comments_only(config: Path) -> None:
    """Its table and the comment on it go; what stands apart from it stays, strings that look like tables too."""
    remove_target(config, "nas")
    gone = WRITTEN.index("# the old box"), WRITTEN.index("# ---- who")
    assert text_of(config) == WRITTEN[: gone[0]] + WRITTEN[gone[1] :]
    remove_target(config, "far")
    assert text_of(config) == text_of(config.with_name("receiver.toml.bak")).replace(
        WRITTEN[WRITTEN.index('[[target]]\nid = "far"') : WRITTEN.index("[policy]")], ""
    )


def test_entries_in_one_line_can_be_edited_too(tmp_path: Path) -> None:
    """`target = [{...}]` is TOML as well."""
    config = tmp_path / "receiver.toml"
    config.write_bytes(b'state = "/s"\ntarget = [ {id="home", path="/h", home=true}, # c\n {id="b", path="/b"} ]\n')
    before = tomllib.loads(text_of(config))
    add_target(config, {"id": "usb", "kind": "removable"})
    assert "# c" in text_of(config)
    assert tomllib.loads(text_of(config))["target"][-1] == {"id": "usb", "kind": "removable"}
    remove_target(config, "usb")
    assert tomllib.loads(text_of(config)) == before


def test_line_ends_stay(config: Path) -> None:
    """A file of Windows keeps its CRLF everywhere."""
    config.write_bytes(
        WRITTEN.replace("'''", '"').replace('/mnt/\n[[target]]\nid = "nas"\n', "/far").replace("\n", "\r\n").encode()
    )
    before = config.read_bytes()
    add_target(config, {"id": "x", "path": "/x"})
    assert config.read_bytes().count(b"\n") == config.read_bytes().count(b"\r\n")
    remove_target(config, "x")
    assert config.read_bytes() == before


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"id": "x", "kind": "directory"}, "needs `path`"),
        ({"id": "x", "path": "/x", "colour": "red"}, "unknown key"),
        ({"id": "x y", "path": "/x"}, "x y"),
        ({"id": "x", "path": "/x", "home": True}, "exactly one target"),
    ],
)
def test_what_would_not_load_is_not_written(config: Path, values: dict[str, object], says: str) -> None:
    """A change that every later command would refuse is refused now, and the file stays."""
    with pytest.raises(ConfigError, match=says):
        add_target(config, values)
    assert text_of(config) == WRITTEN
    assert not config.with_name("receiver.toml.bak").exists()


def test_wrong_changes_are_named(config: Path, tmp_path: Path) -> None:
    """An id that is taken, one that is not there, the home archive, a broken file, no file: each says so."""
    with pytest.raises(AlreadyThere, match="'nas'"):
        add_target(config, {"id": "nas", "path": "/x"})
    with pytest.raises(NotFound, match="'usb'") as found:
        remove_target(config, "usb")
    assert "home, nas, far" in found.value.hint
    with pytest.raises(ConfigError, match="exactly one target"):
        remove_target(config, "home")
    with pytest.raises(ConfigError, match="no such configuration"):
        add_target(tmp_path / "none.toml", {"id": "x"})
    assert text_of(config) == WRITTEN
    for broken in (b"state = \xff", b"state = ", b"state = 1"):
        config.write_bytes(broken)
        with pytest.raises(ConfigError, match=r"receiver\.toml"):
            add_target(config, {"id": "x", "path": "/x"})
        assert config.read_bytes() == broken


def test_a_dry_run_writes_nothing(config: Path) -> None:
    """It gives the settings as they would be."""
    assert [t.id for t in add_target(config, {"id": "x", "path": "/x"}, dry_run=True).target][-1] == "x"
    assert "nas" not in [t.id for t in remove_target(config, "nas", dry_run=True).target]
    assert text_of(config) == WRITTEN


def test_a_disk_that_fails_leaves_the_old_file(config: Path) -> None:
    """The file is replaced whole or not at all."""

    class Failing(Disk):
        def replace(self, final: Path, data: bytes, *, like: Path | None = None) -> None:
            if final.name == "receiver.toml":
                raise DiskError("no")
            super().replace(final, data, like=like)

    with pytest.raises(DiskError):
        add_target(config, {"id": "x", "path": "/x"}, disk=Failing())
    assert text_of(config) == WRITTEN


def test_two_commands_at_once_both_count(config: Path) -> None:
    """No change is lost when several commands edit at the same time."""
    threads = [threading.Thread(target=add_target, args=(config, {"id": f"x{n}", "path": f"/{n}"})) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {t.id for t in load(ReceiverSettings, config).target} >= {f"x{n}" for n in range(8)}


def test_a_command_that_never_ends_is_not_waited_for_forever(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one says that another is at it."""
    monkeypatch.setattr(config_edit, "_PATIENCE", 0.1)
    with FileLock(f"{config}.lock"), pytest.raises(StoreLocked, match="another command"):
        add_target(config, {"id": "x", "path": "/x"})


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes and links")
def test_mode_and_link_stay(config: Path, tmp_path: Path) -> None:
    """The service can still read what root edited, secrets stay private, and a linked file is edited where it lies."""
    config.chmod(0o640)
    link = tmp_path / "link.toml"
    link.symlink_to(config)
    add_target(link, {"id": "x", "path": "/x"}, disk=DISK)
    assert link.is_symlink()
    assert config.stat().st_mode & 0o777 == 0o640
    assert config.with_name("receiver.toml.bak").stat().st_mode & 0o777 == 0o640
    assert load(ReceiverSettings, config).target[-1].id == "x"
