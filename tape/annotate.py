"""Configuration files as people get them: every option with its meaning, made from the settings."""

import re
import textwrap
from collections.abc import Mapping, Sequence

from tape.errors import UsageError
from tape.settings import Option, Section, options

WIDTH = 100
Values = Mapping[str, str]  # dotted key -> TOML text


def annotated(model: type[Section], intro: str, values: Values, repeated: Mapping[str, Sequence[Values]]) -> str:
    """A whole TOML file: each option under a comment that says what it means.

    An option with a value is set; one without is shown commented out with its default. `repeated` gives
    the entries of the tables that may stand several times (`agent.source` is keyed `source`); the first
    entry carries the comments. A table without entries is shown commented out.
    """
    tables: dict[str, list[Option]] = {}
    for option in options(model):
        tables.setdefault(option.table, []).append(option)
    lines = [f"# {line}".rstrip() for line in textwrap.wrap(intro, WIDTH)]
    for table, members in tables.items():
        if members[0].repeated:
            entries = repeated.get(table, [])
            for number, entry in enumerate(entries):
                lines += ["", f"[[{table}]]", *_members(members, entry, "", comments=number == 0)]
            if not entries:
                lines += ["", f"#[[{table}]]", *_members(members, {}, "", comments=True)]
        else:
            lines += ["", *([f"[{table}]"] if table else []), *_members(members, values, table, comments=True)]
    return "\n".join(lines) + "\n"


def _members(members: Sequence[Option], values: Values, table: str, *, comments: bool) -> list[str]:
    lines = []
    for option in members:
        given = values.get(f"{table}.{option.key}" if table else option.key)
        if comments:
            lines += [f"# {line}" for line in textwrap.wrap(option.meaning, WIDTH)]
        if given is not None:
            lines.append(f"{option.key} = {given}")
        elif comments:
            lines.append(
                f"#{option.key} = {option.default or '(required)' if option.required else option.default}".rstrip()
            )
    return lines


def epilogue(model: type[Section]) -> str:
    """The options of a configuration file as a list for `--help`: key, default, meaning."""
    lines = ["Options of the configuration file:", ""]
    for option in options(model):
        key = f"{option.table}.{option.key}" if option.table else option.key
        default = "required" if option.required else f"default {option.default or 'empty'}"
        lines.append(f"{key} ({default}): {option.meaning}")
        lines.append("")
    return "\n".join(lines)


def chosen(model: type[Section], settings: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE` texts as values for `annotated`; raises UsageError for a key that does not exist.

    Numbers, `true`, `false` and `[lists]` are taken as they are; everything else is a text.
    """
    known = {f"{o.table}.{o.key}" if o.table else o.key for o in options(model) if not o.repeated}
    found = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or key not in known:
            raise UsageError(f"--set {text!r}: not KEY=VALUE with a known key", hint="keys are listed by `run --help`")
        bare = re.fullmatch(r"-?[0-9]+(\.[0-9]+)?|true|false|\[.*\]", value)
        found[key] = value if bare else quoted(value)
    return found


def quoted(text: str) -> str:
    """A TOML basic string."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{plain}"'
