"""What a progress bar showed, as a terminal got it."""

import re

GONE = "\x1b[1A\x1b[2K"  # the line above, wiped


def last_frame(shown: str) -> str:
    """The bar as it stood at the end, before it was wiped off; AssertionError if it was not."""
    assert shown.endswith(GONE), shown
    frames = shown.removesuffix(GONE)
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", frames).strip().rpartition("\r")[2]
