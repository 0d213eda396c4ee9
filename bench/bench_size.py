"""Size of segments: whole-day files at the default level against gzip -9 and xz -6 of the same bytes.

Every segment is rendered back and compared first: a size counts only if nothing was lost.
"""

import argparse
import gzip
import json
import lzma
import sys
import tempfile
import zipfile
from pathlib import Path

import pyarrow.parquet as pq

from tests.support.sealing import taped, whole_lines

LEVEL = 3
CHUNK = 4 << 20


def sources(data: Path) -> list[tuple[str, bytes]]:
    """Name and unpacked bytes of every recording of a whole day."""
    found = []
    for path in sorted(data.glob("lean/**/*.zip")):
        with zipfile.ZipFile(path) as folder:
            venue = path.relative_to(data).parts[-2]
            kind = path.relative_to(data).parts[2]
            found.append((f"{kind} {venue}", folder.read(folder.namelist()[0])))
    found += [
        (path.name.removesuffix(".gz"), gzip.decompress(path.read_bytes())) for path in data.glob("binance-raw/*.gz")
    ]
    return found


def measured(data: bytes, level: int) -> tuple[int, int, str]:
    """Bytes and rows of the segment, and the encodings that were chosen."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = [CHUNK] * (len(data) // CHUNK + 1)
        done = taped(Path(folder), whole_lines(data, sizes), level=level)
        assert done.rendered() == data, "the segments do not give the source back"
        size = sum(segment.size for segment in done.segments)
        group = pq.read_metadata(done.segments[0].path).row_group(0)
        columns = [group.column(k) for k in range(group.num_columns)]
        shares = " ".join(f"{c.path_in_schema}:{c.total_compressed_size >> 10}K" for c in columns)
        return size, sum(segment.rows for segment in done.segments), shares


def main(argv: list[str] | None = None) -> int:
    """Run and print; 1 if a table is not smaller than xz makes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the recordings")
    parser.add_argument("--level", type=int, default=LEVEL, help="zstd level")
    given = parser.parse_args(argv)
    found = sources(given.data)
    if not found:
        print(f"SKIPPED: no recordings in {given.data}")
        return 0
    worse, result = 0, {}
    print(f"{'bytes a row':32} {'segment':>8} {'xz -6':>8} {'gzip -9':>8}")
    for name, data in found:
        size, rows, shares = measured(data, given.level)
        small = len(lzma.compress(data, preset=6)) / rows
        zipped = len(gzip.compress(data, 9)) / rows
        table = not name.endswith(tuple("0123456789"))
        worse += table and size / rows >= small
        result[name] = round(size / rows, 3)
        print(f"{name:32} {size / rows:8.3f} {small:8.3f} {zipped:8.3f}   {shares}", flush=True)
    print(json.dumps({"bench": "size", "unit": "bytes a row", "level": given.level, **result}))
    return int(worse > 0)


if __name__ == "__main__":
    sys.exit(main())
