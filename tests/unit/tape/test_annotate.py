"""Values given as KEY=VALUE on the command line become TOML: numbers, truth and lists as they are, the rest as text."""

import pytest

from receiver.settings import ReceiverSettings
from tape.annotate import chosen
from tape.errors import UsageError


def test_values_are_taken_as_toml_has_them() -> None:
    """A list stays a list, a number a number; a path or a size is quoted."""
    given = ["listen.port=22", 'disks.look_in=["/mnt/*"]', "listen.uvloop=false", "listen.window=64 MiB"]
    assert chosen(ReceiverSettings, given) == {
        "listen.port": "22",
        "disks.look_in": '["/mnt/*"]',
        "listen.uvloop": "false",
        "listen.window": '"64 MiB"',
    }


@pytest.mark.parametrize("text", ["listen.prot=22", "listen.port", "target.id=x"])
def test_keys_that_do_not_exist_are_refused(text: str) -> None:
    """A typing error is told, never written into the file."""
    with pytest.raises(UsageError, match="known key"):
        chosen(ReceiverSettings, [text])
