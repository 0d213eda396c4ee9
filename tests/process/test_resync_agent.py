"""`tape-agent resync` as its users run it: a receiver that was off, an old image of it, a changed catalog."""

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.support import run
from tests.support.processes import Program, command
from tests.support.road import Road
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process


def write(road: Road, number: int, name: str = "quotes") -> bytes:
    """One more file of ticks, each line of it like no other; what it holds."""
    data = b"".join(b"%d,%d.%02d\n" % (number * 1_000_000 + n, n % 97, n % 100) for n in range(2000))
    (road.ticks / f"{name}-{number:03d}.csv").write_bytes(data)
    return data


def resync(road: Road, *words: str, codes: tuple[int, ...] = (0,), within: float = 120) -> dict[str, Any]:
    """`tape-agent resync --json`."""
    return dict(json.loads(road.tape_agent("resync", "--json", *words, codes=codes, within=within).out))


def counts(facts: dict[str, Any], which: str = "plan") -> dict[str, int]:
    """Segments by fate over all streams, those that are not zero."""
    fates = ("missing", "waiting", "gone", "wrong", "foreign", "refused")
    sums = {fate: sum(stream[fate]["segments"] for stream in facts[which]["streams"]) for fate in fates}
    return {fate: number for fate, number in sums.items() if number}


def image(road: Road, name: str) -> Path:
    """A copy of everything the receiver has, made while it does not run."""
    copy = road.folder / name
    shutil.copytree(road.folder / "home", copy)
    return copy


def restore(road: Road, copy: Path) -> None:
    """Take the receiver back to that image."""
    shutil.rmtree(road.folder / "home")
    shutil.copytree(copy, road.folder / "home")


def end(process: Program | None) -> None:
    """Stop a service as its manager does."""
    assert process is not None
    process.terminate()
    process.close()


def held(road: Road) -> int:
    """Segments home holds, by its own status."""
    return int(sum(stream["segments"] for stream in road.status()["streams"]))


def test_a_receiver_that_was_off_catches_up(tmp_path: Path) -> None:
    """Everything sealed meanwhile goes home, followed by the command, in front of the running service."""
    with Road(tmp_path) as road:
        road.configure(stream="ticks/all")
        road.start_receiver()
        road.start_agent()
        size = len(write(road, 0))
        road.wait_level(size)
        end(road.receiver)
        size += sum(len(write(road, number)) for number in range(1, 13))
        wait_until(lambda: road.agent_status().get("sealed_bytes") == size, within=60, what="it to be sealed")
        assert road.agent_status()["waiting_segments"] >= 12
        late = resync(road, "--timeout", "3s", codes=(1,))
        assert late["phase"] == "waiting for home"
        road.start_receiver()
        facts = resync(road)
        assert facts["plan"]["level"] or set(counts(facts)) == {"waiting"}
        assert facts["exit_code"] == 0
        again = resync(road, "--dry-run")
        assert counts(again) == {}
        road.wait_level(size)


def test_a_receiver_restored_from_an_old_image_gets_back_what_is_left(tmp_path: Path) -> None:
    """What the agent still has is sent again and counted exactly; what it released is told as gone everywhere,
    with the command that looks for it at home's other targets.
    """
    with Road(tmp_path) as road:
        road.configure(stream="ticks/all")
        road.start_receiver()
        road.start_agent()
        size = len(write(road, 0))
        road.wait_level(size)
        end(road.receiver)
        old = image(road, "image")
        road.start_receiver()
        size += len(write(road, 1))
        road.wait_level(size)  # safe at home and at the NAS, released here
        shutil.move(road.targets["nas"], tmp_path / "away")  # nothing is safe any more from here on
        size += len(write(road, 2)) + len(write(road, 3))
        wait_until(
            lambda: road.agent_status()["sealed_bytes"] == size and not road.agent_status()["waiting_segments"],
            within=60,
            what="it to be held",
        )
        kept = road.agent_status()["unreleased_segments"]
        assert kept >= 2
        end(road.receiver)
        restore(road, old)
        road.start_receiver()
        plan = resync(road, "--dry-run", codes=(2,))
        assert counts(plan)["missing"] == kept
        gone = counts(plan)["gone"]
        assert gone >= 1
        shown = road.tape_agent("resync", codes=(2,))
        assert f"{gone} segments are gone everywhere" in shown.out
        assert "tape-receiver resync" in shown.out
        after = resync(road, codes=(2,))
        assert counts(after) == {"gone": gone}
        held_ranges = [stream for stream in after["plan"]["streams"] if stream["gone"]["segments"]]
        assert (
            sum(last - first + 1 for one in held_ranges for r in one["gone"]["ranges"].values() for first, last in r)
            == gone
        )
        folder = road.folder / "out"
        words = ("--from", "home", "--output", str(folder), "--allow-gaps")
        road.tape_receiver("export", f"{road.agent}/ticks/all", *words, codes=(1,))
        names = {path.name for path in folder.iterdir()}
        assert {"quotes-000.csv", "quotes-002.csv", "quotes-003.csv"} <= names


