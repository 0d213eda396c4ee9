"""The configuration file as the running service follows it: what changed in it, once it stands still.

Targets, disks and policy can be changed under way; anything else waits for the next start. A file that
can't be used is told once, with its reason, and what was read before stays in force.
"""

from dataclasses import dataclass
from pathlib import Path

from receiver.policy import check_policy
from receiver.settings import ReceiverSettings
from tape.errors import ConfigError
from tape.settings import parse

FOLLOWED = ("target", "disks", "policy")
HOME = "the home archive"


@dataclass(frozen=True, slots=True)
class Change:
    """What a changed file comes to. `settings`: to go on with; `followed`: the sections among FOLLOWED that differ.

    `restart`: what else differs from what runs, and waits for a restart.
    """

    settings: ReceiverSettings
    followed: tuple[str, ...]
    restart: tuple[str, ...]


def compare(running: ReceiverSettings, found: ReceiverSettings) -> Change:
    """What the newly read settings change. Another home archive can't be followed, nor what is beside it then."""
    differs = [name for name in ReceiverSettings.model_fields if getattr(running, name) != getattr(found, name)]
    followed = tuple(name for name in FOLLOWED if name in differs)
    restart = tuple(name for name in differs if name not in FOLLOWED)
    if (running.home.id, running.home.folder) != (found.home.id, found.home.folder):
        return Change(running, (), (*restart, HOME))
    settings = running.model_copy(update={name: getattr(found, name) for name in followed})
    return Change(settings, followed, restart)


class ConfigWatch:
    """Looks at one configuration file, again and again. `running`: what the service goes by; kept up by the caller."""

    def __init__(self, path: Path, running: ReceiverSettings) -> None:
        self.path = path
        self.running = running
        self._last: bytes | None = None
        self._judged: bytes | None = None

    def look(self) -> Change | None:
        """What a new content asks for; None if there is none, or it may still be on its way (it waits for one look).

        Raises ConfigError, once for each content that can't be used.
        """
        try:
            data = self.path.read_bytes()
        except OSError as error:
            data = f"{error}".encode()
            if self._settled(data):
                raise ConfigError(f"{self.path}: can't be read: {error}") from error
            return None
        if not self._settled(data):
            return None
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{self.path}: can't be read: {error}") from error
        found = parse(ReceiverSettings, text, self.path)
        check_policy(found)
        return compare(self.running, found)

    def _settled(self, data: bytes) -> bool:
        """Whether this content is new, and was the same at the look before: an editor may be writing it right now."""
        still = data == self._last
        self._last = data
        if not still or data == self._judged:
            return False
        self._judged = data
        return True
