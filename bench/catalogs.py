"""Catalogs of any size for benchmarks: rows made by SQL, sums and ranges made from those rows.

Two agents with six streams and three epochs each, segments arriving in turn; five targets, each with its
own way of lagging: `home` lacks the newest hundred, `nas` the newest thousand, `cloud` one in 5,003 and
the newest, `usb-a` a million (half of a smaller catalog), `usb-b` a third in stripes of 10,000. One number
in 50,021 is missing from every epoch.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path

from receiver.catalog import Catalog
from receiver.catalog_tables import ATTESTED, COPIES, HELD, IDS, fill
from receiver.targets.marker import prepare
from tape.clock import SYSTEM

STREAMS = [(agent, f"demo/{name}") for agent in ("box1", "box2") for name in ("a", "b", "c", "d", "e", "f")]
EPOCHS = 3
DAYS = 400
TARGETS = ("home", "nas", "cloud", "usb-a", "usb-b")
_PIECE = 100_000
_DAY_NS = 86_400 * 10**9


def presence(total: int) -> list[str]:
    """For each target, as SQL over `id`, which segments it has."""
    return [
        f"id <= {total - 100}",
        f"id <= {total - 1000}",
        f"id <= {total - 2000} AND id % 5003 <> 7",
        f"id <= {total - min(1_000_000, total // 2)}",
        f"(id / 10000) % 3 <> 1 AND id <= {total - 500}",
    ]


def build(folder: Path, total: int) -> None:
    """A catalog of so many segments in `<folder>/state`, with its targets and a receiver.toml beside it."""
    state = folder / "state"
    state.mkdir(parents=True)
    for name in TARGETS:
        prepare(folder / name, name, clock=SYSTEM)
    (folder / "receiver.toml").write_text(_config(folder), encoding="utf-8", newline="\n")
    Catalog.open(state, clock=SYSTEM).close()
    base = sqlite3.connect(state / "catalog.db", isolation_level=None)
    base.execute("PRAGMA journal_mode=OFF")
    base.execute("PRAGMA synchronous=OFF")
    base.execute("PRAGMA cache_size=-500000")
    base.execute("BEGIN")
    _names(base)
    _segments(base, total)
    _copies(base, total)
    _sums(base, total)
    _spans(base, total)
    fill(base)
    base.execute("COMMIT")
    base.execute("PRAGMA journal_mode=WAL")
    base.close()


def _config(folder: Path) -> str:
    lines = [f'state = "{folder / "state"}"', "[policy]", "copies = 3", "media = 2", "sites = 2"]
    lines += ["[[policy.stream]]", 'match = "*/demo/f"', "copies = 2"]
    for name in TARGETS:
        site, medium = ("cloud", "cloud") if name == "cloud" else ("home", name.partition("-")[0])
        lines += ["[[target]]", f'id = "{name}"', f'path = "{folder / name}"', f'site = "{site}"']
        lines += [f'medium = "{medium}"', f"home = {'true' if name == 'home' else 'false'}"]
    return "\n".join(lines) + "\n"


_ORIGIN = {"file": "/srv/t.csv", "head": {"length": 4, "xxh3": "00"}, "kind": "file"}
_FACTS = {"agent_version": "0", "format": 1, "kind": "rows", "layout": {}, "schema": "00", "suffix": "parquet"}


def _names(base: sqlite3.Connection) -> None:
    base.executemany("INSERT INTO target (id, name) VALUES (?,?)", enumerate(TARGETS, 1))
    base.execute("INSERT INTO method VALUES (1, 'read-back xxh3+sha256')")
    for number, fact in enumerate((_ORIGIN, _FACTS), 1):
        base.execute("INSERT INTO fact VALUES (?,?,?)", (number, bytes([number]), json.dumps(fact)))
    for stream, (agent, name) in enumerate(STREAMS):
        base.execute("INSERT INTO stream (id, agent, name) VALUES (?,?,?)", (stream + 1, agent, name))
        for epoch in range(EPOCHS):
            number = stream * EPOCHS + epoch + 1
            base.execute(
                "INSERT INTO epoch (id, stream, name, added) VALUES (?,?,?,0)", (number, stream + 1, f"{epoch:016x}")
            )
            base.execute(
                "INSERT INTO file (id, stream, file_id, name, kind) VALUES (?,?,?,?,'file')",
                (number, stream + 1, bytes([epoch]) * 16, b"/srv/t.csv"),
            )


def _segments(base: sqlite3.Connection, total: int) -> None:
    """Segment n (from 0) goes to the streams in turn; `i` counts within the stream, `k` within its epoch."""
    streams = len(STREAMS)
    part = total // streams // EPOCHS + 1
    begin = SYSTEM.now_ns() - DAYS * _DAY_NS
    values = {"total": total, "streams": streams, "epochs": EPOCHS, "part": part, "begin": begin}
    values |= {"step": DAYS * _DAY_NS // total, "day": _DAY_NS, "unix": date(1970, 1, 1).toordinal()}
    base.execute(_SEGMENTS, values)


_SEGMENTS = """
WITH RECURSIVE c(n) AS (SELECT 0 UNION ALL SELECT n+1 FROM c WHERE n+1 < :total),
  e AS (SELECT n, n % :streams AS s, n / :streams AS i, :begin + n * :step AS at FROM c),
  f AS (SELECT n, s, i, at, i % :part AS k, s * :epochs + i / :part + 1 AS epoch FROM e)
