"""`tape-receiver disk init`: make a disk ready to hold a copy, and have the service take it up."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from receiver.cli.options import NAME, ConfigOption
from receiver.settings import ReceiverSettings
from tape.clock import SYSTEM
from tape.console import default_config, err, out
from tape.errors import AlreadyThere, ConfigError, HometapeError, NameRefused, TargetAbsent, TargetError, UsageError
from tape.log import configure
from tape.settings import load, show_size

if TYPE_CHECKING:
    from receiver.targets.mounts import Mount

HELP = "Prepare a disk that comes and goes. Marker and README on it, an entry in receiver.toml; deletes nothing."


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for. `place`: where the disk is mounted; `folder`: its root below that."""

    target: str
    place: Path
    folder: str
    folder_ok: bool

    @property
    def root(self) -> Path:
        """The root of the target."""
        return self.place / self.folder


def init(
    target: Annotated[str, typer.Argument(metavar="ID", help="a name for this disk, never used for another")],
    mount: Annotated[Path, typer.Argument(metavar="MOUNT", help="where it is mounted, or its drive letter")],
    config: ConfigOption = None,
    path: Annotated[str, typer.Option(help="folder on the disk that becomes its root")] = "hometape",
    medium: Annotated[str, typer.Option(help="what it is: disks with the same word share a fate")] = "usb",
    site: Annotated[str, typer.Option(help="where it is kept")] = "home",
    max_age: Annotated[str, typer.Option(help="overdue when it was away for longer")] = "31 d",
    unmount: Annotated[bool, typer.Option("--unmount", help="unmount it by itself as soon as it is level")] = False,
    folder_ok: Annotated[bool, typer.Option("--folder-ok", help="MOUNT may be a plain folder, no disk")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="ID exists and its disk is dead: this one takes its place")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done, change nothing")] = False,
) -> None:
    """Prepare a removable disk."""
    from receiver.config_edit import add_target
    from receiver.targets.marker import prepare

    configure(level="error")
    file = config or default_config(NAME)
    settings = load(ReceiverSettings, file)  # the policy may be waiting for this very disk
    wanted = Wanted(_name(target), mount.absolute(), path, folder_ok)
    found = _mount(wanted)
    entry = next((one for one in settings.target if one.id == target), None)
    if entry is not None and (entry.kind != "removable" or str(entry.folder) != path):
        raise AlreadyThere(
            f"{file} has a target {target!r} of kind {entry.kind} at {entry.folder}", hint="choose another id"
        )
    marked = _marked(wanted)
    if entry is not None and not marked and not replace:
        raise AlreadyThere(
            f"{file} has a disk {target!r} already",
            hint=f"choose another id; if that disk is dead: `disk init {target} {mount} --replace`",
        )
    _only_one(settings, wanted)
    values = _values(wanted, medium=medium, site=site, max_age=max_age, unmount=unmount)
    if entry is None:
        add_target(file, values, dry_run=True)
    _findable(settings, wanted)
    _tell(settings, wanted, found)
    if dry_run:
        out.print(f"nothing was changed; {wanted.root} would become the root of {target}", markup=False)
        return
    prepare(wanted.root, target, clock=SYSTEM)
    _give_to_service(settings, wanted.root)
    if entry is None:
        add_target(file, values)
    out.print(f"disk {target} is ready: {wanted.root}{' (it was marked already)' if marked else ''}", markup=False)
    out.print("a running service takes it up by itself\nhint: tape-receiver disk list", markup=False)


def _name(text: str) -> str:
    from tape.names import check_agent

    try:
        return check_agent(text)
    except NameRefused as error:
        raise UsageError(f"id {text!r} is not allowed", hint=error.hint) from None


def _values(wanted: Wanted, *, medium: str, site: str, max_age: str, unmount: bool) -> dict[str, Any]:
    return {
        "id": wanted.target,
        "kind": "removable",
        "path": wanted.folder,
        "medium": medium,
        "site": site,
        "max_age": max_age,
        "mounted": False if wanted.folder_ok else None,
        "unmount": True if unmount else None,
    }


