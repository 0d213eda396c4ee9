"""What commands ask of the running service about its targets: let a disk go, forget one that is configured no more."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from receiver.catalog import Catalog
from receiver.checking import cataloguing
from receiver.requests import LATER, Act
from receiver.targets.contract import Target
from receiver.targets.removable import RemovableTarget
from receiver.targets.wrapping import Wrapper
from tape.errors import NotFound, UsageError

EJECT, RETIRE = "eject", "retire"


def removable(target: Target) -> RemovableTarget | None:
    """The removable disk inside its wrappers, if it is one."""
    while isinstance(target, Wrapper):
        target = target.inner
    return target if isinstance(target, RemovableTarget) else None


def eject(targets: Sequence[Target], name: str) -> dict[str, Any]:
    """Let a disk go; what became of it. Raises NotFound, UsageError, and what the target raises."""
    disk = removable(find(targets, name))
    if disk is None:
        raise UsageError(f"target {name} is no removable disk", hint="`tape-receiver disk list` shows those that are")
    done = disk.eject()
    return {**asdict(done), "where": str(done.where)}


def find(targets: Sequence[Target], name: str) -> Target:
    """The target of that id; raises NotFound."""
    found = next((target for target in targets if target.id == name), None)
    if found is None:
        known = ", ".join(target.id for target in targets)
        raise NotFound(f"there is no target {name}", hint=f"targets are {known}")
    return found


def acting(catalog: Catalog, targets: Sequence[Target]) -> Act:
    """What the service does about a request."""

    def act(kind: str, about: Mapping[str, Any]) -> Mapping[str, Any] | None:
        name = str(about["target"])
        if kind == EJECT:
            return eject(targets, name)
        if kind == RETIRE:
            if any(target.id == name for target in targets):
                return LATER  # the changed configuration was not read yet
            with cataloguing():
                return {"copies": catalog.retire_target(name)}
        raise UsageError(f"this service knows no request {kind!r}", hint="restart it: it is older than the command")

    return act
