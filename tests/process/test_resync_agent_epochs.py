"""An agent whose outbox is gone reads its files again under a new epoch: every tick is in every export, once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tests.support.road import Road
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process


def rows(first: int, count: int) -> bytes:
    """Lines of ticks, each like no other."""
    return b"".join(b"%d,%d.%02d,%d\n" % (n, 100 + n % 97, n % 100, n * 7) for n in range(first, first + count))


def lose_the_outbox(road: Road, *, spool: bool) -> None:
    """The agent's machine came back without its outbox, and perhaps without its spool."""
    assert road.agent_process is not None
    road.agent_process.terminate()
    road.agent_process.close()
    state = road.folder / "server" / "state"
    for path in state.glob("outbox.db*"):
        path.unlink()
    if spool:
        shutil.rmtree(state / "spool")


def all_home(road: Road) -> None:
    """Wait until home holds all there is."""
    size = sum(path.stat().st_size for path in road.ticks.rglob("*") if path.is_file())

    def done() -> bool:
        facts = road.agent_status()
        return facts.get("sealed_bytes") == size and not facts["waiting_segments"]

    wait_until(done, within=90, every=0.5, what="everything to be sealed and held")


def exports(road: Road, stream: str) -> tuple[list[bytes], list[int], list[int]]:
    """The original files, and the first column of the rows as CSV and as Parquet."""
    folder = road.export(stream, "home")
    tables = []
    for form in ("csv", "parquet"):
        path = road.folder / "rows" / f"{stream.replace('/', '-')}.{form}"
        words = ("--from", "home", "--format", form, "--output", str(path))
        road.tape_receiver("export", f"{road.agent}/{stream}", *words)
        table = pl.read_csv(path, infer_schema=False) if form == "csv" else pl.read_parquet(path)
        tables.append([int(value) for value in table[table.columns[1]].to_list()])
    return sorted(path.read_bytes() for path in folder.iterdir()), tables[0], tables[1]


def growing(ticks: Path, step: int) -> None:
    """A file that goes on."""
    with (ticks / "growing.csv").open("ab") as file:
        file.write(rows(step * 3000, 3000))


def rotated(ticks: Path, step: int) -> None:
    """A file that was renamed away between the two readings, and a new one in its place."""
    if step:
        (ticks / "feed.csv").rename(ticks / "feed.csv.1")
    (ticks / "feed.csv").write_bytes(rows(step * 3000, 3000))


def small_and_rotated(ticks: Path, step: int) -> None:
    """The same with files that are shorter than what their beginnings are told by."""
    if step:
        (ticks / "feed.csv").rename(ticks / "feed.csv.1")
    (ticks / "feed.csv").write_bytes(rows(step * 20, 20))


def grown_and_rotated(ticks: Path, step: int) -> None:
    """A short file that grew by much and was renamed away, all while nobody looked."""
    if step:
        with (ticks / "feed.csv").open("ab") as file:
            file.write(rows(20, 3000))
        (ticks / "feed.csv").rename(ticks / "feed.csv.1")
    (ticks / "feed.csv").write_bytes(rows(step * 5000, 20))


def torn(ticks: Path, step: int) -> None:
    """The first reading ended in the middle of a line."""
    data = rows(0, 4000)
    middle = data.index(b"\n", len(data) // 2) - 4
    with (ticks / "torn.csv").open("ab") as file:
        file.write(data[middle:] if step else data[:middle])


WORLDS: dict[str, Callable[[Path, int], None]] = {
    "growing": growing,
    "rotated": rotated,
    "small and rotated": small_and_rotated,
    "grown and rotated": grown_and_rotated,
    "torn": torn,
}


@pytest.mark.timeout(360)
@pytest.mark.parametrize("spool", [False, True], ids=["spool kept", "spool gone too"])
def test_no_tick_is_twice_and_none_is_missing(tmp_path: Path, spool: bool) -> None:
    """Original bytes, CSV and Parquet hold every tick once, although two epochs have sealed it."""
    with Road(tmp_path, targets=()) as road:
        road.configure(patterns=("**/*",), stream="ticks/{parent}", receiver_set=("policy.copies=1",))
        road.start_receiver()
        road.start_agent()
        folders = {name: road.ticks / name.replace(" ", "-") for name in WORLDS}
        for name, folder in folders.items():
            folder.mkdir()
            WORLDS[name](folder, 0)
        all_home(road)
        lose_the_outbox(road, spool=spool)
        for name, folder in folders.items():
            WORLDS[name](folder, 1)
        road.start_agent()
        all_home(road)
        road.tape_agent("resync")
        epochs = json.loads(road.tape_agent("resync", "--dry-run", "--json").out)["plan"]["other_epochs"]
        assert len(epochs) == 1 or not spool  # what was still in the spool is adopted, and its epoch compared with it
        for name, folder in folders.items():
            files = sorted(path.read_bytes() for path in folder.iterdir())
            originals, as_csv, as_parquet = exports(road, f"ticks/{folder.name}")
            assert originals == files, name
            wanted = sorted(int(line.split(b",")[0]) for data in files for line in data.splitlines())
            assert sorted(as_csv) == wanted, name
            assert sorted(as_parquet) == wanted, name
