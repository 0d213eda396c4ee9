"""The inspecting process against files made to hurt it."""

import itertools
import os
import struct
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from receiver.inspect import Inspector, Part
from receiver.settings import LimitSettings
from receiver.verdict import Facts, Known, Limits, judge_content
from tape.clock import SYSTEM
from tape.digest import digest_of
from tape.footer import KEY
from tape.names import SegmentName
from tests.support.needs import PROJECT
from tests.support.segments import Maker, put

LIMITS = LimitSettings(memory=256 * 2**20, seconds=20, max_footer=4 * 2**20)


@pytest.fixture(scope="module")
def inspector() -> Iterator[Inspector]:
    """One inspecting process for all tests here: starting it takes longer than most of them."""
    asked = Inspector(LIMITS, clock=SYSTEM)
    yield asked
    asked.close()


def wide(columns: int) -> bytes:
    """A file of so many columns: small on disk, large in a reader's memory."""
    table = pa.table({f"column{i}": pa.array([i], pa.int64()) for i in range(columns)})
    out = BytesIO()
    pq.write_table(table, out, store_schema=False)
    return out.getvalue()


def grouped(groups: int) -> bytes:
    """A file of very many row groups."""
    out = BytesIO()
    schema = pa.schema([("ts_recv", pa.int64())])
    with pq.ParquetWriter(out, schema, store_schema=False) as writer:
        batch = pa.table({"ts_recv": pa.array([1], pa.int64())}, schema)
        for _ in range(groups):
            writer.write_table(batch)
    return out.getvalue()


def claiming(rows: int) -> bytes:
    """A true file whose metadata is patched to claim other rows, in the file and in its only row group."""
    out = BytesIO()
    pq.write_table(pa.table({"ts_recv": pa.array([1] * 4242, pa.int64())}), out, store_schema=False)
    data = out.getvalue()
    old, new = zigzag(4242), zigzag(rows)
    length = struct.unpack("<I", data[-8:-4])[0]
    footer = data[-8 - length : -8].replace(old, new)
    return data[: -8 - length] + footer + struct.pack("<I", len(footer)) + b"PAR1"


def zigzag(number: int) -> bytes:
    """A number as Thrift's compact protocol writes it."""
    value = number << 1 if number >= 0 else (-number << 1) - 1
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def dictionary_bomb() -> bytes:
    """Gigabytes when decoded, kilobytes on disk: one long text, named by a run of equal indices."""
    out = BytesIO()
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 200_000, pa.int32()), pa.array([b"x" * 2**16]))
    with pq.ParquetWriter(out, pa.schema([("ts_recv", column.type)]), compression="zstd") as writer:
        writer.write_table(pa.table({"ts_recv": column}))
    return out.getvalue()


def thrift_noise(length: int) -> bytes:
    """A file whose footer is not Thrift."""
    return b"PAR1" + b"\xff" * length + struct.pack("<I", length) + b"PAR1"


