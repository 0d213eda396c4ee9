"""The reading process of `receiver.targets.reader`: batches from standard input, digests to standard output."""

import io
import json
import os
import sys
import threading
import time
from collections.abc import Sequence

from receiver.targets.files import Digests, digests, is_link, not_following, opened_ahead

_TOGETHER, _SOON = 16, 0.25  # files to an answer; seconds after which fewer will do

Asked = tuple[str, int, str]
"""A file: path, size in bytes, SHA-256 where only XXH3-128 is wanted."""


class _Sleeper(threading.Thread):
    """Ends the process when nobody has asked for so many seconds."""

    def __init__(self, idle: float) -> None:
        super().__init__(daemon=True)
        self.idle = idle
        self.busy = False
        self.since = time.monotonic()

    def run(self) -> None:
        while self.busy or time.monotonic() - self.since < self.idle:
            time.sleep(self.idle / 10)
        os._exit(0)


def main(argv: Sequence[str]) -> int:
    """Answer until standard input ends, or nobody asks for so many seconds."""
    sleeper = _Sleeper(float(argv[1]))
    sleeper.start()
    for line in sys.stdin.buffer:
        sleeper.busy = True
        again, files = json.loads(line)
        answer(files, again=again)
        sleeper.since = time.monotonic()
        sleeper.busy = False
    return 0


def answer(files: Sequence[Asked], *, again: bool) -> None:
    """Lines of answers, some files to a line, in order; null for one that can't be read."""
    answers: list[Digests | None] = []
    said = time.monotonic()
    for (_, size, known), file in opened_ahead(files, _opened, (OSError,)):
        answers.append(_digests(file, size, known, again=again) if isinstance(file, io.FileIO) else None)
        if len(answers) == _TOGETHER or time.monotonic() - said > _SOON:
            _say(answers)
            answers, said = [], time.monotonic()
    if answers:
        _say(answers)


def _opened(asked: Asked) -> io.FileIO:
    if sys.platform == "win32" and is_link(asked[0]):
        raise OSError("a link is no copy")
    return io.FileIO(asked[0], "rb", opener=not_following)


def _digests(file: io.FileIO, size: int, known: str, *, again: bool) -> Digests | None:
    try:
        with file:
            return digests(file, known, again=again, size=size, moved=lambda: None)
    except OSError:
        return None


def _say(answers: Sequence[Digests | None]) -> None:
    sys.stdout.buffer.write(json.dumps(answers).encode("ascii") + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
