"""The house's rules about source text, as functions from a file to complaints.

A rule takes a `Source` and yields complaints, each `line: what is wrong`. tests/test_tidy.py applies every
rule to every file and shows for each that it can find what it is there for.
"""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

MAX_MODULE_LINES = 400
MAX_TEST_LINES = 600  # a list of cases may be longer than what it tests
MAX_FUNCTION_LINES = 60
MAX_FILE_BYTES = 64 * 1024

PRODUCT = ("tape", "agent", "receiver")
DRAWERS = {"util", "utils", "helper", "helpers", "common", "misc", "stuff"}

# Rooms that may do what is forbidden elsewhere, and why.
CLOCK_ROOMS = {
    "tape/clock.py": "it is the room of time and chance",
    "tests/support/waiting.py": "waiting for a condition, with a deadline",
    "tests/support/proxy.py": "delays are what it is for",
    "tests/unit/agent/sources/test_files_random.py": "the pace of its acts is drawn from a seed",
    "tests/process/test_road.py": "the moment of a kill and a bot's pace are drawn from a seed",
}
POSIX_ROOMS = {
    "tape/console.py": "asks for root only where there is one",
    "tape/notify.py": "systemd's socket; silent where there is none",
    "agent/sources/handles.py": "opens and reads files the way each system allows it beside a writer",
    "receiver/inspect.py": "limits its own process where the system can; elsewhere the parent watches it",
    "receiver/targets/rclone.py": "ends rclone with all it started: a group there, a process on Windows",
    "tape/direct.py": "past the page cache on Linux, ordinary writes elsewhere",
    "receiver/targets/files.py": "drops cached pages before reading back, where the system can",
}

_TIME = {
    "time.time", "time.time_ns", "time.sleep", "asyncio.sleep", "datetime.now", "datetime.utcnow",
    "datetime.today", "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today",
    "date.today", "datetime.date.today",
}  # fmt: skip
_POSIX_MODULES = {"fcntl", "grp", "pwd", "resource", "termios", "tty", "pty"}
_POSIX_CALLS = {
    "os.fork", "os.forkpty", "os.geteuid", "os.getuid", "os.getgid", "os.getegid", "os.getpgid", "os.setsid",
    "os.killpg", "os.chown", "os.fchown", "os.lchown", "os.fchmod", "os.mkfifo", "os.statvfs", "os.fstatvfs",
    "os.sync", "os.fdatasync", "os.posix_fadvise", "os.posix_fallocate", "os.sendfile", "os.pread", "os.pwrite",
    "os.pipe2", "os.nice", "os.sched_setaffinity", "os.sched_getaffinity", "os.O_DIRECTORY", "os.O_NOFOLLOW",
    "os.O_DIRECT", "os.O_CLOEXEC", "os.O_DSYNC", "os.O_SYNC", "os.uname", "os.getloadavg", "os.ttyname",
    "signal.SIGKILL", "signal.SIGHUP", "signal.SIGUSR1", "signal.SIGUSR2", "signal.SIGALRM", "signal.alarm",
    "signal.setitimer", "socket.AF_UNIX",
}  # fmt: skip

# Written in pieces, so that this file does not complain about itself.
_FORBIDDEN = {
    "TO" + "DO": "finish it",
    "FIX" + "ME": "fix it",
    "XX" + "X": "say what is meant",
    "/wo" + "rk/": "a path of one machine",
    "/ro" + "ot/": "a path of one machine",
    "/tm" + "p/v/": "a path of one machine",
    "pypi" + ".org": "where packages come from is each machine's affair",
    "files.python" + "hosted.org": "where packages come from is each machine's affair",
    "deb.deb" + "ian.org": "where packages come from is each machine's affair",
    "registry.npm" + "js.org": "where packages come from is each machine's affair",
    "proxy.go" + "lang.org": "where packages come from is each machine's affair",
}


