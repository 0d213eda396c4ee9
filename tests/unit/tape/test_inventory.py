"""The inventory: whatever two sides hold, the walk finds exactly what differs, and damaged pages are refused."""

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tape.errors import InventoryError, NameRefused
from tape.inventory import ROOT, Comparison, Difference, Kind, Level, Page, answer, combined, entry_hash, node_of
from tape.inventory_pages import LAST_SEQ, decode_entries, decode_index, decode_parts, decode_root
from tests.support.inventories import Held, PlainTree, compared

ONE, TWO = "00000000000000aa", "00000000000000bb"
# Numbers around every border of the tree, the last that names allow included.
SEQS = st.one_of(
    st.integers(0, 600),
    st.sampled_from([65_279, 65_280, 65_535, 65_536, 131_071, 131_072, 10**9, LAST_SEQ - 1, LAST_SEQ]),
)
KEYS = st.tuples(st.sampled_from(["a", "a/b", "index"]), st.sampled_from([ONE, TWO]), SEQS)
SIDES = st.dictionaries(KEYS, st.sampled_from([b"\0" * 16, b"\1" * 16]), max_size=40)


@given(SIDES, SIDES, st.sampled_from([[ONE], [ONE, TWO]]), st.sampled_from([1, 3, 256]))
def test_exactly_what_differs_is_found(own: Held, there: Held, epochs: list[str], most: int) -> None:
    """Two sides that hold anything: each segment missing, foreign or different is named once, nothing else."""
    found, _, _ = compared(PlainTree(own), PlainTree(there), epochs, most=most)
    wanted = {
        (*key, own.get(key, b""), there.get(key, b""))
        for key in own.keys() | there.keys()
        if own.get(key) != there.get(key) and key[1] in epochs
    }
    assert len(found) == len(wanted)
    assert {(d.stream, d.epoch, d.seq, d.own, d.there) for d in found} == wanted
    for difference in found:
        held = (bool(difference.own), bool(difference.there))
        kinds = {(True, False): Kind.MISSING, (False, True): Kind.FOREIGN, (True, True): Kind.DIFFERENT}
        assert difference.kind is kinds[held]


@given(SIDES, SIDES)
def test_equal_sides_cost_one_small_page(held: Held, older: Held) -> None:
    """Of two sides that hold the same of an epoch only the root is read, whatever else the other one holds."""
    own = {key: digest for key, digest in held.items() if key[1] == ONE}
    there = own | {key: digest for key, digest in older.items() if key[1] == TWO}
    found, pages, size = compared(PlainTree(own), PlainTree(there), [ONE])
    assert (found, pages) == ([], 1)
    assert size < 100


def test_epochs_not_asked_for_are_named_only() -> None:
    """What the other side holds of older outboxes is no difference."""
    walk = Comparison(PlainTree({("a", ONE, 0): b"\0" * 16}), [ONE])
    assert walk.wanted() == [ROOT]
    other = PlainTree({("a", ONE, 0): b"\0" * 16, ("a", TWO, 5): b"\0" * 16})
    assert list(walk.take({ROOT: answer(other, ROOT)})) == []
    assert walk.others == (TWO,)
    assert walk.wanted() == []


def test_of_an_epoch_known_in_part_only_that_part_is_asked_for() -> None:
    """Blocks, spans and streams of which the own side knows nothing are not looked into; what it knows is."""
    own: Held = {("a", ONE, seq): b"\0" * 16 for seq in (3, 70_000)}
    there: Held = {(stream, ONE, seq): b"\0" * 16 for stream in ("a", "b") for seq in range(0, 140_000, 100)}
    walk = Comparison(PlainTree(own), [ONE], partly=[ONE])
    fetched = []
    found: list[Difference] = []
    while pages := walk.wanted():
        fetched += pages
        found += walk.take({page: answer(PlainTree(there), page) for page in pages})
    assert {page.number for page in fetched if page.level is Level.ENTRIES} == {0, 70_000 >> 8}
    assert {page.number for page in fetched if page.level is Level.BLOCKS} == {0, 1}
    assert {one.seq for one in found if one.kind is Kind.MISSING} == {3}


def test_few_differences_cost_little_beside_many_segments() -> None:
    """100 of 200,000 missing at random: the pages read are those of the few blocks they lie in."""
    draw = random.Random(1)
    own = {("a", ONE, seq): draw.randbytes(16) for seq in range(200_000)}
    gone = draw.sample(sorted(own), 100)
    there = {key: digest for key, digest in own.items() if key not in set(gone)}
    found, pages, size = compared(PlainTree(own), PlainTree(there), [ONE])
    assert sorted((d.stream, d.epoch, d.seq) for d in found) == sorted(gone)
    assert pages <= 3 + 4 + 100
    assert size < 500_000


def test_a_page_that_vanished_is_an_empty_one() -> None:
    """Where the other side has nothing any more when it is asked, all that is held here below is missing there."""
    own = PlainTree({("a", ONE, seq): b"\0" * 16 for seq in range(3)})
    there = PlainTree({("a", ONE, 0): b"\1" * 16})
    for level in (Level.INDEX, Level.SPANS, Level.BLOCKS, Level.ENTRIES):
        walk = Comparison(own, [ONE])
        found: list[Difference] = []
        while pages := walk.wanted():
            found += walk.take({page: answer(there, page) if page.level < level else None for page in pages})
        assert [(d.seq, d.there) for d in found] == [(0, b""), (1, b""), (2, b"")]


