"""Any one target is enough: a folder, a disk, a server, a cloud under crypt give back the file that was recorded."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from receiver.targets.marker import prepare
from receiver.targets.rclone import find_rclone
from tape.clock import SYSTEM
from tests.support.archive import Feed
from tests.support.homeside import HomeSide
from tests.support.processes import command, run
from tests.support.rclone_servers import BUCKET, Remotes

pytestmark = pytest.mark.process

RECORDED = b"".join(b"%d,1.%04d,%d\n" % (1_700_000_000_000 + i, i % 9973, i * i) for i in range(20_000))
PIECES = 40


@dataclass
class Filled:
    """Four targets with everything on them, the service stopped. `cloud`: NAME:PATH of the crypt remote."""

    side: HomeSide
    remotes: Remotes
    cloud: str

    def alone(self, *words: str, code: int = 0) -> str:
        """Run `tape-receiver` as a strange machine would, without any configuration; its output."""
        return run([*command("tape-receiver"), *words], cwd=self.remotes.folder, within=120, code=code).out

    def restored(self, origin: str, *words: str) -> list[bytes]:
        """The files that an export from a bare place gives."""
        folder = self.side.folder / "restored"
        shutil.rmtree(folder, ignore_errors=True)
        self.alone("export", "box/demo/ticks", "--from", origin, "--output", str(folder), *words)
        return [path.read_bytes() for path in folder.iterdir()]


def summed(folder: Path) -> int:
    """How many files the SHA256SUMS below a folder name; AssertionError unless `sha256sum -c` passes for all."""
    days = sorted(folder.glob("**/box/**/SHA256SUMS"))
    for day in days:
        done = run(["sha256sum", "-c", "--quiet", "--strict", "SHA256SUMS"], cwd=day.parent)
        assert done.code == 0, f"{day}\n{done.out}{done.err}"
    return sum(len(day.read_text(encoding="ascii").splitlines()) for day in days)


@contextlib.contextmanager
def filling(folder: Path) -> Iterator[Filled]:
    """Home, a NAS folder, a removable disk, and a crypt remote over S3; 40 segments of one file, level everywhere."""
    (folder / "remotes").mkdir()
    remotes = Remotes(folder / "remotes")
    look_in = f'disks.look_in=["{folder / "media" / "*"}"]'
    try:
        with HomeSide(folder / "site", words=("--set", look_in)) as side:
            cloud = remotes.place("crypt")
            prepare(folder / "media" / "stick" / "hometape", "stick", clock=SYSTEM)
            side.append(
                f'\n[[target]]\nid = "stick"\nkind = "removable"\nmounted = false\n'
                f'\n[[target]]\nid = "cloud"\nkind = "remote"\nremote = "{cloud}"\nrclone_config = "{remotes.config}"\n'
            )
            side.command("resync", "cloud", "--prepare", codes=(0, 1))
            side.start()
            step = len(RECORDED) // PIECES
            for made in Feed(folder / "spool").seal(RECORDED, cuts=[step * n for n in range(1, PIECES)]):
                path = side.drop / made.path.stream / str(made.path.name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(made.data)
            side.wait_receipt(held=PIECES, safe=PIECES)
            side.command("resync")
            assert side.service is not None
            assert side.service.terminate() == 0
            yield Filled(side, remotes, cloud)
    finally:
        remotes.close()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    """Filled once for the tests that only read."""
    with filling(tmp_path_factory.mktemp("alone")) as made:
        yield made


def test_each_folder_alone_gives_everything_back(filled: Filled) -> None:
    """On a strange machine, with nothing but the folder: byte for byte; `sha256sum -c` and verify pass."""
    media = filled.side.folder.parent / "media"
    for root in (filled.side.folder / "home", filled.side.folder / "nas", media / "stick" / "hometape"):
        elsewhere = filled.remotes.folder / "elsewhere"
        shutil.rmtree(elsewhere, ignore_errors=True)
        shutil.copytree(root, elsewhere)
        assert filled.restored(str(elsewhere)) == [RECORDED], root
        assert summed(elsewhere) == PIECES
        filled.alone("verify", "--folder", str(elsewhere))


def test_the_crypt_remote_alone_gives_everything_back(filled: Filled) -> None:
    """With nothing but rclone's configuration: byte for byte, its sums pass too, and what lies there is unreadable."""
    config = ("--rclone-config", str(filled.remotes.config))
    origin = f"rclone:{filled.cloud}"
    assert filled.restored(origin, *config) == [RECORDED]
    assert f"{PIECES} segments" in filled.alone("verify", "--folder", origin, *config)
    fetched = filled.remotes.folder / "fetched"
    run([str(find_rclone()), "copy", "--config", filled.remotes.config, filled.cloud, fetched], within=120, code=0)
    assert summed(fetched) == PIECES
    stored = list((filled.remotes.server("s3").folder / BUCKET / filled.cloud.rstrip(":")).rglob("*"))
    assert len(stored) > PIECES
    assert not [path for path in stored if path.suffix == ".parquet"]


