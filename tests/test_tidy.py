"""The house's rules, in place of a rule book: each is applied to every file, and shown to bite."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.support import need_program, run
from tests.support import tidiness as tidy
from tests.support.needs import PROJECT


def project_files() -> list[Path]:
    """Every file of the project that is, or would be, under version control."""
    git = need_program("git")
    listed = run(
        [git, "-c", f"safe.directory={PROJECT}", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=PROJECT,
        code=0,
    )
    return [path for name in listed.out.split("\0") if name and (path := PROJECT / name).is_file()]


@pytest.fixture(scope="module")
def sources() -> list[tidy.Source]:
    """The project's text files; a file that is not UTF-8 text counts as data."""
    found = []
    for path in project_files():
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue
        found.append(tidy.Source(path.relative_to(PROJECT).as_posix(), text))
    assert len(found) > 10, "hardly any file was found: the listing is wrong"
    return found


@pytest.mark.parametrize("rule", tidy.RULES, ids=lambda rule: rule.__name__)
def test_the_rule_is_kept(rule: tidy.Rule, sources: list[tidy.Source]) -> None:
    """No file of the project breaks the rule."""
    complaints = [f"{source.path}:{complaint}" for source in sources for complaint in rule(source)]
    assert not complaints, f"{rule.__doc__}\n" + "\n".join(complaints)


PLANTED: list[tuple[tidy.Rule, str, str]] = [
    (tidy.module_size, "tape/x.py", "x = 1\n" * 401),
    (tidy.module_size, "tests/unit/test_x.py", "x = 1\n" * 601),
    (tidy.function_size, "agent/x.py", "def long():\n" + "    x = 1\n" * 60),
    (tidy.no_print, "receiver/x.py", "print('hello')\n"),
    (tidy.clock_in_its_room, "tape/x.py", "import time\nnow = time.time()\n"),
    (tidy.clock_in_its_room, "tape/x.py", "from time import time_ns\n"),
    (tidy.clock_in_its_room, "agent/x.py", "import random\n"),
    (tidy.clock_in_its_room, "agent/x.py", "from random import uniform\n"),
    (tidy.clock_in_its_room, "receiver/x.py", "now = datetime.now(UTC)\n"),
    (tidy.clock_in_its_room, "receiver/x.py", "async def f():\n    await asyncio.sleep(1)\n"),
    (tidy.clock_in_its_room, "tests/unit/test_x.py", "time.sleep(0.1)\n"),
    (tidy.text_has_an_encoding, "tape/x.py", "open('f')\n"),
    (tidy.text_has_an_encoding, "tape/x.py", "open('f', 'w', encoding='utf-8')\n"),
    (tidy.text_has_an_encoding, "tape/x.py", "path.open('w', encoding='utf-8')\n"),
    (tidy.text_has_an_encoding, "tape/x.py", "path.open('a')\n"),
    (tidy.text_has_an_encoding, "tape/x.py", "path.read_text()\n"),
    (tidy.text_has_an_encoding, "tests/x.py", "path.write_text('x', encoding='utf-8')\n"),
    (tidy.signs_on_doors, "agent/new/__init__.py", ""),
    (tidy.signs_on_doors, "agent/x.py", '"""Sign."""\ndef public(): ...\n'),
    (tidy.signs_on_doors, "agent/x.py", '"""Sign."""\nclass Public: ...\n'),
    (tidy.signs_on_doors, "agent/x.py", '"""Sign."""\nclass P:\n    """Sign."""\n    def m(self): ...\n'),
    (tidy.tests_say_what_they_show, "tests/unit/test_x.py", "async def test_x(): ...\n"),
    (tidy.no_forbidden_words, "docs/x.md", "TO" + "DO: later\n"),
    (tidy.no_forbidden_words, "configs/x.toml", "path = '/ro" + "ot/x'\n"),
    (tidy.no_forbidden_words, "constraints.txt", "https://pypi" + ".org/simple\n"),
    (tidy.silences_have_reasons, "tape/x.py", "x = 1  # no" + "qa\n"),
    (tidy.silences_have_reasons, "tape/x.py", "x = 1  # no" + "qa: S311\n"),
    (tidy.silences_have_reasons, "tape/x.py", "x = 1  # type: " + "ignore[arg-type]\n"),
    (tidy.no_drawers, "tape/utils.py", ""),
    (tidy.no_drawers, "agent/helpers/x.py", ""),
    (tidy.posix_in_its_rooms, "tape/x.py", "import fcntl\n"),
    (tidy.posix_in_its_rooms, "tape/x.py", "import os\nos.fork()\n"),
    (tidy.posix_in_its_rooms, "tape/x.py", "from signal import SIGKILL\n"),
]


