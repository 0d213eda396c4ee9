"""Progress on standard error: a bar with rate and time left on a terminal, nothing elsewhere."""

import contextlib
from collections.abc import Callable, Iterator

from tape.console import err

Told = Callable[[int, int | None], None]


@contextlib.contextmanager
def counting(what: str, *, unit: str, quiet: bool = False) -> Iterator[Told]:
    """Gives a function that takes (done, total or None if unknown), in bytes where `unit` is B."""
    if quiet or not err.is_terminal:
        yield lambda _done, _total: None
        return
    from rich import progress as bars

    count = bars.DownloadColumn() if unit == "B" else bars.MofNCompleteColumn()
    rate = [bars.TransferSpeedColumn()] if unit == "B" else []
    columns = (bars.TextColumn("{task.description}"), bars.BarColumn(), count, *rate, bars.TimeRemainingColumn())
    with bars.Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
