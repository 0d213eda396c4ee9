"""Numbers as people say them, the same words on both sides."""


def duration(seconds: float) -> str:
    """An age as people say it: `42 s`, `3 min`, `5.2 h`, `12 d`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} d"


def size(count: int) -> str:
    """Bytes as people say them: `512 B`, `3.4 MB`, `1.2 TB`."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def plural(count: int, noun: str) -> str:
    """A count with its noun: `1 segment`, `12,345 segments`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