@pytest.mark.parametrize(("rule", "path", "text"), PLANTED)
def test_the_rule_bites(rule: tidy.Rule, path: str, text: str) -> None:
    """A planted breach is found, exactly once."""
    assert len(list(rule(tidy.Source(path, text)))) == 1


ALLOWED: list[tuple[tidy.Rule, str, str]] = [
    (tidy.no_print, "agent/cli/x.py", "print('for a person')\n"),
    (tidy.clock_in_its_room, "tape/clock.py", "import random, time\ntime.sleep(random.random())\n"),
    (tidy.clock_in_its_room, "agent/x.py", "async def f():\n    await asyncio.sleep(0)\n"),
    (tidy.clock_in_its_room, "tests/x.py", "import random, time\nbegan = time.time()\n"),
    (tidy.text_has_an_encoding, "tape/x.py", "open('f', 'rb'); path.open('wb'); gzip.open(f)\n"),
    (tidy.text_has_an_encoding, "tape/x.py", "open('f', 'w', encoding='utf-8', newline='')\n"),
    (tidy.silences_have_reasons, "tape/x.py", "x = f()  # no" + "qa: S311 - spreads retries, guards nothing\n"),
    (tidy.signs_on_doors, "agent/x.py", '"""Sign."""\nclass _P:\n    def m(self): ...\n'),
]


@pytest.mark.parametrize(("rule", "path", "text"), ALLOWED)
def test_the_rule_lets_pass_what_it_should(rule: tidy.Rule, path: str, text: str) -> None:
    """What looks like a breach but is none raises no complaint."""
    assert list(rule(tidy.Source(path, text))) == []


def test_rooms_with_leave_exist_and_need_it() -> None:
    """A room that is allowed what others are not is still there and still makes use of it."""
    unlisted = {rule: rooms for rule, rooms in _LEAVE.items() if rooms}
    for rule, rooms in unlisted.items():
        for room in rooms:
            source = tidy.Source("tape/elsewhere.py", (PROJECT / room).read_bytes().decode("utf-8"))
            assert list(rule(source)), f"{room} needs no leave from {rule.__name__} any more"


_LEAVE: dict[tidy.Rule, dict[str, str]] = {
    tidy.clock_in_its_room: tidy.CLOCK_ROOMS,
    tidy.posix_in_its_rooms: tidy.POSIX_ROOMS,
}


def test_no_big_files() -> None:
    """Recorded data and build products stay out; the pinned sets with their hashes are the only long files."""
    big = {
        path.relative_to(PROJECT).as_posix(): path.stat().st_size
        for path in project_files()
        if path.stat().st_size > tidy.MAX_FILE_BYTES
    }
    assert set(big) <= {"constraints.txt", "requirements.txt"}, big


def test_packages_listed_are_the_packages_there_are() -> None:
    """pyproject.toml lists exactly the packages that the tree holds."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    there = {
        path.parent.relative_to(PROJECT).as_posix().replace("/", ".")
        for room in tidy.PRODUCT
        for path in (PROJECT / room).rglob("__init__.py")
    }
    assert set(project["tool"]["setuptools"]["packages"]) == there


@pytest.mark.parametrize("name", ["constraints.txt", "requirements.txt"])
def test_pinned_sets_hold_names_versions_hashes_and_markers_only(name: str) -> None:
    """A pinned set names no host, no path and no option, and pins every package with a hash."""
    text = (PROJECT / name).read_text(encoding="utf-8")
    pinned = [line for line in text.splitlines() if not line.startswith("    --hash=sha256:")]
    assert pinned
    for line in pinned:
        assert "==" in line, line
        assert not {"/", "@"} & set(line), line
        assert line.endswith("\\"), f"no hash: {line}"


def test_what_running_needs_is_pinned_as_in_work() -> None:
    """requirements.txt is part of constraints.txt, to the last hash, and holds no tool of the workshop."""

    def blocks(name: str) -> set[str]:
        text = (PROJECT / name).read_text(encoding="utf-8")
        return {block.strip() for block in re.split(r"^(?=\S)", text, flags=re.MULTILINE) if block}

    assert blocks("requirements.txt") < blocks("constraints.txt")
    assert not [b for b in blocks("requirements.txt") if b.startswith(("pytest", "mypy", "ruff"))]


def test_every_dependency_is_pinned() -> None:
    """What pyproject.toml asks for stands in the pinned sets: neither lags behind."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name, wanted in {
        "requirements.txt": project["dependencies"],
        "constraints.txt": project["dependencies"] + project["optional-dependencies"]["dev"],
    }.items():
        text = (PROJECT / name).read_text(encoding="utf-8")
        there = set(re.findall(r"^([\w.-]+)==", text, flags=re.MULTILINE))
        assert {re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in wanted} <= there
