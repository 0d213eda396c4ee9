r"""What a source file's name says: compression, dates, rotation, and whether two names belong to one file.

Dates are `2026-11-21`, `20261121`, `2026_11_21` or `2026.11.21`, with or without an hour, minutes and
seconds behind (`20261121_13`, `2026-11-21T13-05`); rotation numbers are `.1` to `.9999`. The agent tells by
it which file it knows already, home which readings of two outboxes are one file.
"""

import re

ARCHIVES = (".gz", ".zst", ".zip", ".bz2", ".xz")
_DATE = re.compile(
    r"(?<![0-9])(?:19|20)[0-9]{2}([-_.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12][0-9]|3[01])"
    r"(?:[-_T. ]?(?:[01][0-9]|2[0-3])(?:[-_:.]?[0-5][0-9]){0,2}Z?)?(?![0-9])"
)
_ROTATION = re.compile(r"(?<=.)\.[0-9]{1,4}\Z")
_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,7}\Z")


def archive_suffix(path: str) -> str:
    """The one of ARCHIVES that the name ends in, in any case, else nothing."""
    lower = path[-4:].lower()
    return next((suffix for suffix in ARCHIVES if lower.endswith(suffix)), "")


def unpacked(name: str) -> str:
    """A name without its compression suffix."""
    suffix = archive_suffix(name)
    return name[: -len(suffix)] if suffix and len(name) > len(suffix) else name


def dates_in(name: str) -> frozenset[str]:
    """The dates a name holds, digits only, hours and minutes included."""
    return frozenset(re.sub("[^0-9]", "", found[0]) for found in _DATE.finditer(name))


def base_of(name: str) -> str:
    """A name without compression suffix, dates, rotation numbers and extension; may be empty."""
    text = unpacked(name)
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
    new, old = (re.split(r"[/\\]", path)[-1] for path in (later, earlier))
    if base_of(new) != base_of(old):
        return False
    numbered = bool(_ROTATION.search(unpacked(old))) and not _ROTATION.search(unpacked(new))
    return dates_in(old) <= dates_in(new) and not numbered
