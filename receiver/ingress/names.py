"""What a path of the agent's view means. One grammar; whatever does not fit it does not exist."""

from dataclasses import dataclass
from enum import Enum

from tape.errors import NameRefused
from tape.inventory import FOLDER as INVENTORY
from tape.inventory import Page
from tape.names import BundleName, SegmentName, check_stream

BUNDLES = ".bundles"
RECEIPTS = ".receipts"
PART = ".part"
_JSON = ".json"
MAX_PATH = 512


class Kind(Enum):
    """What lies at a spot of the view."""

    FOLDER = "folder"  # virtual: any valid prefix of a stream
    PART = "part"  # an upload under way
    FINAL = "final"  # the name an upload is delivered under
    RECEIPT = "receipt"
    INVENTORY = "inventory"


@dataclass(frozen=True, slots=True)
class Spot:
    """A path that the grammar allows. `path` is its one spelling, from `/`; `stream` is "" for bundles and folders.

    `page`: which one, where it is one of the inventory.
    """

    kind: Kind
    path: str
    stream: str = ""
    name: SegmentName | BundleName | None = None
    page: Page | None = None


def locate(raw: bytes) -> Spot:
    """What a path means, given as bytes from the wire; relative ones start at `/`. Raises NameRefused."""
    if len(raw) > MAX_PATH:
        raise NameRefused("the path is too long")
    try:
        text = raw.decode("ascii")
    except UnicodeDecodeError:
        raise NameRefused("the path is not plain ASCII") from None
    if text in ("", ".", "/", "/."):
        return Spot(Kind.FOLDER, "/")
    bare = text.removeprefix("/")
    parts = bare.split("/")
    if parts[0] == BUNDLES:
        return _bundle(parts)
    if parts[0] == RECEIPTS:
        return _receipt(parts)
    if parts[0] == INVENTORY:
        return _inventory(bare, parts)
    return _segment(bare, parts)


def _bundle(parts: list[str]) -> Spot:
    if parts[1:] in ([], [""]):
        return Spot(Kind.FOLDER, f"/{BUNDLES}")
    if len(parts) != 2:
        raise NameRefused(f"/{BUNDLES} has no folders")
    kind, name = _kind(parts[1])
    return Spot(kind, f"/{BUNDLES}/{parts[1]}", name=BundleName.parse(name))


def _receipt(parts: list[str]) -> Spot:
    rest = "/".join(parts[1:])
    if not rest:
        return Spot(Kind.FOLDER, f"/{RECEIPTS}")
    if rest.endswith(_JSON):
        stream = check_stream(rest.removesuffix(_JSON))
        return Spot(Kind.RECEIPT, f"/{RECEIPTS}/{rest}", stream=stream)
    return Spot(Kind.FOLDER, f"/{RECEIPTS}/{check_stream(rest.removesuffix('/'))}")


def _inventory(bare: str, parts: list[str]) -> Spot:
    """A page; every page's name looks like a stream's too, so a folder of them can't be told apart from none."""
    if parts[1:] in ([], [""]):
        return Spot(Kind.FOLDER, f"/{INVENTORY}")
    page = Page.parse(f"/{bare}")
    return Spot(Kind.INVENTORY, f"/{bare}", stream=page.stream, page=page)


def _segment(bare: str, parts: list[str]) -> Spot:
    kind, name = _kind(parts[-1])
    try:
        segment = SegmentName.parse(name)
    except NameRefused:
        if kind is Kind.PART:
            raise
        return Spot(Kind.FOLDER, "/" + check_stream(bare.removesuffix("/")))
    if segment.suffix == "part":
        raise NameRefused("a segment is not called .part")
    stream = check_stream("/".join(parts[:-1]))
    return Spot(kind, f"/{bare}", stream=stream, name=segment)


def _kind(last: str) -> tuple[Kind, str]:
    if last.endswith(PART):
        return Kind.PART, last.removesuffix(PART)
    return Kind.FINAL, last
