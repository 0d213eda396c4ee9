"""Every format ever written stays readable: golden segments give back the very bytes they were made from."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tape.digest import xxh3
from tape.footer import FORMAT
from tape.segment import source_chunks, verify
from tests.golden.make import SOURCES

HERE = Path(__file__).parent
FOLDERS = sorted(path.parent for path in HERE.glob("format-*/*/source"))


def segment_in(folder: Path) -> Path:
    """The one segment in a golden folder."""
    (path,) = folder.glob("*.parquet")
    return path


def test_the_current_format_has_golden_segments() -> None:
    """A new format number brings its golden segments with it, and no folder is empty."""
    assert {folder.relative_to(HERE).as_posix() for folder in FOLDERS} >= {
        f"format-{FORMAT}/{name}" for name in SOURCES
    }


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_a_golden_segment_gives_its_bytes_back(folder: Path) -> None:
    """It verifies and renders to the recorded source."""
    source = (folder / "source").read_bytes()
    footer = verify(segment_in(folder))
    assert footer.source.digest == xxh3(source)
    assert b"".join(source_chunks(segment_in(folder))) == source


@pytest.mark.parametrize("name", SOURCES)
def test_golden_sources_are_what_they_were(name: str) -> None:
    """The recorded bytes of format 1 are those that its script describes."""
    assert (HERE / "format-1" / name / "source").read_bytes() == SOURCES[name]()


def test_the_golden_offsets_are_typed() -> None:
    """Offsets, blanks before values and tight fractions are times and numbers."""
    schema = pq.read_schema(segment_in(HERE / "format-1" / "offsets"))
    kinds = {field.name: field.type for field in schema}
    assert kinds["time"] == pa.timestamp("us", "UTC")
    assert kinds["clock"] == pa.time32("ms")
    assert kinds["price"] == pa.decimal128(18, 2)
    assert kinds["huge"] == pa.decimal128(38, 0)
    assert kinds["note"] == pa.string()
    assert kinds["tight"] == pa.timestamp("ms")


def test_the_golden_table_is_typed() -> None:
    """Its columns are typed: a reader of today sees the types of the day it was written."""
    schema = pq.read_schema(segment_in(HERE / "format-1" / "table"))
    kinds = {field.name: field.type for field in schema}
    assert kinds["time"] == pa.timestamp("ms")
    assert kinds["whole"] == kinds["padded"] == pa.int64()
    assert kinds["fixed"] == pa.decimal128(18, 5)
    assert kinds["trimmed"] == pa.decimal128(18, 3)
    assert kinds["wide"] == pa.decimal128(38, 18)
    assert kinds["huge"] == pa.decimal128(38, 0)
    assert kinds["day"] == pa.date32()
    assert kinds["clock"] == pa.time64("us")
    assert kinds["fix"] == pa.timestamp("ms")
    assert kinds["venue"] == kinds["note"] == kinds["ausdrück"] == pa.string()
