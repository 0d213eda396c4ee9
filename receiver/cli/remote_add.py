"""`tape-receiver remote add`: make an rclone remote, prepare the place there, and add it as a target.

Secrets are asked for on the terminal, or taken from the environment; they go into rclone's configuration and
nowhere else. Kinds that need a browser (Google Drive, Dropbox) are made with rclone's own dialogue; which commands
that takes is printed.
"""

import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from receiver.cli.options import NAME, ConfigOption
from receiver.settings import ReceiverSettings
from tape.console import WARNING, default_config, err, out
from tape.errors import AlreadyThere, HometapeError, UsageError
from tape.log import configure

HELP = "Make a remote ready and add it as a target. Asks for what is missing, when there is a terminal."
SECRET_ENV, CRYPT_ENV = "HOMETAPE_REMOTE_SECRET", "HOMETAPE_REMOTE_CRYPT_PASSWORD"
_OPEN = {"access_key_id", "key_file", "known_hosts_file", "env_auth", "pubkey_file", "key_use_agent", "account"}
_KEEP = "keep a copy of rclone's configuration elsewhere: without its passwords nobody can read this target"
_SECRET_WORDS = ("pass", "secret", "token", "credential", "key", "bearer")


@dataclass(frozen=True, slots=True)
class Question:
    """One option of a kind of remote. `default` "": it must be given, or is left out where `needed` is false."""

    option: str
    text: str
    default: str = ""
    needed: bool = True


@dataclass(frozen=True, slots=True)
class Guide:
    """How a kind of remote is made. type: rclone's word for it; hidden: the option that is asked for unseen."""

    type: str
    place: str
    questions: tuple[Question, ...] = ()
    hidden: str = ""
    prompt: str = ""
    obscured: bool = False
    optional: bool = False
    browser: bool = False


GUIDES = {
    "s3": Guide(
        "s3",
        "bucket, or bucket/folder",
        (
            Question("provider", "provider as rclone names it (AWS, Cloudflare, Wasabi, Minio, Other ...)", "AWS"),
            Question("endpoint", "endpoint URL (empty for AWS)", needed=False),
            Question("region", "region (empty where there is none)", needed=False),
            Question("access_key_id", "access key id"),
        ),
        hidden="secret_access_key",
        prompt="secret access key",
    ),
    "b2": Guide(
        "b2",
        "bucket, or bucket/folder",
        (Question("account", "key id (applicationKeyId)"),),
        hidden="key",
        prompt="application key",
    ),
    "sftp": Guide(
        "sftp",
        "folder on the server",
        (
            Question("host", "host name"),
            Question("port", "port", "22"),
            Question("user", "user"),
            Question("key_file", "private key file (empty: password or agent)", needed=False),
            Question("known_hosts_file", "file with the server's host key", "~/.ssh/known_hosts"),
        ),
        hidden="pass",
        prompt="password (empty: key or agent)",
        obscured=True,
        optional=True,
    ),
    "webdav": Guide(
        "webdav",
        "folder on the server",
        (
            Question("url", "URL of the server"),
            Question("vendor", "vendor (nextcloud, owncloud, sharepoint, other)", "other"),
            Question("user", "user"),
        ),
        hidden="pass",
        prompt="password",
        obscured=True,
    ),
    "drive": Guide("drive", "folder in the drive", browser=True),
    "dropbox": Guide("dropbox", "folder in the Dropbox", browser=True),
    "local": Guide("alias", "a folder of this machine"),
}


