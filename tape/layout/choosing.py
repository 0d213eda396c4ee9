"""The layout for what follows: from a sample, the stream's layout so far, or both."""

from dataclasses import replace

from tape.layout import infer
from tape.layout.model import LINES, Format, Layout, Shape
from tape.layout.parsing import settled


def detect(sample: bytes, said: Format, *, at_start: bool, prior: Layout | None) -> Layout:
    """The layout for data that begins with `sample` (whole lines, up to about 1 MiB).

    `said`: what the source is configured to hold. `at_start`: the sample is the start of a file, so its
    first line may be a header. `prior`: the stream's layout so far, whose names and forms are kept where
    the data allows, so that a stream keeps its schema.
    """
    if prior is not None and not _is(prior, said):
        prior = None
    fresh = None
    if at_start or prior is None or prior.shape is Shape.LINES:
        fresh = infer.guessed(sample, said, at_start=at_start)
    layout = _carried(fresh, prior)
    body = sample[: infer.SAMPLE_BYTES]
    if any(column.header is not None for column in layout.columns) and at_start:
        body = body[body.find(b"\n") + 1 :]
    return settled(replace(layout, strays=False), body)


def _carried(fresh: Layout | None, prior: Layout | None) -> Layout:
    """The prior layout where it still describes the data."""
    if fresh is None or prior is None:
        return fresh or prior or LINES
    if (fresh.shape, fresh.delimiter, fresh.eol) != (prior.shape, prior.delimiter, prior.eol):
        return fresh
    if fresh.shape is not Shape.DELIMITED or len(fresh.columns) != len(prior.columns):
        return fresh
    headed = any(column.header is not None for column in fresh.columns)
    if headed and [c.header for c in fresh.columns] != [c.header for c in prior.columns]:
        return fresh
    return prior


def _is(layout: Layout, said: Format) -> bool:
    if said is Format.AUTO:
        return True
    if said is Format.LINES:
        return layout.shape is Shape.LINES
    if said is Format.FRAMES:
        return layout.shape is Shape.FRAMES
    return layout.shape is Shape.DELIMITED and (layout.delimiter == "\t") == (said is Format.TSV)
