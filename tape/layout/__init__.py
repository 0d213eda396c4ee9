"""Layouts: how the rows of a segment map to the bytes of their source, proven chunk by chunk.

`detect` looks at a sample; `parse` turns a chunk of bytes into columns that render back to the very
same bytes, with `raw` rows where a line fits nothing; `render` is the way back. Floor: tape, pure
but for the numpy and Arrow calls. Files are not touched here: that is `tape.segment`.
"""

from tape.layout.choosing import detect
from tape.layout.encoding import EncodingPlan
from tape.layout.model import LINES, PAYLOAD, RAW, RECEIVED, Column, Format, Layout, Shape
from tape.layout.parsing import Misfit, Parsed, Tally, parse
from tape.layout.rendering import render

__all__ = [
    "LINES",
    "PAYLOAD",
    "RAW",
    "RECEIVED",
    "Column",
    "EncodingPlan",
    "Format",
    "Layout",
    "Misfit",
    "Parsed",
    "Shape",
    "Tally",
    "detect",
    "parse",
    "render",
]