def add(
    target: Annotated[str, typer.Argument(metavar="ID", help="the new target's id")],
    config: ConfigOption = None,
    kind: Annotated[str | None, typer.Option("--kind", help=f"one of {', '.join(GUIDES)}")] = None,
    remote: Annotated[
        str | None, typer.Option("--remote", help="NAME:PATH of a remote that rclone knows already")
    ] = None,
    path: Annotated[str | None, typer.Option("--path", help="where there: bucket or folder")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="an option of the remote as KEY=VALUE, as rclone names it; may be repeated"),
    ] = None,
    crypt: Annotated[bool, typer.Option("--crypt", help="encrypt names and contents here, before they leave")] = False,
    create_bucket: Annotated[bool, typer.Option("--create-bucket", help="make the bucket or folder first")] = False,
    rclone_config: Annotated[
        Path | None, typer.Option("--rclone-config", help="rclone's configuration file (default: rclone's own)")
    ] = None,
    medium: Annotated[str, typer.Option(help="what it lives on; copies with the same word share a fate")] = "cloud",
    site: Annotated[str, typer.Option(help="where it stands")] = "cloud",
    bandwidth: Annotated[str, typer.Option(help="most bytes a second, `2 MiB` or `08:00 1 MiB, 23:00 off`")] = "",
) -> None:
    """Make a remote ready and add it as a target."""
    from receiver.config_edit import add_target
    from receiver.targets.rclone_config import config_file

    configure(level="error")
    file = config or default_config(NAME)
    values: dict[str, Any] = {"id": target, "kind": "remote", "remote": remote or f"{target}:"}
    values |= {"medium": medium, "site": site, "bandwidth": bandwidth or None}
    add_target(file, values, dry_run=True)
    if remote is not None and (kind or option or crypt or path):
        raise UsageError("--remote names a remote that is there: it takes no --kind, --path, --option, --crypt")
    with _or_unmade(rclone_config) as made:
        if remote is None:
            given = _options(option or [])
            values["remote"] = _place(target, _guide(kind), path, given, crypt=crypt, config=rclone_config, made=made)
        values["rclone_config"] = config_file(
            rclone_config
        )  # the service may run as another user, with another default
        _prepare(add_target(file, values, dry_run=True), target, create=create_bucket)
    add_target(file, values)
    out.print(f"target {target} was added to {file}: {values['remote']}", markup=False)
    if crypt:
        out.print(_KEEP, markup=False)
    out.print(f"hint: tape-receiver remote test {target}", markup=False)


def _place(
    target: str,
    guide: Guide,
    path: str | None,
    options: dict[str, str],
    *,
    crypt: bool,
    config: Path | None,
    made: list[str],
) -> str:
    """Have a remote made, here or by the person; its `NAME:PATH`."""
    if not guide.browser:
        return _make(target, guide, path, options, crypt=crypt, config=config, made=made)
    place = _explain(target, guide, config, crypt=crypt)
    if not sys.stdin.isatty() or not typer.confirm("is that done?", err=True):
        raise typer.Exit(WARNING)
    return place


@contextmanager
def _or_unmade(config: Path | None) -> Iterator[list[str]]:
    """Names of remotes made on the way. After an error none of them stays: the same command can be given again."""
    from receiver.targets.rclone_config import forget

    made: list[str] = []
    try:
        yield made
    except BaseException as error:
        for name in reversed(made):
            with suppress(HometapeError):
                forget(name, config=config)
        if made and isinstance(error, HometapeError):
            error.hint = "correct what is wrong, then the same command again: nothing was added"
        raise


def _guide(kind: str | None) -> Guide:
    chosen = kind or _ask("kind", f"kind of remote ({', '.join(GUIDES)})", "s3", "--kind")
    if chosen not in GUIDES:
        raise UsageError(f"--kind {chosen}: not one of {', '.join(GUIDES)}")
    return GUIDES[chosen]


