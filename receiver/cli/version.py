"""`tape-receiver version`."""

from receiver.cli.options import JsonOption
from tape.console import out, print_json
from tape.versions import facts

HELP = "Print the versions that matter for a report."


def version(json: JsonOption = False) -> None:
    """Print versions."""
    if json:
        print_json(facts())
    else:
        for key, value in facts().items():
            out.print(f"{key} {value}")
