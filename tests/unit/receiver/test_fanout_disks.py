"""The fan-out on real disks: what it asks of them."""

import random
from pathlib import Path

import pytest

from receiver.fanout import Fanout
from receiver.targets.files import drop_pages
from tape.clock import SYSTEM
from tests.support.archive import Archive
from tests.support.disks import LINUX_ONLY, plugged
from tests.support.segments import finish

pytestmark = [pytest.mark.xdist_group("disks"), LINUX_ONLY]


async def test_its_disk_is_read_once_for_many_small_ones(tmp_path: Path) -> None:
    """Each target's process reads the files of home, the disk of home gives each once, and once for its read-back."""
    with plugged(tmp_path, size=64) as disk:
        assert disk.where is not None
        (disk.where / "home").mkdir()
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "home").symlink_to(disk.where / "home", target_is_directory=True)
        archive = Archive(tmp_path / "site", names=("nas", "usb", "cloud"))
        rng = random.Random(7)
        segments = []
        for _ in range(200):
            made = finish(archive.maker.make().footer, rng.randbytes(2**16))
            archive.maker.chain = made.chain
            segments.append(made)
        archive.take(segments)
        archive.home.flush()
        for file in (tmp_path / "site" / "home").rglob("*.parquet"):
            with file.open("rb") as opened:
                drop_pages(opened.fileno())
        before = disk.bytes_read()
        await Fanout(archive.catalog, archive.targets, clock=SYSTEM).drain()
        size = sum(len(made.data) for made in segments)
        assert size <= disk.bytes_read() - before < 2.5 * size
        for target in archive.others:
            assert target._writer._signs > 0
            archive.assert_complete(target.id)
        archive.catalog.close()
