r"""What a file's name says: its stream, its archive kind, and whether two names belong together.

The stream of a file is the setting `stream` of its source with these parts put in:

    {name}     the file's name, compression suffix and all          btcusdt-2026-11-21.csv.1.gz
    {stem}     the name without compression suffix and extension    btcusdt-2026-11-21.csv
    {base}     the stem without dates, rotation numbers, extension  btcusdt
    {parent}   the name of the folder it lies in                    binance

Dates are `2026-11-21`, `20261121`, `2026_11_21` or `2026.11.21`, with or without an hour, minutes and
seconds behind (`20261121_13`, `2026-11-21T13-05`); rotation numbers are `.1` to `.9999`. What comes out
goes through `tape.names.stream_from`: lower case, anything odd becomes `-`. A member of an archive
with several members has the member's own name, and the archive's stem as its parent. Files that
come out the same share one stream. Where nothing usable is left, the stream is the source's name.
"""

import re
from pathlib import PurePath

from tape.errors import NameRefused
from tape.names import stream_from

ARCHIVES = (".gz", ".zst", ".zip")
MEMBER = "!"
_DATE = re.compile(
    r"(?<![0-9])(?:19|20)[0-9]{2}([-_.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12][0-9]|3[01])"
    r"(?:[-_T. ]?(?:[01][0-9]|2[0-3])(?:[-_:.]?[0-5][0-9]){0,2}Z?)?(?![0-9])"
)
_ROTATION = re.compile(r"(?<=.)\.[0-9]{1,4}\Z")
_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,7}\Z")


def archive_suffix(path: str) -> str:
    """`.gz`, `.zst` or `.zip` if the name ends so in any case, else nothing."""
    lower = path[-4:].lower()
    return next((suffix for suffix in ARCHIVES if lower.endswith(suffix)), "")


def _unpacked(name: str) -> str:
    suffix = archive_suffix(name)
    return name[: -len(suffix)] if suffix and len(name) > len(suffix) else name


def dates_in(name: str) -> frozenset[str]:
    """The dates a name holds, digits only, hours and minutes included."""
    return frozenset(re.sub("[^0-9]", "", found[0]) for found in _DATE.finditer(name))


def base_of(name: str) -> str:
    """A name without compression suffix, dates, rotation numbers and extension; may be empty."""
    text = _unpacked(name)
    for shorten in (_without_numbers, lambda t: _EXTENSION.sub("", t), _without_numbers):
        text = shorten(text)
    return text.strip("-_. ")


def _without_numbers(text: str) -> str:
    before = None
    while before != text:
        before = text
        text = _ROTATION.sub("", text)
        found = _DATE.search(text)
        if found:
            left, right = text[: found.start()].rstrip("-_. "), text[found.end() :]
            bare = right.lstrip("-_. ")
            text = f"{left}{right[: len(right) - len(bare)][:1] or '-'}{bare}" if left and bare else left + right
    return text


def kin(later: str, earlier: str) -> bool:
    """Whether a path looks like the other file's later name: `x.csv` -> `x.csv.1`, `x-20261121.csv.gz`.

    Same base, and no date of the earlier name was exchanged for another one: `x-20261122.csv` is the
    next day's file, not what became of `x-20261121.csv`. Nor does a rotation number ever vanish.
    """
    new, old = PurePath(later).name, PurePath(earlier).name
    if base_of(new) != base_of(old):
        return False
    numbered = bool(_ROTATION.search(_unpacked(old))) and not _ROTATION.search(_unpacked(new))
    return dates_in(old) <= dates_in(new) and not numbered


def stream_of(template: str, path: str, fallback: str) -> str:
    """The stream of a file (see the module); `fallback` where the grammar leaves nothing of it."""
    outer, mark, member = path.rpartition(MEMBER)
    packed = bool(mark) and bool(archive_suffix(outer))
    here = PurePath(member.replace("\\", "/")) if packed else PurePath(path)
    parent = _stem(PurePath(outer).name) if packed else here.parent.name
    text = template.format(name=here.name, stem=_stem(here.name), parent=parent, base=base_of(here.name))
    try:
        return stream_from(text)
    except NameRefused:
        return fallback


def _stem(name: str) -> str:
    return PurePath(_unpacked(name)).stem