def _mount(wanted: Wanted) -> "Mount | None":
    """The mount of its own that it is; None for a plain folder that may be one."""
    from receiver.targets.mounts import own_mount

    if not wanted.place.is_dir():
        raise TargetAbsent(f"{wanted.place} is not there", hint="mount the disk first")
    found = own_mount(wanted.place)
    if wanted.folder_ok:
        return found
    if found is None:
        raise TargetError(
            f"{wanted.place} is not a mount of its own: it lies on the system's disk",
            hint="mount the disk there first (`findmnt`); if a plain folder is meant, add --folder-ok",
        )
    if found.path != wanted.place.resolve():
        below = wanted.place.resolve().relative_to(found.path).as_posix()
        raise TargetError(
            f"{wanted.place} lies on the disk that is mounted at {found.path}",
            hint=f"tape-receiver disk init {wanted.target} {found.path} --path {below}",
        )
    return found


def _marked(wanted: Wanted) -> bool:
    """Whether it carries the marker of this target; raises TargetError if it carries another's."""
    from receiver.targets.contract import MARKER
    from receiver.targets.marker import read_marker

    if not (wanted.root / MARKER).exists():
        return False
    found = read_marker(wanted.root)["id"]
    if found != wanted.target:
        raise TargetError(
            f"{wanted.root} is marked as target {found!r} already, not {wanted.target!r}",
            hint=f"use it as {found!r}, give another --path, or empty the disk first",
        )
    return True


def _only_one(settings: ReceiverSettings, wanted: Wanted) -> None:
    from receiver.targets.removable import Search

    search = Search(Path(wanted.folder), tuple(settings.disks.look_in), mounted=not wanted.folder_ok)
    for root in search.roots(wanted.target):
        if root.resolve() != wanted.root.resolve():
            raise AlreadyThere(
                f"a disk with the id {wanted.target!r} is plugged in at {root}",
                hint="choose another id: two disks with the same one are both refused",
            )


def _findable(settings: ReceiverSettings, wanted: Wanted) -> None:
    from receiver.targets.mounts import disks, patterns

    places = {place.resolve() for place in disks(settings.disks.look_in, mounted=not wanted.folder_ok)}
    if wanted.place.resolve() not in places:
        looked = ", ".join(patterns(settings.disks.look_in))
        raise ConfigError(
            f"{wanted.place} would never be found: disks are looked for in {looked}",
            hint=f'mount it there, or add "{wanted.place.parent / "*"}" to `look_in` of [disks] in receiver.toml',
        )


def _tell(settings: ReceiverSettings, wanted: Wanted, found: "Mount | None") -> None:
    """What is on it, and whether the archive fits."""
    from tape.sayings import size

    usage = shutil.disk_usage(wanted.place)
    system = found.file_system if found else "the system's file system"
    names = sorted(one.name for one in wanted.place.iterdir() if not one.name.startswith((".", "lost+found")))
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    holds = f"{', '.join(names[:5])}{more}" if names else "nothing"
    out.print(f"{wanted.place}: {system}, {size(usage.total)}, {size(usage.free)} free; it holds {holds}", markup=False)
    archive = _archive_bytes(settings)
    if archive is not None:
        out.print(f"the archive at home has {size(archive)}", markup=False)
        if archive > usage.free:
            err.print(f"warning: that does not fit: {size(archive - usage.free)} more would be needed", markup=False)
    if found is not None and found.max_file is not None:
        err.print(f"warning: {system} holds no file above {show_size(found.max_file + 1)}; exFAT does", markup=False)


def _archive_bytes(settings: ReceiverSettings) -> int | None:
    from receiver.catalog import Catalog

    if not (settings.state / "catalog.db").exists():
        return None
    try:
        with Catalog.open(settings.state, clock=SYSTEM, read_only=True) as catalog:
            return sum(one.bytes for one in catalog.streams())
    except HometapeError:
        return None


def _give_to_service(settings: ReceiverSettings, root: Path) -> None:
    """Root prepares the disk, the service's own user writes there: the one whom the state folder belongs to."""
    if sys.platform == "win32" or not settings.state.is_dir():
        return
    owner, now = settings.state.stat(), root.stat()
    if (owner.st_uid, owner.st_gid) == (now.st_uid, now.st_gid):
        return
    try:
        for path in (root, *root.iterdir()):
            shutil.chown(path, owner.st_uid, owner.st_gid)
    except OSError as error:
        err.print(
            f"warning: {root} can't be given to the owner of {settings.state}: {error.strerror}\n"
            f"hint: mount it so that uid {owner.st_uid} may write there (`-o uid={owner.st_uid}`)",
            markup=False,
        )
