"""What sealing keeps in memory where rows are long, many or wide: bounded, whatever the file is made of."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tape import segment as segments
from tape.layout import Format, detect, encoding
from tape.segment import SegmentWriter, source_chunks
from tests.support.sealing import START_NS, footer_for

WIDE = b"".join(b",".join(b"%d" % (row * 7919 % 1000 + k) for k in range(600)) + b"\n" for row in range(300))


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each sample that an encoding is tried on."""
    sizes: list[int] = []
    real = encoding._tried

    def recorded(sample: pa.Table, encodings: dict[str, str], level: int) -> object:
        sizes.append(sample.nbytes)
        return real(sample, encodings, level)

    monkeypatch.setattr(encoding, "_tried", recorded)
    return sizes


def test_a_wide_table_is_tried_some_columns_at_a_time(tried: list[int]) -> None:
    """No sample is larger than SAMPLE_BYTES, every column has its choice, and it is that of all rows of the sample."""
    rows = 20_000
    numbers = {f"n{k}": np.arange(rows) * (k + 1) for k in range(60)}
    table = pa.table({**numbers, "same": ["text"] * rows})
    chosen = encoding.plan(table, 1)
    assert max(tried) <= encoding.SAMPLE_BYTES
    assert chosen.rows == rows
    assert chosen.encodings == {**dict.fromkeys(numbers, "DELTA_BINARY_PACKED"), "same": chosen.encodings["same"]}


def test_long_rows_are_tried_on_few(tried: list[int]) -> None:
    """Rows of megabytes: as many as a sample may be large, one at least."""
    rows = [np.random.default_rng(n).bytes(3 << 20) for n in range(6)]
    chosen = encoding.plan(pa.table({"payload": pa.array(rows, pa.binary())}), 1)
    assert max(tried) <= encoding.SAMPLE_BYTES
    assert set(chosen.encodings) == {"payload"}


def test_wide_rows_do_not_pile_up_in_small_batches(tmp_path: Path) -> None:
    """Few rows of many columns are joined early: the columns of batches kept apart stay few, and all comes back."""
    layout = detect(WIDE, Format.CSV, at_start=True, prior=None)
    writer = SegmentWriter(tmp_path / "x", layout, level=1)
    lines = WIDE.splitlines(keepends=True)[:24]
    for line in lines:
        writer.append(line, [(len(line), START_NS)])
        small = [batch for batch in writer._pending if batch.num_rows == 1]
        assert sum(batch.num_columns for batch in small) <= 1 << 12
    weight = sum(batch.nbytes + segments.ARRAY_COST * batch.num_columns for batch in writer._pending)
    assert writer._pending_bytes == pytest.approx(weight, rel=0.05)
    data = b"".join(lines)
    done = writer.close(footer_for(0, len(data)))
    assert b"".join(source_chunks(done.path)) == data


def test_what_is_being_written_still_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row group is in the budget of all writers until it is written, not only until that begins."""
    held: list[int] = []
    real = encoding.plan

    def plan(table: pa.Table, level: int) -> encoding.EncodingPlan:
        held.append(segments._HELD.add(0))
        return real(table, level)

    monkeypatch.setattr(encoding, "plan", plan)
    writer = SegmentWriter(tmp_path / "x", detect(WIDE, Format.CSV, at_start=True, prior=None), level=1)
    writer.append(WIDE, [(len(WIDE), START_NS)])
    writer.close(footer_for(0, len(WIDE)))
    assert held[0] > len(WIDE)
    assert segments._HELD.add(0) == 0
