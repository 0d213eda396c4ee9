"""Promises 4 and 5 with the real collector: a process that dies at random moments, again and again.

Dying is modelled by copying the state folder while the collector works (with the outbox's lock held, so
that the copy is one moment) and going on from the copy; the feeder starts again at the known offset, as
a file source does, and an origin of which nothing was sealed starts a new life.
"""

import asyncio
import contextlib
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from agent.model import Origin
from agent.settings import SpoolSettings
from tests.support import RECORDINGS, recording, wait_until_async
from tests.unit.agent.taping import Taping, events_in, exported, taping

ODD = [
    b"a,b\r\n1,2\r\n\r\n3,4\n",
    b"\xef\xbb\xbftime;price\n1;2,5\n",
    b"\x00\x00\x00\n\x00",
    b"\xff\xfe caf\xe9\n" * 5,
    b"\n" * 40,
    b'"quoted, with comma",1\n"a ""q"" b",2\n',
    b'1700000000000000001 {"a":1}\n1700000000000000002 {"a":2}\n',
    b"x" * 9000 + b"\n",
    b"1,2.50\n1,2.500\n01,2\n-0,0.0\n1e5,nan\n",
    b"99999999999999999999,0.000000000000000001\n",
]


def _hostile(rng: random.Random, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += rng.choice([*ODD, b"%d,%d.%02d\n" % (rng.randrange(10**9), rng.randrange(999), rng.randrange(99)) * 20])
    return data


async def _feed(tape: Taping, origin: Origin, data: bytes, start: int, rng: random.Random) -> None:
    at = start
    while at < len(data):
        size = rng.choice([1, 7, 100, 5000, 40_000])
        await tape.feed(origin, data[at : at + size], start=at)
        at += size
        if rng.random() < 0.1:
            await asyncio.sleep(0)
    await tape.collector.finish(origin)


def _copy(state: Path, into: Path) -> None:
    """The folder as it is now; what is not committed may come and go meanwhile."""

    def copy(source: str, target: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.copy2(source, target)

    shutil.copytree(state, into, ignore=shutil.ignore_patterns("lock", "reserve"), copy_function=copy)


def _segments(tape: Taping) -> int:
    return sum(total.segments for total in tape.outbox.totals() if total.stream.startswith("demo/"))


async def _some_sealed(tape: Taping, more: int, files: int) -> None:
    """Wait for so many more segments, or until every file is sealed to its end."""
    base = _segments(tape)

    def there() -> bool:
        finished = [file for file in tape.outbox.known_files("feed") if file.finished]
        return _segments(tape) >= base + more or len(finished) == files

    await wait_until_async(there, every=0.001, within=60)


async def _lives(folder: Path, contents: list[bytes], seed: int, deaths: int) -> int:
    """How many times a feed went on in the middle of a file."""
    resumed = 0
    rng = random.Random(seed)
    state = folder / "0"
    origins = [Origin(f"{n:032x}", "feed", f"demo/{n % 2}", f"/data/{n}", "auto") for n in range(len(contents))]
    spool = SpoolSettings(keep_free=0)
    for life in range(deaths + 1):
        last = life == deaths
        async with taping(state, spool=spool, max_age=0.03, partial_age=0.02, buffer=100_000, max_bytes=20_000) as tape:
            known = {file.origin.file_id: file for file in tape.outbox.known_files("feed")}
            feeds = []
            for n, data in enumerate(contents):
                file = known.get(origins[n].file_id)
                if file is None:
                    origins[n] = replace(origins[n], file_id=f"{rng.getrandbits(128):032x}")
                elif file.finished:
                    continue
                resumed += file is not None
                feeds.append(_feed(tape, origins[n], data, file.offset if file else 0, random.Random(seed + n)))
            running = asyncio.gather(*feeds)
            if last:
                await running
                await wait_until_async(tape.collector.flush, within=60)
                for origin, data in zip(origins, contents, strict=True):
                    await tape.sealed(origin, len(data))
                break
            await _some_sealed(tape, rng.randrange(1, 4), len(contents))
            with tape.outbox._lock:
                _copy(state, folder / str(life + 1))
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        state = folder / str(life + 1)
    for origin, data in zip(origins, contents, strict=True):
        assert exported(state / "spool", origin.file_id) == data
    assert events_in(state / "spool").count(b'"kind":"started"') >= 1
    return resumed


@pytest.mark.parametrize("seed", range(5))
async def test_hostile_files_survive_random_deaths(tmp_path: Path, seed: int) -> None:
    """Every oddity, in chunks down to one byte, with deaths in between: identical bytes, each once."""
    rng = random.Random(seed)
    contents = [_hostile(rng, rng.randrange(20_000, 150_000)) for _ in range(4)]
    assert await _lives(tmp_path, contents, seed, deaths=4) > 0


@pytest.mark.parametrize("name", RECORDINGS)
async def test_recordings_survive_random_deaths(tmp_path: Path, name: str) -> None:
    """The first part of every real recording, with deaths in between: identical bytes, each once."""
    assert await _lives(tmp_path, [recording(name).read(300_000)], 7, deaths=2) > 0