INSERT INTO segment SELECT n + 1, s + 1, epoch, k + k / 50020, :unix + at / :day, randomblob(16),
  50000 + (n * 7919) % 30000, 1000, at, at + 999, at + 5000000000, at + 2000000000, i * 1000, zeroblob(32),
  randomblob(32), 0, epoch, k * 90000, (k + 1) * 90000, 0, zeroblob(16), 1, 2, 1, 500
FROM f
"""


def _copies(base: sqlite3.Connection, total: int) -> None:
    now = SYSTEM.now_ns()
    for number, there in enumerate(presence(total), 1):
        base.execute(
            f"WITH RECURSIVE c(id) AS (SELECT 1 UNION ALL SELECT id+1 FROM c WHERE id < {total})"  # noqa: S608 - as above
            f" INSERT INTO copy SELECT {number}, id, {now} - id, 1 FROM c WHERE {there}"
        )


def _sums(base: sqlite3.Connection, total: int) -> None:
    """The sums of streams and targets, in pieces that keep the sorting small; of epochs and files, by count."""
    there = [f"iif({here}, 1, NULL)" for here in presence(total)]
    at_target = ", ".join(f"count({x}), total(rows*{x}), total(size*{x}), max(recv_last*{x})" for x in there)
    question = (
        "SELECT stream, count(*), sum(rows), sum(size), sum(stop-start), min(recv_first), max(recv_last),"  # noqa: S608 - of this file
        f" max(committed), {at_target} FROM segment WHERE id>=? AND id<? GROUP BY stream"
    )
    for first in range(1, total + 1, _PIECE):
        rows = base.execute(question, (first, first + _PIECE)).fetchall()
        for stream, *sums in rows:
            base.execute(
                "UPDATE stream SET segments=segments+?, rows=rows+?, bytes=bytes+?, source_bytes=source_bytes+?,"
                " recv_first=coalesce(recv_first, ?), recv_last=?, committed=? WHERE id=?",
                (*sums[:7], stream),
            )
            for target in range(len(TARGETS)):
                copied = [int(value or 0) for value in sums[7 + 4 * target : 11 + 4 * target]]
                base.execute(
                    "INSERT INTO stream_target VALUES (?1,?2,?3,?4,?5,?6,?7) ON CONFLICT DO UPDATE SET"
                    " segments=segments+?3, rows=rows+?4, bytes=bytes+?5, recv_last=max(recv_last, ?6)",
                    (stream, target + 1, *copied, SYSTEM.now_ns()),
                )
    base.execute("UPDATE epoch AS e SET segments = (SELECT count(*) FROM segment WHERE epoch=e.id)")
    base.execute("UPDATE epoch AS e SET top = (SELECT coalesce(max(seq), -1) FROM segment WHERE epoch=e.id)")
    base.execute("UPDATE file AS f SET segments = (SELECT count(*) FROM segment WHERE file=f.id)")
    base.execute("UPDATE file SET rows=1000*segments, bytes=90000*segments, stop=90000*segments")


def _spans(base: sqlite3.Connection, total: int) -> None:
    there = ", ".join(presence(total))
    rows = base.execute(f"SELECT epoch, seq, 1, 1, {there} FROM segment ORDER BY epoch, seq")  # noqa: S608 - as above
    kinds = [HELD, ATTESTED, *(COPIES + number for number in range(1, len(TARGETS) + 1))]
    base.executemany("INSERT INTO span VALUES (?,?,?,?)", _ranges(rows, kinds))
    for number in range(1, len(TARGETS) + 1):
        ids = base.execute("SELECT -target, segment, 1 FROM copy WHERE target=? ORDER BY segment", (number,))
        base.executemany("INSERT INTO span VALUES (?,?,?,?)", _ranges(ids, [IDS]))


def _ranges(rows: Iterable[tuple[int, ...]], kinds: list[int]) -> Iterator[tuple[int, int, int, int]]:
    """(owner, kind, first, last) from (owner, number, whether it is in the set of each kind), ordered."""
    opened: dict[int, tuple[int, int, int]] = {}
    for owner, number, *inside in rows:
        for kind, held in zip(kinds, inside, strict=True):
            if not held:
                continue
            known = opened.get(kind)
            if known is not None and known[0] == owner and known[2] == number - 1:
                opened[kind] = (owner, known[1], number)
                continue
            if known is not None:
                yield known[0], kind, known[1], known[2]
            opened[kind] = (owner, number, number)
    for kind, known in opened.items():
        yield known[0], kind, known[1], known[2]