@dataclass(frozen=True)
class Source:
    """One text file: `path` relative to the project with `/`, and its text."""

    path: str
    text: str

    @property
    def room(self) -> str:
        """The top folder, or the file itself."""
        return self.path.split("/", 1)[0]

    @property
    def is_python(self) -> bool:
        """Whether it is a Python module."""
        return self.path.endswith(".py")

    @property
    def in_product(self) -> bool:
        """Whether it is part of what is installed."""
        return self.room in PRODUCT

    @property
    def is_command(self) -> bool:
        """Whether it belongs to a command line, which speaks to a person."""
        return self.path.startswith(("agent/cli/", "receiver/cli/"))

    @cached_property
    def lines(self) -> list[str]:
        """The text, line by line."""
        return self.text.splitlines()

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed module."""
        return ast.parse(self.text, self.path)


Rule = Callable[[Source], Iterator[str]]


def _dotted(node: ast.expr) -> str:
    """`a.b.c` for a chain of names; with another root, only what follows it (`.open`)."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    parts.append(node.id if isinstance(node, ast.Name) else "")
    return ".".join(reversed(parts))


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def module_size(source: Source) -> Iterator[str]:
    """A module is of a size one can hold in the head."""
    most = MAX_TEST_LINES if source.room == "tests" else MAX_MODULE_LINES
    if source.is_python and len(source.lines) > most:
        yield f"1: {len(source.lines)} lines; split it by responsibility (at most {most})"


def function_size(source: Source) -> Iterator[str]:
    """A function fits on a screen."""
    if source.is_python:
        for node in _functions(source.tree):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield f"{node.lineno}: {node.name} has {length} lines (at most {MAX_FUNCTION_LINES})"


def no_print(source: Source) -> Iterator[str]:
    """Only the commands speak to a person; everything else logs."""
    if source.in_product and source.is_python and not source.is_command:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and _dotted(node.func) == "print":
                yield f"{node.lineno}: print outside a command; log it"


def clock_in_its_room(source: Source) -> Iterator[str]:
    """The wall clock, sleep and chance stay in their room; tests wait for conditions, not for time."""
    if not source.is_python or source.path in CLOCK_ROOMS or source.room == "bench":
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and source.in_product:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            if "random" in names:
                yield f"{node.lineno}: chance; take a clock, or the secrets module for identities"
        if isinstance(node, ast.ImportFrom) and node.module in {"time", "asyncio"}:
            for alias in node.names:
                if f"{node.module}.{alias.name}" in _TIME:
                    yield f"{node.lineno}: {node.module}.{alias.name} outside tape/clock.py"
        if isinstance(node, ast.Call | ast.Attribute):
            called = node.func if isinstance(node, ast.Call) else None
            if called is None or (name := _dotted(called)) not in _TIME:
                continue
            pauses = name == "asyncio.sleep" and ast.unparse(node).endswith("sleep(0)")
            clock_read = not source.in_product and not name.endswith("sleep")
            if not pauses and not clock_read:
                yield f"{node.lineno}: {name} outside tape/clock.py"


def _mode(call: ast.Call, position: int) -> str:
    given = [k.value for k in call.keywords if k.arg == "mode"] + call.args[position : position + 1]
    if not given:
        return "r"
    return given[0].value if isinstance(given[0], ast.Constant) and isinstance(given[0].value, str) else "b?"


def _text_mode(call: ast.Call) -> str | None:
    """The mode of a call that opens a text file, None for any other call."""
    name = _dotted(call.func)
    last = name.rsplit(".", 1)[-1]
    if last in {"read_text", "write_text"}:
        return last[0]
    if name in {"open", "io.open", "os.fdopen"}:
        mode = _mode(call, 1)
    elif last == "open" and isinstance(call.func, ast.Attribute):
        # A method called open: a path's if it is given a mode or what only text takes.
        mode = _mode(call, 0)
        text_words = {"encoding", "newline"} & {k.arg for k in call.keywords}
        if not text_words and not (call.args and re.fullmatch(r"[rwax]t?\+?", mode)):
            return None
    else:
        return None
    return None if "b" in mode else mode