@pytest.mark.parametrize("kind", ["s3", "webdav", "sftp", "smb"])
def test_each_plain_remote_alone_gives_everything_back(filled: Filled, kind: str) -> None:
    """With nothing but rclone's configuration: byte for byte; on the server itself `sha256sum -c` passes."""
    remote = filled.remotes.place(kind)
    filled.side.append(
        f'\n[[target]]\nid = "{kind}"\nkind = "remote"\nremote = "{remote}"\n'
        f'rclone_config = "{filled.remotes.config}"\n'
    )
    filled.side.command("resync", kind, "--prepare")
    config = ("--rclone-config", str(filled.remotes.config))
    assert filled.restored(f"rclone:{remote}", *config) == [RECORDED]
    assert summed(filled.remotes.server(kind).folder) == PIECES


@pytest.mark.parametrize("target", ["home", "nas", "stick", "cloud"])
def test_each_target_gives_everything_back_by_its_name(filled: Filled, target: str) -> None:
    """With the configuration and the catalog, but read from that one target only."""
    folder = filled.side.folder / "by-name" / target
    filled.side.command("export", "box/demo/ticks", "--from", target, "--output", str(folder))
    assert [path.read_bytes() for path in folder.iterdir()] == [RECORDED]


def test_what_is_not_there_is_said(filled: Filled) -> None:
    """A stream that the remote does not have, and a remote that rclone does not know."""
    config = ("--rclone-config", str(filled.remotes.config))
    ask = [*command("tape-receiver"), "export", "box/other", "-o", "x", *config, "--from"]
    done = run([*ask, f"rclone:{filled.cloud}"])
    assert (done.code, "box/demo/ticks" in done.err) == (66, True)
    done = run([*ask, "rclone:nobody:x"])
    assert done.code in {66, 69, 74, 78}
    assert "nobody" in done.err


def test_a_remote_that_lost_its_newest_segment_says_so(filled: Filled, tmp_path: Path) -> None:
    """It leaves no hole, but its line in SHA256SUMS: no export passes for complete without it."""
    shutil.copytree(filled.side.folder / "nas", tmp_path / "copy")
    (last,) = (tmp_path / "copy").rglob(f"*-{PIECES - 1:012d}-*")
    last.unlink()
    config = tmp_path / "rclone.conf"
    config.write_text("[plain]\ntype = local\n", encoding="ascii", newline="\n")
    origin = ["--from", f"rclone:plain:{tmp_path / 'copy'}", "--rclone-config", str(config)]
    ask = [*command("tape-receiver"), "export", "box/demo/ticks", "-o", str(tmp_path / "out")]
    done = run([*ask, *origin], within=120)
    assert (done.code, last.name in done.err) == (65, True)
    assert not (tmp_path / "out").exists()


def test_home_is_filled_from_the_cloud_alone(tmp_path: Path) -> None:
    """Everything but the crypt remote is gone, the catalog too: resync adopts all of it, and home gives it back."""
    with filling(tmp_path) as filled:
        lose_all_but_the_cloud(filled)


def lose_all_but_the_cloud(filled: Filled) -> None:
    """Lose it, and get it back."""
    site = filled.side.folder
    for root in (site / "home", site / "nas", site.parent / "media" / "stick" / "hometape"):
        shutil.rmtree(root / "box")
    for path in (site / "state").glob("catalog.db*"):
        path.unlink()
    filled.side.command("resync")
    folder = site / "again"
    filled.side.command("export", "box/demo/ticks", "--from", "home", "--output", str(folder))
    assert [path.read_bytes() for path in folder.iterdir()] == [RECORDED]
    assert "everything is level" in filled.side.command("resync", "--dry-run").out
