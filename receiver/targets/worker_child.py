"""The process of `receiver.targets.worker`: batches from standard input, an answer a file to standard output.

It decides nothing: an answer is what a file holds, or that one was written and held what it should. All else is null.
"""

import contextlib
import io
import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from receiver.json_lines import send
from receiver.targets.files import Digests, digests, fill, is_link, not_following, opened_ahead

READ, WRITE = "read", "write"
ToRead = tuple[str, int, str]
"""A file: path, size in bytes, SHA-256 where only XXH3-128 is wanted."""
ToWrite = tuple[str, str, str, int, str]
"""A file: its source, a temporary path, the final one, where none may be yet, size in bytes, XXH3-128."""

_TOGETHER, _SOON = 16, 0.25  # files to an answer; seconds after which fewer will do
_MORE = 4 * 2**20  # bytes that a file may have more than it should


class _Sleeper(threading.Thread):
    """Ends the process when nobody has asked for so many seconds, or is there to be answered, whatever it hangs in."""

    def __init__(self, idle: float) -> None:
        super().__init__(daemon=True)
        self.idle = idle
        self.asked = threading.Event()
        self.busy = False
        self.parent = os.getppid()  # Windows: it never changes

    def run(self) -> None:
        while self.asked.wait(self.idle) or (self.busy and os.getppid() == self.parent):
            self.asked.clear()
        os._exit(0)


def main(argv: Sequence[str]) -> None:
    """Answer until standard input ends, or nobody asks for so many seconds."""
    sleeper = _Sleeper(float(argv[1]))
    sleeper.start()
    for line in sys.stdin.buffer:
        sleeper.busy = True
        sleeper.asked.set()
        word, again, files = json.loads(line)
        _say(read(files, again=again) if word == READ else map(written, files))
        sleeper.asked.set()
        sleeper.busy = False
    os._exit(0)  # at once: somebody may wait for it


def read(files: Iterable[ToRead], *, again: bool) -> Iterator[Digests | None]:
    """What each holds; None for one that can't be read, or is so long that somebody should hear of each block."""
    for (_, size, known), file in opened_ahead(files, lambda asked: _plain(asked[0]), (OSError,)):
        found = None
        if isinstance(file, io.FileIO):
            with contextlib.suppress(OSError), file:
                if os.fstat(file.fileno()).st_size <= size + _MORE:
                    found = digests(file, known, again=again, size=size, moved=_nothing)
        yield found


def _plain(path: str) -> io.FileIO:
    if sys.platform == "win32" and is_link(path):
        raise OSError("a link is no copy")
    return io.FileIO(path, "rb", opener=not_following)


def written(asked: ToWrite) -> bool:
    """Write a temporary file; whether it holds what it should. If not, nothing is left of it as far as that can be."""
    source, temp, final, size, digest = asked
    try:
        if os.path.lexists(final):
            return False
        with _plain(source) as given, io.FileIO(temp, "x+b") as file:
            good = fill(file, given, size) == (size, digest)
    except FileExistsError:
        return False
    except OSError:
        good = False
    if not good:
        with contextlib.suppress(OSError):
            os.unlink(temp)  # noqa: PTH108 - of thousands
    return good


def _nothing() -> None:
    """Nobody listens here."""


def _say(results: Iterable[Any]) -> None:
    """Lines of answers, some files to a line, in order."""
    answers: list[Any] = []
    said = time.monotonic()
    for result in results:
        answers.append(result)
        if len(answers) == _TOGETHER or time.monotonic() - said > _SOON:
            send(sys.stdout.buffer, answers)
            answers, said = [], time.monotonic()
    if answers:
        send(sys.stdout.buffer, answers)
