"""Makes the golden segments of the current format: `python -m tests.golden.make` (once for each new format).

What is there already is never made again: old files show that old formats stay readable.
"""

import dataclasses
import sys
import tempfile
from pathlib import Path

from tape.footer import FORMAT
from tape.names import SegmentName
from tests.support.sealing import EPOCH, taped

HERE = Path(__file__).parent


def table() -> bytes:
    """Every form of a column, quoted and not, with strays, a header behind a BOM and a fragment at the end."""
    lines = ["\ufefftime,whole,padded,fixed,trimmed,wide,huge,day,clock,fix,venue,note,ausdrück"]
    for k in range(200):
        sign = "-" if k % 5 == 3 else ""
        fraction = f"{k * 37 % 1000:03d}".rstrip("0") or "0"
        note = f'"said ""{k}"", then left"' if k % 4 == 0 else f"plain {k}"
        lines.append(
            f"2024-08-08 23:{k % 60:02d}:13.{k % 1000:03d},{sign}{k * 7919},{k:06d},{sign}{k}.{k % 97 + 1:05d},"
            f"{k}.{fraction},{k}.{k * 10**15 + 1:018d},{'' if k % 9 == 0 else 10**24 + k},2024.08.{k % 28 + 1:02d},"
            f"{k % 24:02d}:00:{k % 60:02d}.937251,20240808-00:00:{k % 60:02d}.{k % 1000:03d},"
            f"{'NASDAQ' if k % 3 else 'ARCA'},{note},käse{k % 2}"
        )
    lines[60] = "** reconnected **"
    lines[61] = "1,2,3"
    return ("\n".join(lines) + "\n").encode() + b"2024-08-08 23"


def frames() -> bytes:
    """Frames with whole nanoseconds, odd lines between them."""
    lines = [b'%d {"e":"trade","p":"%d.10"}' % (1_723_161_254_036_059_768 + k * 1_000_003, k) for k in range(100)]
    lines[50] = b"wss://example <-> 1626992740.179554"
    lines[51] = b""
    return b"\n".join(lines) + b"\n"


def quoted() -> bytes:
    """Quotes around everything, CRLF, semicolons, bytes that are not UTF-8."""
    rows = [b'"%d";"%d.5";"2024-08-08T00:00:00.%03dZ";"\xe4;%d";\r\n' % (k, k, k, k) for k in range(100)]
    rows[10] = b"\x00\x00\xff\n"
    return b"".join(rows)


def blanks() -> bytes:
    """Columns parted by blanks, one of them of fixed width with zeros in front, a stray."""
    rows = [b"20240808 %06d%03d 1.%05d -%d.5 Q%d\n" % (k, k, k, k, k % 3) for k in range(100)]
    rows[10] = b"# reconnected\n"
    return b"".join(rows)


def offsets() -> bytes:
    """Times with an offset or a tight fraction, a blank before each value, one of them empty."""
    rows = [
        b"2024-08-08T23:54:%02d.%06d+05:30, 23:54:%02d, %d.25, %d, x%d, 20240808 2354%02d%03d\n"
        % (k % 60, k, k % 60, k, 10**20 + k, k % 3, k % 60, k)
        for k in range(100)
    ]
    rows[10] = rows[10].replace(b", 10.25", b",")
    return b"time, clock, price, huge, note, tight\n" + b"".join(rows)


def alone() -> bytes:
    """One column of numbers."""
    return b"".join(b"%d.%d\n" % (97_000 + k, k % 10) for k in range(100))


SOURCES = {
    "table": table,
    "frames": frames,
    "quoted": quoted,
    "blanks": blanks,
    "offsets": offsets,
    "alone": alone,
}


def main() -> int:
    """Make what is missing."""
    for name, source in SOURCES.items():
        folder = HERE / f"format-{FORMAT}" / name
        if folder.exists():
            continue
        folder.mkdir(parents=True)
        with tempfile.TemporaryDirectory() as scratch:
            done = taped(Path(scratch), [source()], level=9).segments
            assert len(done) == 1
            final = folder / str(SegmentName(EPOCH, 0, done[0].digest))
            final.write_bytes(done[0].path.read_bytes())
        (folder / "source").write_bytes(source())
        sys.stdout.write(f"{dataclasses.replace(done[0], path=final).path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
