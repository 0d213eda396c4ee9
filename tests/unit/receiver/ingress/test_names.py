"""Paths of the view: what the grammar takes has one spelling and one meaning; all else is refused."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from receiver.ingress.names import Kind, Spot, locate
from tape.errors import NameRefused
from tape.inventory import ROOT, Level, Page
from tape.names import BundleName, SegmentName, check_stream

SEGMENT = SegmentName("00c0ffee00c0ffee", 7, "0" * 32)
BUNDLE = BundleName("00c0ffee00c0ffee", "f" * 32)
EPOCH = "00c0ffee00c0ffee"


def page(wanted: Page) -> Spot:
    """The spot of a page of the inventory."""
    return Spot(Kind.INVENTORY, str(wanted), wanted.stream, page=wanted)


@pytest.mark.parametrize(
    ("path", "spot"),
    [
        ("", Spot(Kind.FOLDER, "/")),
        (".", Spot(Kind.FOLDER, "/")),
        ("/", Spot(Kind.FOLDER, "/")),
        ("/a/b", Spot(Kind.FOLDER, "/a/b")),
        ("a/b/", Spot(Kind.FOLDER, "/a/b")),
        (f"/a/b/{SEGMENT}", Spot(Kind.FINAL, f"/a/b/{SEGMENT}", "a/b", SEGMENT)),
        (f"a/b/{SEGMENT}.part", Spot(Kind.PART, f"/a/b/{SEGMENT}.part", "a/b", SEGMENT)),
        ("/.bundles", Spot(Kind.FOLDER, "/.bundles")),
        ("/.bundles/", Spot(Kind.FOLDER, "/.bundles")),
        (f"/.bundles/{BUNDLE}", Spot(Kind.FINAL, f"/.bundles/{BUNDLE}", "", BUNDLE)),
        (f".bundles/{BUNDLE}.part", Spot(Kind.PART, f"/.bundles/{BUNDLE}.part", "", BUNDLE)),
        ("/.receipts", Spot(Kind.FOLDER, "/.receipts")),
        ("/.receipts/a/b", Spot(Kind.FOLDER, "/.receipts/a/b")),
        ("/.receipts/a/b.json", Spot(Kind.RECEIPT, "/.receipts/a/b.json", "a/b")),
        ("/.receipts/a/b.json.json", Spot(Kind.RECEIPT, "/.receipts/a/b.json.json", "a/b.json")),
        ("/.inventory", Spot(Kind.FOLDER, "/.inventory")),
        ("/.inventory/", Spot(Kind.FOLDER, "/.inventory")),
        ("/.inventory/root", page(ROOT)),
        (f".inventory/index-{EPOCH}", page(Page(Level.INDEX, EPOCH))),
        (f"/.inventory/a/b/{EPOCH}", page(Page(Level.SPANS, EPOCH, "a/b"))),
        (f"/.inventory/a/b/{EPOCH}/3", page(Page(Level.BLOCKS, EPOCH, "a/b", 3))),
        (f"/.inventory/a/b/{EPOCH}/b77", page(Page(Level.ENTRIES, EPOCH, "a/b", 77))),
    ],
)
def test_what_paths_mean(path: str, spot: Spot) -> None:
    """Folders, uploads, deliveries, receipts and pages of the inventory, absolute or from the root."""
    assert locate(path.encode()) == spot


@pytest.mark.parametrize(
    "path",
    [
        "..", "/..", "/a/../b", "/./a", "//a", "/a//b", "/A", "/a:b", "/con", "/a/con.x", "a\\b", "/a.", "/a\0",
        "/\u00e4",         f"/{SEGMENT}", f"/{SEGMENT}.part", f"/a/{SEGMENT}.part.part",
        f"/a/{str(SEGMENT).removesuffix('parquet')}part", f"/a/{str(SEGMENT).removesuffix('parquet')}part.part",
        f"/.bundles/{SEGMENT}", f"/a/.bundles/{BUNDLE}",
        f"/.bundles/a/{BUNDLE}", "/.bundles//", "/.receipts/A.json", "/.receipts/.json", "/.receipts//a.json", "/.x",
        "/.inventory/roots", "/.inventory/root" + "/", "/.inventory//root", "/.inventory/../root",
        f"/.inventory/{EPOCH}", f"/.inventory/a/{EPOCH}/", f"/.inventory/a/{EPOCH}/03", f"/.inventory/a/{EPOCH}/-1",
        f"/.inventory/a/{EPOCH}/b", f"/.inventory/a/{EPOCH}/b1/2", f"/.inventory/a/{EPOCH}/9999999999",
        f"/.inventory/A/{EPOCH}", f"/.inventory/a/{EPOCH.upper()}", f"/.inventory/con/{EPOCH}/b1",
        f"/.inventory/a/{EPOCH}/b1.part", f"/.inventory/index-{EPOCH[1:]}", f"/a/.inventory/{EPOCH}",
        f"/.inventory/../../a/{EPOCH}", f"/.inventory/a/../{EPOCH}", "/.inventory/a/b",
        "/a/x.part", "/" + "a" * 600, "/" + "/".join("abcdefghi"),
    ],
)  # fmt: skip
def test_what_does_not_exist(path: str) -> None:
    """Traversal, other spellings, device names, and places nothing is delivered to."""
    with pytest.raises(NameRefused):
        locate(path.encode())


PIECES = st.sampled_from(
    ["a", "b-1", "..", ".", "", "A", "con", ".bundles", ".receipts", ".inventory", "root", EPOCH, "b7", "7",
     str(SEGMENT), str(BUNDLE), ".part", ".json", "\0"]
)  # fmt: skip


@given(st.one_of(st.binary(max_size=80), st.lists(PIECES, max_size=6).map(lambda p: "/".join(p).encode()),
                 st.lists(PIECES, max_size=6).map(lambda p: "".join(p).encode())))  # fmt: skip
@example(b"/.bundles/..")
def test_what_is_taken_is_harmless_and_spelled_once(raw: bytes) -> None:
    """An accepted path is plain, has no way up, and its one spelling means the same again."""
    try:
        spot = locate(raw)
    except NameRefused:
        return
    assert locate(spot.path.encode("ascii")) == spot
    assert spot.path.startswith("/")
    assert not {"..", "."} & set(spot.path.split("/"))
    assert set(spot.path) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-/")
    if spot.stream:
        assert check_stream(spot.stream) == spot.stream
    assert (spot.name is not None) == (spot.kind in (Kind.PART, Kind.FINAL))
    assert (spot.page is not None) == (spot.kind is Kind.INVENTORY)
