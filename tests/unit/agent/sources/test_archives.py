"""Compressed files as streams: whole, of many parts, cut short, damaged, and bombs."""

import bz2
import gzip
import io
import lzma
import random
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable

import pytest
import zstandard
from typing_extensions import Buffer

from agent.sources.archives import Archive
from agent.sources.inflate import BLOCK
from agent.sources.streams import XZ_MEMORY
from tape.errors import Damaged
from tape.filenames import ARCHIVES

RNG = random.Random(7)
DATA = b"".join(b"%d,%d,%d\n" % (i * 7, RNG.randrange(1000), RNG.randrange(9)) for i in range(15_000))
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def unpacked(raw: bytes, suffix: str, number: int = 0) -> tuple[bytes, str]:
    """Everything that decodes, and the complaint if there is one."""
    out = bytearray()
    try:
        for block in Archive(io.BytesIO(raw), suffix).blocks(number):
            assert 0 < len(block) <= BLOCK
            out += block
    except Damaged as error:
        return bytes(out), str(error)
    return bytes(out), ""


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED, *, streamed: bool = False) -> bytes:
    """A zip file; `streamed`: written to something that can't seek, sizes behind the data."""
    buffer = io.BytesIO()

    class Pipe(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Buffer) -> int:
            return buffer.write(bytes(data))

    with zipfile.ZipFile(Pipe() if streamed else buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", PACKERS)
def test_whole_archives_of_one_and_many_parts(suffix: str) -> None:
    """Members of gz and frames of zst follow one another as one content."""
    pack = PACKERS[suffix]
    assert unpacked(pack(DATA), suffix) == (DATA, "")
    assert unpacked(pack(DATA) + pack(b"more\n") + pack(b""), suffix) == (DATA + b"more\n", "")
    assert unpacked(pack(b""), suffix) == (b"", "")


def test_zero_padding_behind_gzip_is_no_damage() -> None:
    """Tapes and disks pad with zeros."""
    assert unpacked(gzip.compress(DATA) + bytes(300_000), ".gz") == (DATA, "")
    assert unpacked(gzip.compress(DATA) + bytes(7) + gzip.compress(DATA), ".gz") == (DATA * 2, "")


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_cut_archive_gives_all_that_decodes_and_says_so(suffix: str) -> None:
    """At any length short of the whole the end is never silent, and what came before it is right."""
    raw = PACKERS[suffix](DATA) + PACKERS[suffix](DATA)
    whole = len(PACKERS[suffix](DATA))
    for cut in [*range(20), whole // 2, whole - 9, whole - 1, whole + 1, whole + 9, len(raw) - 1]:
        out, flaw = unpacked(raw[:cut], suffix)
        assert (DATA * 2).startswith(out)
        assert flaw, cut
        assert len(out) >= (len(DATA) if cut >= whole - 1 else 0)
    assert unpacked(raw[:whole], suffix) == (DATA, "")


def by_single_bytes(raw: bytes) -> bytes:
    """What zlib itself decodes when fed byte by byte."""
    engine, out = zlib.decompressobj(31), bytearray()
    try:
        for at in range(len(raw)):
            out += engine.decompress(raw[at : at + 1])
    except zlib.error:
        pass
    return bytes(out)


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_gzip_gives_everything_before_the_damage(seed: int) -> None:
    """Not less than zlib gives byte by byte, and the error is told."""
    rng = random.Random(seed)
    raw = bytearray(gzip.compress(DATA))
    at = rng.randrange(12, len(raw) - 8)
    raw[at : at + 4] = rng.randbytes(4)
    out, flaw = unpacked(bytes(raw), ".gz")
    assert flaw
    assert out.startswith(by_single_bytes(bytes(raw)))


@pytest.mark.parametrize("suffix", [".zst", ".bz2", ".xz"])
@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_archive_with_checksums_says_so(seed: int, suffix: str) -> None:
    """No flipped bit passes in silence. Of bzip2 a wrong block comes out before its checksum is seen to be wrong."""
    rng = random.Random(seed)
    raw = bytearray(PACKERS[suffix](DATA))
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    out, flaw = unpacked(bytes(raw), suffix)
    assert flaw
    assert suffix == ".bz2" or len(out) <= len(DATA)


@pytest.mark.parametrize("suffix", [".bz2", ".xz"])
def test_what_decodes_before_the_damage_is_given_out(suffix: str) -> None:
    """A decoder that fails within a block has given nothing of it; what it could give comes all the same."""
    noise = random.Random(4).randbytes(2_500_000)
    raw = bytearray(PACKERS[suffix](DATA + noise))
    raw[-400_000] ^= 255
    out, flaw = unpacked(bytes(raw), suffix)
    assert "does not decode near compressed byte" in flaw
    assert (DATA + noise).startswith(out[:1_600_000])
    assert len(out) > 1_600_000


def test_an_xz_file_that_wants_too_much_memory_is_told() -> None:
    """A dictionary larger than any ordinary archive has."""
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 2 * XZ_MEMORY}]
    out, flaw = unpacked(lzma.compress(DATA, filters=filters), ".xz")
    assert out == b""
    assert "emory" in flaw


