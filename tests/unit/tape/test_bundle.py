"""Bundles: written from spool files, read back with every claim checked."""

import io
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tape.bundle import MAGIC, MAX_BYTES, MAX_ITEMS, Bundle, BundleReader, Item, overhead
from tape.digest import BLOCK, xxh3
from tape.errors import BundleError
from tape.names import SegmentName

EPOCH = "00112233445566aa"


def entry(folder: Path, seq: int, data: bytes, stream: str = "a/b", epoch: str = EPOCH) -> tuple[Item, Path]:
    """A spool file with its item."""
    item = Item(stream, SegmentName(epoch, seq, xxh3(data)), len(data))
    path = folder / f"{epoch}-{seq}"
    path.write_bytes(data)
    return item, path


def written(entries: list[tuple[Item, Path]]) -> bytes:
    """The bundle's bytes."""
    return b"".join(Bundle(entries).blocks())


def read_all(data: bytes, epoch: str | None = None) -> list[tuple[Item, bytes, str]]:
    """Everything in a bundle."""
    reader = BundleReader(io.BytesIO(data), len(data), epoch=epoch)
    found = []
    for _ in reader.items:
        sink = io.BytesIO()
        item, digest = reader.copy(sink)
        found.append((item, sink.getvalue(), digest))
    return found


@given(st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=20))
def test_what_goes_in_comes_out(tmp_path_factory: pytest.TempPathFactory, datas: list[bytes]) -> None:
    """Items come back in order with their bytes and digests, and the name is the digest of the head."""
    folder = tmp_path_factory.mktemp("spool")
    entries = [entry(folder, seq, data) for seq, data in enumerate(datas)]
    whole = written(entries)
    assert [(item, data) for item, data, _ in read_all(whole, epoch=EPOCH)] == [
        (item, data) for (item, _), data in zip(entries, datas, strict=True)
    ]
    assert all(digest == item.name.digest for item, _, digest in read_all(whole))
    bundle = Bundle(entries)
    head = len(MAGIC) + 4 + sum(overhead(item.stream, item.name) for item, _ in entries)
    assert (bundle.name.digest, bundle.name.epoch, bundle.size) == (xxh3(whole[:head]), EPOCH, len(whole))
    assert head + sum(map(len, datas)) == len(whole)


@given(st.integers(1, 700), st.lists(st.integers(1, 900), min_size=1, max_size=5))
def test_the_stream_gives_exactly_what_is_asked_for(
    tmp_path_factory: pytest.TempPathFactory, count: int, sizes: list[int]
) -> None:
    """Reads of any size return full blocks until the end, and together the bundle's bytes."""
    folder = tmp_path_factory.mktemp("spool")
    entries = [entry(folder, seq, bytes([seq]) * size) for seq, size in enumerate(sizes)]
    stream = Bundle(entries).open()
    blocks = list(iter(lambda: stream.read(count), b""))
    stream.close()
    assert b"".join(blocks) == written(entries)
    assert {len(block) for block in blocks[:-1]} <= {count}


def test_a_large_item_is_streamed_in_blocks(tmp_path: Path) -> None:
    """No block is larger than the block size, however large the item."""
    data = bytes(range(256)) * 12_000
    entries = [entry(tmp_path, 0, data)]
    sizes: list[int] = []

    class Sink:
        def write(self, block: bytes) -> None:
            sizes.append(len(block))

    whole = written(entries)
    BundleReader(io.BytesIO(whole), len(whole)).copy(Sink())
    assert max(sizes) <= BLOCK
    assert max(len(block) for block in Bundle(entries).blocks()) <= BLOCK


def test_items_can_be_skipped(tmp_path: Path) -> None:
    """Skipping an item leaves the next one whole, and there is nothing after the last."""
    whole = written([entry(tmp_path, 0, b"x" * 100), entry(tmp_path, 1, b"yy")])
    reader = BundleReader(io.BytesIO(whole), len(whole))
    assert reader.skip().name.seq == 0
    sink = io.BytesIO()
    reader.copy(sink)
    assert sink.getvalue() == b"yy"
    with pytest.raises(BundleError, match="no more than 2 items"):
        reader.skip()


def test_every_cut_is_noticed_before_an_item_is_copied(tmp_path: Path) -> None:
    """A bundle cut anywhere, or with a byte too many, is refused by its index alone."""
    whole = written([entry(tmp_path, 0, b"abc"), entry(tmp_path, 1, b"defg")])
    for length in [*range(len(whole)), len(whole) + 1]:
        data = (whole + b"!")[:length]
        with pytest.raises(BundleError):
            BundleReader(io.BytesIO(data), len(data))