def text_has_an_encoding(source: Source) -> Iterator[str]:
    """Text files state their encoding, and on writing their line ends: defaults differ between systems."""
    if not source.is_python:
        return
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call) or (mode := _text_mode(node)) is None:
            continue
        given = {k.arg for k in node.keywords}
        needed = {"encoding", "newline"} if mode[0] in "wax" else {"encoding"}
        lacking = sorted(needed - given)
        if lacking and None not in given:
            yield f"{node.lineno}: {_dotted(node.func)} of text without {' and '.join(lacking)}"


def signs_on_doors(source: Source) -> Iterator[str]:
    """Every package says what lives in it, every module, public class and public function what it is for."""
    if not source.is_python or not source.in_product:
        return
    if not ast.get_docstring(source.tree):
        what = "package" if source.path.endswith("__init__.py") else "module"
        yield f"1: this {what} has no docstring"
    classes = [n for n in source.tree.body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")]
    for node in [*source.tree.body, *(inner for owner in classes for inner in owner.body)]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            told = ast.get_docstring(node) or _is_variant(node)
            if not told and not node.name.startswith("_"):
                yield f"{node.lineno}: {node.name} has no docstring"


def _is_variant(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    """Overrides, overloads and setters are described where the name is first defined."""
    marks = {_dotted(d).rsplit(".", 1)[-1] for d in node.decorator_list}
    return bool(marks & {"override", "overload", "setter"})


def tests_say_what_they_show(source: Source) -> Iterator[str]:
    """Every test has a sentence that says what holds."""
    if source.is_python and source.room == "tests":
        for node in _functions(source.tree):
            if node.name.startswith("test_") and not ast.get_docstring(node):
                yield f"{node.lineno}: {node.name} has no docstring"


def no_forbidden_words(source: Source) -> Iterator[str]:
    """Nothing unfinished, no machine's paths, no registry's host."""
    for number, line in enumerate(source.lines, 1):
        for word, why in _FORBIDDEN.items():
            if word in line:
                yield f"{number}: {word!r}: {why}"


def silences_have_reasons(source: Source) -> Iterator[str]:
    """A lint or type complaint is silenced by its code, with a reason behind it or on the line above."""
    if not source.is_python:
        return
    silenced = re.compile(r"#\s*(?:noqa|type:\s*ignore)(?P<code>:\s*[A-Z0-9, ]+|\[[a-z, -]+\])?(?P<reason>.*)$")
    for number, line in enumerate(source.lines, 1):
        found = silenced.search(line)
        if not found or '"' in found["reason"]:
            continue
        above = source.lines[number - 2].strip() if number > 1 else ""
        if not found["code"]:
            yield f"{number}: silences everything; name the code"
        elif not re.search(r"[a-z]{3}", found["reason"]) and not above.startswith("#"):
            yield f"{number}: silenced without a reason"


def no_drawers(source: Source) -> Iterator[str]:
    """A room is named after what lives in it."""
    for part in source.path.split("/"):
        if part.split(".")[0].lower() in DRAWERS:
            yield f"1: a drawer called {part!r}; name it after what lives in it"


def posix_in_its_rooms(source: Source) -> Iterator[str]:
    """What only POSIX has is called in rooms that hold its twin for Windows too."""
    if not source.is_python or not source.in_product or source.path in POSIX_ROOMS:
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{a.name}" for a in node.names)]
        elif isinstance(node, ast.Attribute):
            names = [_dotted(node)]
        else:
            continue
        for name in names:
            if name in _POSIX_MODULES or name in _POSIX_CALLS:
                yield f"{getattr(node, 'lineno', 1)}: {name} is missing on Windows; see POSIX_ROOMS"


RULES: tuple[Rule, ...] = (
    module_size,
    function_size,
    no_print,
    clock_in_its_room,
    text_has_an_encoding,
    signs_on_doors,
    tests_say_what_they_show,
    no_forbidden_words,
    silences_have_reasons,
    no_drawers,
    posix_in_its_rooms,
)
