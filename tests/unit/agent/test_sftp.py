"""Small rules of the writer that a whole delivery shows too seldom."""

import asyncio
from pathlib import Path

import pytest

from agent.body import Reader, SpoolFile
from agent.sftp import _raise_worst
from tape.digest import xxh3
from tape.errors import DigestMismatch, HometapeError, LinkError, Refused, Resend, SegmentError


def answered(error: HometapeError | None) -> "asyncio.Future[None]":
    """An answer that is there."""
    made: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    if error is None:
        made.set_result(None)
    else:
        made.set_exception(error)
    return made


async def test_the_gravest_error_is_the_one_that_counts() -> None:
    """A refusal goes before a resend, that before a lost link; an answer still to come is no error."""
    errors = [LinkError("lost"), Resend("resend: later"), Refused("refused: never")]
    pending: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    for count in (1, 2, 3):
        answers = [pending, answered(None), *(answered(error) for error in errors[:count])]
        with pytest.raises(type(errors[count - 1])):
            _raise_worst(answers)
    _raise_worst([pending, answered(None)])
    assert not pending.done()


def test_a_body_is_as_long_as_promised_and_closed_after_its_end(tmp_path: Path) -> None:
    """A spool file that became shorter or longer is an error of that segment, whatever the pieces."""
    path = tmp_path / "segment"
    path.write_bytes(b"0123456789")
    for piece in (1, 3, 10):
        reader = Reader(SpoolFile(path, 10, xxh3(b"0123456789")))
        found = b"".join(reader.take(min(piece, 10 - at)) for at in range(0, 10, piece))
        assert found == b"0123456789"
        assert reader._file is None
    for size, digest, kind in (
        (11, xxh3(b"0123456789"), SegmentError),
        (9, xxh3(b"012345678"), SegmentError),
        (10, "0" * 32, DigestMismatch),
    ):
        reader = Reader(SpoolFile(path, size, digest))
        with pytest.raises(kind):
            reader.take(size)
        reader.close()