def test_a_side_without_inventory_is_told() -> None:
    """No root is not an empty archive: nothing is called missing because of it."""
    walk = Comparison(PlainTree({("a", ONE, 0): b"\0" * 16}), [ONE])
    with pytest.raises(InventoryError, match="serves no inventory"):
        walk.take({ROOT: None})


@given(st.lists(st.tuples(st.integers(0, LAST_SEQ), st.binary(min_size=16, max_size=16)), max_size=8))
def test_nodes_are_kept_by_adding_and_taking_away(entries: list[tuple[int, bytes]]) -> None:
    """A node is the XOR of its parts in any order; adding an entry twice takes it away again."""
    whole = node_of(entries)
    assert whole == combined(node_of([entry]) for entry in reversed(entries))
    assert whole.xor ^ entry_hash(7, b"x" * 16) ^ entry_hash(7, b"x" * 16) == whole.xor
    assert entry_hash(0, b"\0" * 16) not in (0, entry_hash(1, b"\0" * 16), entry_hash(0, b"\1" * 16))


PAGES = [
    ROOT,
    Page(Level.INDEX, ONE),
    Page(Level.SPANS, ONE, "index"),
    Page(Level.SPANS, ONE, f"a/{TWO}"),
    Page(Level.BLOCKS, ONE, "a/b", 0),
    Page(Level.BLOCKS, ONE, "a", LAST_SEQ >> 16),
    Page(Level.ENTRIES, ONE, "a/b", LAST_SEQ >> 8),
]


def test_a_page_has_one_path() -> None:
    """A path reads back as its page, and no two pages share one."""
    assert [Page.parse(str(page)) for page in PAGES] == PAGES
    assert len({str(page) for page in PAGES}) == len(PAGES)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/.inventory",
        "/.inventory/",
        ".inventory/root",
        "/.inventory/Root",
        "/.inventory/root" + "/",
        "/.inventory/index",
        f"/.inventory/{ONE}",
        f"/.inventory/index-{ONE}/",
        f"/.inventory/index-{ONE.upper()}",
        f"/.inventory/a/../{ONE}",
        f"/.inventory/a//{ONE}",
        f"/.inventory/A/{ONE}",
        f"/.inventory/a/{ONE}/",
        f"/.inventory/a/{ONE}/b",
        f"/.inventory/a/{ONE}/00",
        f"/.inventory/a/{ONE}/-1",
        f"/.inventory/a/{ONE}/b01",
        f"/.inventory/a/{ONE}/bb1",
        f"/.inventory/a/{ONE}/\u0661",
        f"/.inventory/a/{ONE}/{(LAST_SEQ >> 16) + 1}",
        f"/.inventory/a/{ONE}/b{(LAST_SEQ >> 8) + 1}",
        f"/.inventory/{ONE}/5",
    ],
)
def test_other_paths_are_no_pages(path: str) -> None:
    """Whatever is not the one spelling of a page is refused."""
    with pytest.raises(NameRefused):
        Page.parse(path)


def _read(page: Page, data: bytes) -> object:
    if page.level is Level.ROOT:
        return decode_root(data)
    if page.level is Level.INDEX:
        return decode_index(data)
    if page.level is Level.ENTRIES:
        return decode_entries(page.number, data)
    return decode_parts(page, data)


TREE = PlainTree({("a/b", ONE, seq): bytes([seq % 251]) * 16 for seq in (0, 1, 2, 255, 256, 70_000)})
SERVED = [
    ROOT,
    Page(Level.INDEX, ONE),
    Page(Level.SPANS, ONE, "a/b"),
    Page(Level.BLOCKS, ONE, "a/b", 0),
    Page(Level.ENTRIES, ONE, "a/b", 0),
]


@pytest.mark.parametrize("page", SERVED, ids=str)
def test_a_damaged_page_is_refused_or_read_as_something_valid(page: Page) -> None:
    """Cut, lengthened or with any byte changed, a page never raises anything but an InventoryError."""
    data = answer(TREE, page)
    assert data is not None
    assert _read(page, data)
    for length in range(len(data)):
        with pytest.raises(InventoryError):
            _read(page, data[:length])
    with pytest.raises(InventoryError):
        _read(page, data + b"\0")
    for place in range(len(data)):
        for flip in (1, 0x80):
            try:
                _read(page, data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :])
            except InventoryError:
                continue
            assert place >= 10, "a changed head was not noticed"


def test_pages_out_of_bounds_are_refused() -> None:
    """Numbers of another block, in the wrong order, or counts that can't be are refused."""
    blocks = Page(Level.BLOCKS, ONE, "a", 1)

    def page(*parts: tuple[int, int]) -> bytes:
        body = b"".join(struct.pack(">II16s", *part, b"") for part in parts)
        return struct.pack(">4sBBI", b"tinv", 1, Level.BLOCKS, len(parts)) + body

    assert list(decode_parts(blocks, page((256, 1), (511, 256)))) == [256, 511]
    for parts in (((255, 1),), ((512, 1),), ((300, 1), (299, 1)), ((300, 1), (300, 1)), ((300, 0),), ((300, 257),)):
        with pytest.raises(InventoryError):
            decode_parts(blocks, page(*parts))
    with pytest.raises(InventoryError, match="version 2"):
        decode_parts(blocks, page()[:4] + b"\2" + page()[5:])


def test_numbers_too_sparse_for_a_page_are_refused_there() -> None:
    """A page that would grow beyond its bound is an error on the side that would serve it."""
    sparse = PlainTree({("a", ONE, n << 16): b"\0" * 16 for n in range(180_000)})
    with pytest.raises(InventoryError, match="too sparse"):
        answer(sparse, Page(Level.SPANS, ONE, "a"))