def test_a_file_shorter_than_its_stated_size_is_noticed(tmp_path: Path) -> None:
    """A file that loses its tail after its size was taken ends in an error, not in a short item."""
    whole = written([entry(tmp_path, 0, b"abcdef")])
    reader = BundleReader(io.BytesIO(whole[:-2]), len(whole))
    with pytest.raises(BundleError, match="ends 2 bytes too early"):
        reader.copy(io.BytesIO())


def raw(*items: tuple[bytes, int], count: int | None = None, body: bytes = b"") -> bytes:
    """A bundle with any index."""
    head = MAGIC + struct.pack(">I", len(items) if count is None else count)
    return head + b"".join(struct.pack(">H", len(p)) + p + struct.pack(">Q", n) for p, n in items) + body


NAME = f"{EPOCH}-{7:012d}-{'0' * 32}.parquet"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04" + bytes(40), "does not start like a bundle"),
        (raw(count=0), "claims 0 items"),
        (raw(count=MAX_ITEMS + 1), "claims 4097 items"),
        (raw(count=2**32 - 1), "claims 4294967295 items"),
        (raw((f"a/{NAME}".encode(), 1), body=b"x"), "does not start with '/'"),
        (raw((f"/../{NAME}".encode(), 1), body=b"x"), "not allowed"),
        (raw((f"//{NAME}".encode(), 1), body=b"x"), "not allowed"),
        (raw((f"/{NAME}".encode(), 1), body=b"x"), "not allowed"),
        (raw((f"/a/con/{NAME}".encode(), 1), body=b"x"), "not allowed"),
        (raw((f"/A/{NAME}".encode(), 1), body=b"x"), "not allowed"),
        (raw((b"/a/../../etc/passwd", 1), body=b"x"), "not allowed"),
        (raw((b"/a/b/passwd", 1), body=b"x"), "not a segment name"),
        (raw(("/a/é".encode(), 1), body=b"x"), "ascii"),
        (raw((b"/" + b"a" * 600, 1), body=b"x"), "a path of 601 bytes"),
        (raw((b"", 1), body=b"x"), "a path of 0 bytes"),
        (raw((f"/a/{NAME}".encode(), 0)), "is empty"),
        (raw((f"/a/{NAME}".encode(), 1), (f"/a/{NAME}".encode(), 1), body=b"xy"), "twice"),
        (raw((f"/a/{NAME}".encode(), 2**63), body=b"xy"), "more than"),
        (raw((f"/a/{NAME}".encode(), 1), body=b"xy"), "promises 1 bytes"),
    ],
)
def test_a_hostile_index_is_refused(data: bytes, message: str) -> None:
    """Wrong magic, counts, names, sizes and sums are refused with the reason."""
    with pytest.raises(BundleError, match=message):
        BundleReader(io.BytesIO(data), len(data))


def test_the_epoch_must_be_that_of_the_name(tmp_path: Path) -> None:
    """An item of another epoch than the bundle's is refused on both sides."""
    whole = written([entry(tmp_path, 0, b"x")])
    with pytest.raises(BundleError, match="not of epoch ffff"):
        BundleReader(io.BytesIO(whole), len(whole), epoch="f" * 16)
    with pytest.raises(BundleError, match="not of epoch"):
        Bundle([entry(tmp_path, 0, b"x"), entry(tmp_path, 1, b"y", epoch="f" * 16)])


def test_a_size_above_the_cap_is_refused_unread() -> None:
    """A file larger than allowed is refused without a read."""

    class Untouchable(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise AssertionError("was read")

    with pytest.raises(BundleError, match="more than the"):
        BundleReader(Untouchable(), MAX_BYTES + 1)


def test_a_spool_file_of_another_length_stops_the_writer(tmp_path: Path) -> None:
    """A spool file that is shorter or longer than on record makes no bundle."""
    for length in (2, 4):
        item, path = entry(tmp_path, 0, b"abc")
        path.write_bytes(b"z" * length)
        with pytest.raises(BundleError, match=f"holds {length} bytes, not the 3"):
            list(Bundle([(item, path)]).blocks())


def test_a_damaged_spool_file_stops_the_writer(tmp_path: Path) -> None:
    """A spool file whose bytes are not those its name states makes no bundle."""
    item, path = entry(tmp_path, 0, b"abc")
    path.write_bytes(b"abd")
    with pytest.raises(BundleError, match="does not have the bytes that were sealed"):
        list(Bundle([(item, path)]).blocks())


def test_too_many_items_make_no_bundle(tmp_path: Path) -> None:
    """The writer keeps the limits the reader enforces."""
    path = tmp_path / "x"
    path.write_bytes(b"x")
    items = [(Item("a", SegmentName(EPOCH, seq, xxh3(b"x")), 1), path) for seq in range(MAX_ITEMS + 1)]
    with pytest.raises(BundleError, match="4097 items"):
        Bundle(items)
    assert len(read_all(written(items[:-1]))) == MAX_ITEMS
    with pytest.raises(BundleError, match="0 items"):
        Bundle([])
