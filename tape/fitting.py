"""Tables that fit the terminal: the widest of several forms that has room."""

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement

_ANY = 100_000


class Fitting:
    """Forms of one content, the widest first: shown is the first that needs no more than the width there is."""

    def __init__(self, *forms: RenderableType) -> None:
        self._forms = forms

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The form that fits; the last one where none does."""
        roomy = options.update(max_width=_ANY)
        for form in self._forms[:-1]:
            if Measurement.get(console, roomy, form).maximum <= options.max_width:
                yield form
                return
        yield self._forms[-1]