def _options(given: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--option {text!r} is not KEY=VALUE")
        if key not in _OPEN and any(word in key for word in _SECRET_WORDS):
            raise UsageError(
                f"--option {key}: a secret on a command line is seen by every process of this machine",
                hint=f"put it into the environment as {SECRET_ENV}, or leave it out and be asked",
            )
        found[key] = value
    return found


def _make(
    target: str,
    guide: Guide,
    path: str | None,
    options: dict[str, str],
    *,
    crypt: bool,
    config: Path | None,
    made: list[str],
) -> str:
    """Make the remote (and the crypt over it); its `NAME:PATH`."""
    from receiver.targets.rclone_config import check_place, create

    chosen = dict(options)
    for question in guide.questions:
        value = chosen.get(question.option)
        if value is None:
            value = _ask(question.option, question.text, question.default, "--option", needed=question.needed)
        chosen[question.option] = value
    place = path if path is not None else _ask("path", guide.place, "", "--path")
    if guide.type == "alias":
        chosen["remote"], place = str(Path(place).absolute()), ""
    if chosen.get("known_hosts_file", "").startswith("~"):
        chosen["known_hosts_file"] = str(Path(chosen["known_hosts_file"]).expanduser())
    base = f"{target}-base" if crypt else target
    check_place(f"{base}:{place}")
    hidden = {guide.hidden: secret} if guide.hidden and (secret := _secret(guide, chosen)) else {}
    obscured = frozenset({guide.hidden} if guide.obscured else ())
    kept = {key: value for key, value in chosen.items() if value}
    try:
        create(base, guide.type, kept, hidden, obscured=obscured, config=config)
    except AlreadyThere as error:
        if crypt:  # never the hint to use it as it is: that would be without encryption
            error.hint = f"choose another id; or `rclone config delete {base}` if it is left from an earlier try"
        raise
    made.append(base)
    if not crypt:
        return f"{base}:{place}"
    password = os.environ.get(CRYPT_ENV) or _hidden("password of the encryption (empty: a random one)")
    passwords = {"password": password or secrets.token_urlsafe(32), "password2": secrets.token_urlsafe(32)}
    create(target, "crypt", {"remote": f"{base}:{place}"}, passwords, obscured=frozenset(passwords), config=config)
    made.append(target)
    return f"{target}:"


def _prepare(settings: ReceiverSettings, target: str, *, create: bool) -> None:
    from receiver.targets.opening import prepare_target, scratch_of
    from receiver.targets.remote_store import RemoteStore

    entry = next(entry for entry in settings.target if entry.id == target)
    store = RemoteStore(entry, scratch_of(entry, settings.state))
    if create:
        store.make_root()
    fresh = prepare_target(entry, settings.state)
    kind = store.kind
    what = f"crypt over {kind.base}" if kind.crypt else kind.type
    out.print(f"{entry.remote} ({what}) {'is marked as' if fresh else 'was marked before as'} {target}", markup=False)
    out.print(f"copies are proven by: {kind.method}", markup=False)


def _ask(name: str, text: str, default: str, option: str, *, needed: bool = True) -> str:
    """A value from the terminal; without one the default, or what option to give."""
    if sys.stdin.isatty():
        answer: str = typer.prompt(text, default=default, show_default=bool(default), err=True)
        return answer.strip()
    if default or not needed:
        return default
    how = option if option != "--option" else f"--option {name}=..."
    raise UsageError(f"{text} is missing", hint=f"give it with {how}")


def _secret(guide: Guide, chosen: dict[str, str]) -> str:
    given = os.environ.get(SECRET_ENV)
    if given:
        return given
    found = _hidden(guide.prompt)
    if not found and not (guide.optional or chosen.get("env_auth") == "true"):
        raise UsageError(f"{guide.prompt} is missing", hint=f"put it into the environment as {SECRET_ENV}")
    return found


def _hidden(text: str) -> str:
    if not sys.stdin.isatty():
        return ""
    answer: str = typer.prompt(text, default="", show_default=False, hide_input=True, err=True)
    return answer


def _explain(target: str, guide: Guide, config: Path | None, *, crypt: bool) -> str:
    """What a person with a browser has to do: rclone's own dialogue, word for word; the `NAME:PATH` it makes."""
    where = f" --config {config}" if config else ""
    err.print(f"{guide.type} needs a browser once. On this machine, if it has one:", markup=False)
    err.print(f"    rclone config create {target} {guide.type}{where}", markup=False)
    err.print("Else, on a machine with a browser and rclone:", markup=False)
    err.print(f'    rclone authorize "{guide.type}"', markup=False)
    err.print("and here, answering `n` to the browser and pasting what that printed:", markup=False)
    err.print(f"    rclone config{where}        (new remote, name {target}, storage {guide.type})", markup=False)
    name, place = target, "hometape"
    if crypt:
        err.print("Then the encryption over it, with a password of your own when it asks:", markup=False)
        err.print(f"    rclone config{where}        (new remote, name {target}-crypt, storage crypt,", markup=False)
        err.print(f"                                 remote {target}:hometape)", markup=False)
        name, place = f"{target}-crypt", ""
    rest = f" --rclone-config {config}" if config else ""
    err.print("Then have it prepared, tried and added:", markup=False)
    err.print(f"    tape-receiver remote add {target} --remote {name}:{place}{rest}", markup=False)
    return f"{name}:{place}"