HOSTILE = {
    "empty": (b"", "not a Parquet file"),
    "short": (b"PAR1PAR1", "not a Parquet file"),
    "text": (b"hello, world\n" * 100, "does not end with PAR1"),
    "cut": (Maker().make().data[:-5], "does not end with PAR1"),
    "footer larger than the file": (b"PAR1" + struct.pack("<I", 2**20) + b"PAR1", "of a file of 12"),
    "footer of 4 GiB": (b"PAR1" + b"x" * 100 + b"\xff\xff\xff\xffPAR1", "larger than limits.max_footer"),
    "noise for a footer": (thrift_noise(5000), "can't be read"),
    "noise larger than one read": (thrift_noise(200_000), "can't be read"),
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_what_is_no_parquet_file_is_told_and_harms_nothing(inspector: Inspector, tmp_path: Path, name: str) -> None:
    """A damaged or forged end gives a reason, and the good file behind it in the batch is read as ever."""
    data, reason = HOSTILE[name]
    bad = tmp_path / "bad"
    bad.write_bytes(data)
    made = Maker().make()
    good = put(tmp_path, made)
    first, second = inspector.inspect([bad, good])
    assert reason in first.problem
    assert first.footer is None
    assert (second.problem, second.footer) == ("", made.footer)


def test_facts_of_a_good_segment(inspector: Inspector, tmp_path: Path) -> None:
    """Rows, columns, first column and our footer come from the file's end alone."""
    maker = Maker(rows=500)
    made = maker.many(40)
    found = inspector.inspect([put(tmp_path, m) for m in made])
    assert [one.footer for one in found] == [m.footer for m in made]
    assert {(one.rows, one.columns, one.first) for one in found} == {(500, 2, ("ts_recv", "INT64"))}
    assert inspector.inspect([]) == []


def test_what_the_sealer_writes_passes(inspector: Inspector) -> None:
    """Every kind of segment ever sealed (the golden ones) is read, and no rule of content is against it."""
    paths = sorted((PROJECT / "tests" / "golden").rglob("*.parquet"))
    assert paths
    limits = Limits(LIMITS.max_columns, LIMITS.max_rows, LIMITS.max_decoded)
    for path, found in zip(paths, inspector.inspect(paths), strict=True):
        footer = found.footer
        assert footer is not None, (path, found.problem)
        name = SegmentName(footer.epoch, footer.seq, digest_of(path))
        facts = Facts(footer.agent, footer.stream, name, name.digest, 1, Known(), limits, found)
        outcome = judge_content(facts)
        assert outcome.ok or "chain does not start" in outcome.reason, (path, outcome)


def test_a_file_that_cannot_be_opened_is_not_held_against_it(inspector: Inspector, tmp_path: Path) -> None:
    """A file that vanished or is locked is no damaged file: it says so, so that it is asked for again."""
    found = inspector.inspect([tmp_path / "gone"])[0]
    assert "can't open it" in found.unopened
    assert not found.problem


def test_20000_columns_are_counted_or_refused_without_harm(inspector: Inspector, tmp_path: Path) -> None:
    """Too many columns: the limit sees the count, or the metadata is refused outright; the service lives."""
    path = tmp_path / "wide"
    path.write_bytes(wide(20_000))
    good = put(tmp_path, Maker().make())
    first, second = inspector.inspect([path, good])
    assert first.columns == 20_000 or first.problem
    assert second.footer is not None


def test_many_row_groups_and_billions_of_rows_are_only_counted(inspector: Inspector, tmp_path: Path) -> None:
    """Claims are counted, never believed: nothing is decoded or allocated for them."""
    path = tmp_path / "groups"
    path.write_bytes(grouped(3000))
    (found,) = inspector.inspect([path])
    assert (found.problem, found.rows) == ("", 3000)
    path.write_bytes(claiming(5_000_000_000))
    (found,) = inspector.inspect([path])
    assert found.problem or found.rows == 5_000_000_000


@pytest.mark.parametrize("rows", [-1, -5_000_000_000])
def test_negative_rows_are_a_problem(inspector: Inspector, tmp_path: Path, rows: int) -> None:
    """Numbers below zero are never taken for counts."""
    path = tmp_path / "negative"
    path.write_bytes(claiming(rows))
    assert inspector.inspect([path])[0].problem


def test_a_dictionary_bomb_is_never_decoded(inspector: Inspector, tmp_path: Path) -> None:
    """13 GB of text behind a few kilobytes: looked at within the limits, as any other file."""
    path = tmp_path / "bomb"
    path.write_bytes(dictionary_bomb())
    (found,) = inspector.inspect([path])
    assert (found.problem, found.rows, found.first[1]) == ("", 200_000, "BYTE_ARRAY")


def test_an_own_footer_beyond_its_limit_is_a_problem(inspector: Inspector, tmp_path: Path) -> None:
    """Our JSON is parsed outside the inspecting process, so its size is bounded inside it."""
    out = BytesIO()
    table = pa.table({"ts_recv": pa.array([1], pa.int64())})
    with pq.ParquetWriter(out, table.schema, store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({KEY.decode(): "[" * (2**21 + 1)})
    path = tmp_path / "footer"
    path.write_bytes(out.getvalue())
    assert "hometape footer" in inspector.inspect([path])[0].problem


@pytest.mark.parametrize("text", [b"[" * 100_000, b"{}", b"nonsense", b'{"format":2}', b"\xff\xfe"])
def test_an_own_footer_that_cannot_be_read_is_a_problem(inspector: Inspector, tmp_path: Path, text: bytes) -> None:
    """Deeply nested, empty, foreign or newer JSON gives a reason, never an exception."""
    out = BytesIO()
    table = pa.table({"ts_recv": pa.array([1], pa.int64())})
    with pq.ParquetWriter(out, table.schema.with_metadata({KEY: text})) as writer:
        writer.write_table(table.replace_schema_metadata({KEY: text}))
    path = tmp_path / "footer"
    path.write_bytes(out.getvalue())
    found = inspector.inspect([path])[0]
    assert found.problem
    assert found.footer is None


def _pid(inspector: Inspector) -> int:
    child = inspector._child
    assert child is not None
    return child._process.pid


def test_a_child_that_was_killed_is_replaced(inspector: Inspector, tmp_path: Path) -> None:
    """The process ending between two batches is noticed, and the next batch is inspected all the same."""
    made = Maker().make()
    path = put(tmp_path, made)
    inspector.inspect([path])
    first = _pid(inspector)
    psutil.Process(first).kill()
    assert inspector.inspect([path])[0].footer == made.footer
    assert _pid(inspector) != first


class _Deadly(Inspector):
    """Kills the child whenever it is asked about a file of a certain name: a reader's abort, as seen from outside."""

    kills = 0

    def _running(self):  # type: ignore[no-untyped-def]  # wraps the private child for this test alone
        child = super()._running()
        begin, collect = child.begin, child.collect
        lives = [sys.maxsize]

        def deadly(parts, together):  # type: ignore[no-untyped-def]  # see above
            names = [part.path.name for part in parts]
            if "deadly" in names:
                lives[0] = names.index("deadly") // together * together  # the answers that come before it
                parts = parts[: lives[0]]
            return begin(parts, together)

        def dying(count):  # type: ignore[no-untyped-def]  # see above
            if lives[0] == sys.maxsize:
                return collect(count)
            answers, _ = collect(lives[0])
            child._process.kill()
            child._process.wait()
            self.kills += 1
            return answers, "ended the inspecting process"

        child.begin, child.collect = deadly, dying  # type: ignore[method-assign]  # for this test alone
        return child


def test_a_file_that_kills_the_process_is_found_and_the_others_are_not_affected(tmp_path: Path) -> None:
    """The deadly one is found one at a time, tried once more alone, then told; every other file is inspected."""
    maker = Maker()
    paths = [put(tmp_path, maker.make()) for _ in range(6)]
    paths[3] = paths[3].rename(tmp_path / "deadly")
    asked = _Deadly(LIMITS, clock=SYSTEM)
    try:
        found = asked.inspect(paths)
    finally:
        asked.close()
    assert [bool(one.problem) for one in found] == [False, False, False, True, False, False]
    assert "ended the inspecting process" in found[3].problem
    assert asked.kills == 3


def test_what_is_looked_at_meanwhile_is_asked_for_once(inspector: Inspector, tmp_path: Path) -> None:
    """Findings come while the caller works; those nobody asked for don't become the answer to the next question."""
    maker = Maker()
    made = [maker.make() for _ in range(100)]
    bundle = tmp_path / "many"
    bundle.write_bytes(b"".join(one.data for one in made))
    ends = list(itertools.accumulate(len(one.data) for one in made))
    parts = [Part(bundle, end - len(one.data), len(one.data)) for one, end in zip(made, ends, strict=True)]
    with inspector.looking(parts):
        pass
    with inspector.looking(parts[50:]) as found:
        footers = [one.footer for one in found()]
    assert footers == [one.footer for one in made[50:]]
    assert inspector.inspect([put(tmp_path, made[7])])[0].footer == made[7].footer


def test_memory_is_limited(tmp_path: Path) -> None:
    """A footer within max_footer that needs far more memory than allowed ends in a reason, not in gigabytes."""
    limits = LIMITS.model_copy(update={"memory": 24 * 2**20, "max_footer": 2**30})
    path = tmp_path / "wide"
    path.write_bytes(wide(60_000))
    asked = Inspector(limits, clock=SYSTEM)
    try:
        first, second = asked.inspect([path, put(tmp_path, Maker().make())])
    finally:
        asked.close()
    assert first.problem
    assert second.footer is not None


@pytest.mark.skipif(sys.platform != "linux", reason="psutil reads another process's limits on Linux only")
def test_the_process_runs_under_the_systems_own_limits(inspector: Inspector, tmp_path: Path) -> None:
    """Address space, CPU time and writing are bounded by the kernel, so that a burst is stopped before it hurts."""
    inspector.inspect([put(tmp_path, Maker().make())])
    child = psutil.Process(_pid(inspector))
    space = child.rlimit(psutil.RLIMIT_AS)[0]
    assert 0 < space <= child.memory_info().vms + LIMITS.memory
    assert 0 < child.rlimit(psutil.RLIMIT_CPU)[0] <= LIMITS.seconds + 30
    assert child.rlimit(psutil.RLIMIT_FSIZE)[0] == child.rlimit(psutil.RLIMIT_CORE)[0] == 0


@pytest.mark.skipif(
    sys.platform == "win32", reason="a file that blocks its reader is a named pipe, which Windows lacks"
)
def test_time_is_limited(tmp_path: Path) -> None:
    """A file that takes longer than `seconds` is told so and does not hold up the rest."""
    limits = LIMITS.model_copy(update={"seconds": 0.3})
    asked = Inspector(limits, clock=SYSTEM)
    fifo = tmp_path / "slow"
    os.mkfifo(fifo)
    try:
        first, second = asked.inspect([fifo, put(tmp_path, Maker().make())])
    finally:
        asked.close()
    assert "too long" in first.problem
    assert second.footer is not None
