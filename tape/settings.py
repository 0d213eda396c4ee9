"""Settings are typed data declared once: pydantic models read from TOML, with the default and the
meaning of every key beside its type. The annotated files in configs/ and the epilogue of `--help`
are made from the same declarations.
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from tape.errors import ConfigError

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?i?)b?\s*\Z", re.IGNORECASE)
_SIZES = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}
_TIME = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(ms|s|min|m|h|d)?\s*\Z")
_TIMES = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(value: Any) -> Any:
    """Bytes from a number or a text such as `64 MiB`; raises ValueError."""
    if isinstance(value, str):
        found = _SIZE.match(value)
        if not found:
            raise ValueError(f"{value!r} is not a size such as '64 MiB' or '20 GB'")
        return round(float(found[1]) * _SIZES[found[2].lower()])
    return value


def parse_duration(value: Any) -> Any:
    """Seconds from a number or a text such as `60s`, `5 min`, `26 h`; raises ValueError."""
    if isinstance(value, str):
        found = _TIME.match(value)
        if not found:
            raise ValueError(f"{value!r} is not a duration such as '60 s', '5 min' or '26 h'")
        return float(found[1]) * _TIMES[found[2] or "s"]
    return value


def show_size(count: int) -> str:
    """Bytes as a text that `parse_size` reads back exactly."""
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count and count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count} B"


def show_duration(seconds: float) -> str:
    """Seconds as a text that `parse_duration` reads back exactly."""
    for unit, name in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds and seconds % unit == 0:
            return f"{seconds / unit:g} {name}"
    return f"{seconds:.6f}".rstrip("0").rstrip(".") + " s"


class _SizeMark:
    show = staticmethod(show_size)


class _DurationMark:
    show = staticmethod(show_duration)


Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0), _SizeMark]
Duration = Annotated[float, BeforeValidator(parse_duration), Field(ge=0), _DurationMark]
PathText = Annotated[Path, PlainSerializer(str, return_type=str)]


class Section(BaseModel):
    """Base of every settings section: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


Model = TypeVar("Model", bound=Section)


def load(model: type[Model], path: Path) -> Model:
    """Read a TOML file; raises ConfigError that names the file and the line or key."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such configuration file", hint="run `init` to write one, or pass --config"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read: {error}") from error
    return parse(model, text, path)


def parse(model: type[Model], text: str, path: Path) -> Model:
    """What a TOML file of that name says, were this its text; raises ConfigError as `load` does."""
    try:
        return model.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {str(error)[:1].lower()}{str(error)[1:]}") from error
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(path, text, part) for part in error.errors())) from None


def _explain(path: Path, text: str, part: Any) -> str:
    key = ".".join(str(p) for p in part["loc"]) or "(whole file)"
    message = part["msg"].removeprefix("Value error, ")
    if part["type"] == "extra_forbidden":
        message = "unknown key"
    elif part["type"] == "missing":
        message = "required, but missing"
    line = _line_of(text, part["loc"])
    where = f"{path}:{line}" if line else str(path)
    return f"{where}: {key}: {message[:1].lower()}{message[1:]}"


def _line_of(text: str, loc: tuple[Any, ...]) -> int | None:
    """The line of a key, found by walking the file's tables; None if it is not written there."""
    wanted = [p for p in loc if isinstance(p, str)]
    index = next((p for p in loc if isinstance(p, int)), 0)
    table: list[str] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        if bare.startswith("["):
            name = bare.strip("[]# ").split("]")[0]
            table = name.split(".")
            if bare.startswith("[["):
                seen[name] = seen.get(name, -1) + 1
            continue
        key = bare.split("=")[0].strip()
        right = not table or seen.get(".".join(table), index) == index
        if key and right and [*table, *key.split(".")] == wanted:
            return number
    return None


class Option:
    """One key as it is documented: dotted key, type, default as TOML text, meaning."""

    __slots__ = ("default", "key", "meaning", "repeated", "required", "table")

    def __init__(self, table: str, key: str, default: str, meaning: str, *, required: bool, repeated: bool) -> None:
        self.table = table
        self.key = key
        self.default = default
        self.meaning = meaning
        self.required = required
        self.repeated = repeated


def options(model: type[Section], table: str = "", *, repeated: bool = False) -> Iterator[Option]:
    """Every key of a settings model, sections after the plain keys of their parent."""
    later: list[tuple[type[Section], str, bool]] = []
    for name, info in model.model_fields.items():
        inner, many = _section_in(info.annotation)
        if inner is not None:
            later.append((inner, f"{table}.{name}" if table else name, many))
            continue
        required = info.is_required()
        default = "" if required else _toml(info.get_default(call_default_factory=True), info.metadata)
        yield Option(table, name, default, info.description or "", required=required, repeated=repeated)
    for inner, where, many in later:
        yield from options(inner, where, repeated=many)


def _section_in(annotation: Any) -> tuple[type[Section] | None, bool]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation, False
    for part in get_args(annotation):
        if isinstance(part, type) and issubclass(part, Section):
            return part, getattr(annotation, "__origin__", None) in (list, tuple)
    return None, False


def _toml(value: Any, metadata: list[Any]) -> str:
    mark = next((m for m in metadata if isinstance(m, type) and issubclass(m, (_SizeMark, _DurationMark))), None)
    if value is None:
        return ""
    if mark is not None:
        return f'"{mark.show(value)}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(v, []) for v in value) + "]"
    return f'"{value!s}"'.replace("\\", "\\\\")
