r"""The stream of a file, from its name.

The stream of a file is the setting `stream` of its source with these parts put in:

    {name}     the file's name, compression suffix and all          btcusdt-2026-11-21.csv.1.gz
    {stem}     the name without compression suffix and extension    btcusdt-2026-11-21.csv
    {base}     the stem without dates, rotation numbers, extension  btcusdt
    {parent}   the name of the folder it lies in                    binance

Dates, rotation numbers and compression suffixes are those of `tape.filenames`. What comes out goes through
`tape.names.stream_from`: lower case, anything odd becomes `-`. A member of an archive with several members
has the member's own name, and the archive's stem as its parent. Files that come out the same share one
stream. Where nothing usable is left, the stream is the source's name.
"""

from pathlib import PurePath

from tape.errors import NameRefused
from tape.filenames import archive_suffix, base_of, unpacked
from tape.names import stream_from

MEMBER = "!"


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
    return PurePath(unpacked(name)).stem