@pytest.mark.parametrize(("suffix", "raw"), [(s, r) for s in ARCHIVES for r in (b"", b"a,b\n1,2\n")])
def test_what_is_no_archive_is_said_to_be_none(suffix: str, raw: bytes) -> None:
    """A plain or empty file with an archive's suffix gives nothing and a complaint."""
    out, flaw = unpacked(raw, suffix)
    assert (out, bool(flaw)) == (b"", True)


@pytest.mark.parametrize("suffix", PACKERS)
def test_foreign_bytes_behind_an_archive_are_told(suffix: str) -> None:
    """Bytes that no archive holds can't be decoded; they do not vanish in silence."""
    out, flaw = unpacked(PACKERS[suffix](DATA) + b"garbage, more of it", suffix)
    assert out == DATA
    assert flaw


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_members_are_contents_of_their_own(method: int, streamed: bool) -> None:
    """Files are members, folders are not, and a single member has no name of its own."""
    raw = zipped({"a.csv": DATA, "d/": b"", "d/b.csv": DATA[:99]}, method, streamed=streamed)
    assert Archive(io.BytesIO(raw), ".zip").members() == ["a.csv", "d/b.csv"]
    assert unpacked(raw, ".zip", 0) == (DATA, "")
    assert unpacked(raw, ".zip", 1) == (DATA[:99], "")
    assert Archive(io.BytesIO(zipped({"only.csv": DATA})), ".zip").members() == [""]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_zip_without_its_directory_is_read_by_its_headers(streamed: bool) -> None:
    """An incomplete copy gives whole members whole, the cut one as far as it goes, and says what is wrong."""
    raw = zipped({"a.csv": DATA, "b.csv": DATA[::-1]}, streamed=streamed)
    archive = Archive(io.BytesIO(raw[:-30]), ".zip")
    assert archive.members() == ["a.csv", "b.csv"]
    assert archive.flaw
    assert unpacked(raw[:-30], ".zip", 1) == (DATA[::-1], "")
    out, flaw = unpacked(raw[: len(raw) // 4], ".zip")
    assert DATA.startswith(out)
    assert len(out) > 1000
    assert flaw


def test_a_wrong_checksum_in_a_zip_is_told() -> None:
    """Stored bytes that were changed decode, but not in silence."""
    raw = bytearray(zipped({"a.csv": DATA}, zipfile.ZIP_STORED))
    raw[1000] ^= 1
    out, flaw = unpacked(bytes(raw), ".zip")
    assert len(out) == len(DATA)
    assert "checksum" in flaw


def test_an_encrypted_zip_is_told() -> None:
    """Nothing can be read of it; that is said."""
    raw = bytearray(zipped({"a.csv": DATA}))
    raw[6] |= 1
    raw[raw.rindex(b"PK\x01\x02") + 8] |= 1
    assert unpacked(bytes(raw), ".zip") == (b"", "'a.csv' in it is encrypted")


@pytest.mark.parametrize("suffix", ARCHIVES)
def test_a_bomb_is_streamed_in_little_memory(suffix: str) -> None:
    """64 MiB of zeros from a small file never lie in memory together."""
    zeros = bytes(1 << 20)
    if suffix == ".zip":
        raw = zipped({"z": zeros * 64})
    elif suffix == ".gz":
        engine = zlib.compressobj(9, zlib.DEFLATED, 31)
        raw = b"".join(engine.compress(zeros) for _ in range(64)) + engine.flush()
    else:
        raw = PACKERS[suffix](zeros * 64)
    archive = Archive(io.BytesIO(raw), suffix)
    tracemalloc.start()
    try:
        assert sum(len(block) for block in archive.blocks(0)) == 64 << 20
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".zip"])
def test_the_stated_size_is_the_content_s(suffix: str) -> None:
    """What a finished archive says of its length is right, so that it need not be unpacked again."""
    raw = zipped({"a": DATA}) if suffix == ".zip" else PACKERS[suffix](DATA)
    assert Archive(io.BytesIO(raw), suffix).stated_size(0) == len(DATA)
    if suffix != ".zip":
        grown = raw + PACKERS[suffix](b"more")
        assert Archive(io.BytesIO(grown), suffix).stated_size(0) != len(DATA)