def test_a_catalog_changed_behind_our_back_is_told(tmp_path: Path) -> None:
    """One digest in home's catalog is another: the plan names that segment as wrong, and nothing is freed for it."""
    with Road(tmp_path, targets=()) as road:
        road.configure(stream="ticks/all", receiver_set=("policy.copies=1", "policy.media=1"))
        road.start_receiver()
        road.start_agent()
        size = len(write(road, 0))
        road.wait_level(size)
        end(road.receiver)
        end(road.agent_process)
        base = sqlite3.connect(road.folder / "home" / "state" / "catalog.db")
        tell_a_lie(base)
        base.close()
        road.start_receiver()
        facts = resync(road, "--dry-run", codes=(2,))  # the service does not run: the command does it alone
        assert counts(facts) == {"wrong": 1}
        assert "other bytes at home" in road.tape_agent("resync", "--dry-run", codes=(2,)).out


def tell_a_lie(base: sqlite3.Connection) -> None:
    """Change a digest as a careful forger would: the sums over it are made to fit."""
    from tape.inventory import entry_hash

    base.execute("BEGIN IMMEDIATE")
    row = base.execute(
        "SELECT s.id, s.epoch, s.seq, s.digest FROM segment s JOIN stream t ON t.id = s.stream"
        " WHERE t.name LIKE 'ticks/%' ORDER BY s.id LIMIT 1"
    ).fetchone()
    number, epoch, seq, digest = row
    lie = bytes(b ^ 1 for b in digest)
    base.execute("UPDATE segment SET digest = ? WHERE id = ?", (lie, number))
    change = entry_hash(seq, digest) ^ entry_hash(seq, lie)
    for table, where in (("block", f"epoch = {epoch} AND number = {seq >> 8}"), ("epoch", f"id = {epoch}")):
        node = int.from_bytes(base.execute(f"SELECT node FROM {table} WHERE {where}").fetchone()[0])  # noqa: S608 - ours
        base.execute(f"UPDATE {table} SET node = ? WHERE {where}", ((node ^ change).to_bytes(16),))  # noqa: S608 - ours
    base.execute("COMMIT")


def test_a_killed_command_and_a_killed_service_go_on(tmp_path: Path) -> None:
    """The command is killed while it follows: the service goes on. The service is killed too: its next life does."""
    with Road(tmp_path) as road:
        road.configure(stream="ticks/all")
        road.start_receiver()
        road.start_agent()
        first = len(write(road, 0))
        road.wait_level(first)
        end(road.receiver)
        old = image(road, "image")
        road.start_receiver()
        shutil.move(road.targets["nas"], tmp_path / "away")
        size = first + sum(len(write(road, number)) for number in range(1, 9))
        wait_until(
            lambda: road.agent_status()["sealed_bytes"] == size and not road.agent_status()["waiting_segments"],
            within=60,
            what="it to be held",
        )
        end(road.receiver)
        restore(road, old)
        road.start_receiver()
        words = [*command("tape-agent"), "resync", "--config", str(road.agent_toml), "--bandwidth", "3 kB"]
        follower = Program(words)
        folder = road.folder / "server" / "state" / "resync"
        wait_until(
            lambda: any("sending" in path.read_text(encoding="utf-8") for path in folder.glob("*.json")), what="sending"
        )
        follower.close()
        assert road.agent_process is not None
        road.agent_process.close()
        assert list(folder.glob("*.ask"))
        road.start_agent()
        wait_until(lambda: not list(folder.glob("*.ask")), within=90, what="the next life to end it")
        assert counts(resync(road, "--dry-run", codes=(0, 2))).keys() <= {"gone"}


def test_what_can_not_be_done_is_said(tmp_path: Path) -> None:
    """No outbox, a stream nobody knows, a rate that is none: each with its exit code and a hint."""
    with Road(tmp_path) as road:
        road.configure()
        assert "tape-agent run" in road.tape_agent("resync", codes=(66,)).err
        road.start_receiver()
        road.start_agent()
        road.wait_level(len(write(road, 0)))
        assert "no stream here is called nobody" in road.tape_agent("resync", "nobody", codes=(66,)).err
        assert "is not a size" in road.tape_agent("resync", "--bandwidth", "fast", codes=(64,)).err
        assert "is not a duration" in road.tape_agent("resync", "--timeout", "soon", codes=(64,)).err
        assert run([*command("tape-agent"), "resync", "--help"], code=0).out
        assert "level: home holds exactly what was made here" in road.tape_agent("resync").out
