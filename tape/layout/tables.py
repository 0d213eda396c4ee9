"""Where a table's columns part: how many fields a delimiter gives, and tables that no usual delimiter shows.

A column on its own and columns parted by blanks, `~` or `:` look like any other text. They are taken for
tables only where most of the columns hold nothing but numbers and times, line after line.
"""

from collections import Counter

from tape.layout.forms import form_of
from tape.layout.model import MAX_COLUMNS, Plain

LEAST_LINES = 8  # fewer say nothing about the rest of a file
_LOOKED_AT = 500
_SEPARATORS = (b" ", b"~", b":")


def modal(lines: list[bytes], delimiter: bytes) -> tuple[int, float]:
    """The most frequent number of fields, outside quotes, and the share of lines that have it."""
    counts = Counter(_count(line, delimiter) for line in lines)
    count, times = max(counts.items(), key=lambda item: (item[1], item[0]))
    return count, times / len(lines)


def _count(line: bytes, delimiter: bytes) -> int:
    if b'"' not in line:
        return line.count(delimiter) + 1
    return sum(part.count(delimiter) for part in line.split(b'"')[::2]) + 1


def is_json(lines: list[bytes]) -> bool:
    """Whether most lines begin as JSON does."""
    return 2 * sum(line.lstrip()[:1] in {b"{", b"["} for line in lines) > len(lines)


def delimiter_of(lines: list[bytes]) -> str | None:
    """What parts the columns of a sample that has none of the usual delimiters; None where it is no table.

    A column on its own has the delimiter of CSV, which does not occur in it.
    """
    if len(lines) < LEAST_LINES or is_json(lines):
        return None
    rows = _bare(lines[1:])  # the first may be a header
    if not isinstance(form_of(rows), Plain):
        return ","
    shares = {separator: _typed_share(rows, separator) for separator in _SEPARATORS}
    best = max(_SEPARATORS, key=shares.__getitem__)
    return best.decode() if shares[best] > 50 else None


def is_row_of_blanks(lines: list[bytes]) -> bool:
    """Whether lines that begin with a number are rows of columns parted by blanks, and no messages behind a time."""
    rows = _bare(lines)
    share = _typed_share(rows, b" ")
    return share == 100 or (share > 50 and len(rows) >= LEAST_LINES)


def _bare(lines: list[bytes]) -> list[bytes]:
    return [line.rstrip(b"\r") for line in lines[:_LOOKED_AT]]


def _typed_share(rows: list[bytes], separator: bytes) -> int:
    """How many of a hundred columns hold numbers or times; 0 where the rows have not the same number of fields."""
    count, _ = modal(rows, separator)
    fitting = [fields for row in rows if len(fields := row.split(separator)) == count]
    if not 2 <= count <= MAX_COLUMNS or 20 * len(fitting) < 19 * len(rows):
        return 0
    columns = [[field for field in column if field] for column in zip(*fitting, strict=True)]
    typed = sum(bool(column) and not isinstance(form_of(column), Plain) for column in columns)
    return 100 * typed // count
