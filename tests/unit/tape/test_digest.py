"""Digests and the chain, against independent computations."""

import hashlib
from pathlib import Path

from tape.digest import BothDigests, digest_of, digests_of, genesis, link, xxh3

A = ("server1", "a/b", "0" * 16)


def test_known_values() -> None:
    """XXH3-128 of nothing is the published constant; SHA-256 agrees with hashlib."""
    assert xxh3(b"") == "99aa06d3014798d86001c324468d497f"
    both = BothDigests()
    both.update(b"tick")
    both.update(memoryview(b"tock"))
    assert (both.digest, both.sha256, both.size) == (xxh3(b"ticktock"), hashlib.sha256(b"ticktock").hexdigest(), 8)


def test_file_digests_over_several_blocks(tmp_path: Path) -> None:
    """A file larger than a read block has the digest of its whole content."""
    data = bytes(range(256)) * 12_345
    path = tmp_path / "x"
    path.write_bytes(data)
    assert digest_of(path) == xxh3(data)
    assert digests_of(path).sha256 == hashlib.sha256(data).hexdigest()


def test_chain_depends_on_everything() -> None:
    """Each part of a segment's identity, its bytes and its past changes the chain value."""
    sha = hashlib.sha256(b"x").hexdigest()
    start = genesis(*A)
    values = {
        link(start, *A, 0, sha),
        link(start, *A, 1, sha),
        link(start, "server2", *A[1:], 0, sha),
        link(start, A[0], "a/c", A[2], 0, sha),
        link(start, *A[:2], "1" * 16, 0, sha),
        link(start, *A, 0, hashlib.sha256(b"y").hexdigest()),
        link(genesis("server2", *A[1:]), *A, 0, sha),
    }
    assert len(values) == 7


def test_chain_is_what_the_design_says() -> None:
    """A stranger can recompute the chain from docs/design.md alone."""
    sha = hashlib.sha256(b"x").digest()
    start = hashlib.sha256(b"hometape chain 1\0server1\0a/b\0" + b"0" * 16).digest()
    assert genesis(*A) == start.hex()
    wanted = hashlib.sha256(start + b"server1\0a/b\0" + b"0" * 16 + b"\x007" + sha).hexdigest()
    assert link(start.hex(), *A, 7, sha.hex()) == wanted
