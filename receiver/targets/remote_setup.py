"""Making a place at a remote ready, once, on a person's word: marker and README.txt."""

from pathlib import Path

from receiver.settings import TargetSettings
from receiver.targets.contract import MARKER, README
from receiver.targets.marker import STRANGER, marker_text
from receiver.targets.remote_store import RemoteStore
from tape.clock import SYSTEM, Clock
from tape.durable import named
from tape.errors import DiskError, NotFound, TargetAbsent, TargetError

_NO_MARKER = "has no"


def prepare_remote(entry: TargetSettings, state: Path, *, clock: Clock = SYSTEM) -> bool:
    """Put marker and README.txt at the root of a remote; whether the marker is new. What lies there stays.

    Raises TargetError if the place is marked as another target, TargetAbsent and its like.
    """
    store = RemoteStore(entry, state, clock=clock)
    found = _marked(store)
    if found is not None and found != entry.id:
        raise TargetError(
            f"{entry.remote} is marked as target {found!r} already, not {entry.id!r}",
            hint="give this target another folder there, or the id that the place carries",
        )
    files = {README: STRANGER.encode()}
    if found is None:
        files = {**files, MARKER: marker_text(entry.id, clock)}
    with store.stage.fresh() as folder:
        for name, data in files.items():
            with named(folder / name, "writing"):
                (folder / name).write_bytes(data)
        sent = store.send(folder, list(files))
    fault = sent.fault or next(iter(sent.errors.values()), None)
    if fault is not None:
        raise fault
    if _marked(store) != entry.id:
        raise TargetError(f"{entry.remote} does not give back the marker that was just stored there")
    return found is None


def _marked(store: RemoteStore) -> str | None:
    """The id in the marker; None where there is no marker. Raises TargetAbsent and its like."""
    try:
        return str(store.marker()["id"])
    except TargetAbsent as error:
        if _NO_MARKER in str(error) and MARKER in str(error):
            return None
        raise
    except (DiskError, NotFound) as error:
        raise TargetError(str(error), hint=error.hint) from error
