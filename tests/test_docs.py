"""The pages under test: links lead somewhere, commands exist, codes and decisions are all listed."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tape import console, errors
from tests.support.needs import PROJECT

PAGES = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md")])


def page(name: str) -> str:
    """A page's text."""
    return (PROJECT / name).read_text(encoding="utf-8")


def name_of(path: Path) -> str:
    """A page as its test is called."""
    return path.relative_to(PROJECT).as_posix()


def anchors(text: str) -> set[str]:
    """The headings of a page as links name them."""
    found = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_within_the_project_lead_somewhere(path: Path) -> None:
    """Every relative link of a page names a file that is there, and a heading that it has."""
    text = path.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, heading = link.partition("#")
        there = (path.parent / target).resolve() if target else path
        assert there.exists(), f"{link} leads nowhere"
        if heading:
            assert heading in anchors(there.read_text(encoding="utf-8")), f"{link}: no such heading"


def test_the_index_lists_every_page() -> None:
    """docs/index.md leads to each page of the folder."""
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", page("docs/index.md")))
    assert listed == {path.name for path in (PROJECT / "docs").glob("*.md")} - {"index.md"}


def test_decisions_are_numbered_listed_and_whole() -> None:
    """Each decision has the next number, its line in the list, and its three paragraphs."""
    folder = PROJECT / "docs" / "decisions"
    listed = page("docs/decisions/README.md")
    files = sorted(folder.glob("[0-9]*.md"))
    assert [int(path.name[:4]) for path in files] == list(range(1, len(files) + 1))
    for path in files:
        text = path.read_text(encoding="utf-8")
        title = re.match(rf"# {int(path.name[:4])}\. (.+)\n", text)
        assert title, f"{path.name} starts with another title than its number"
        assert f"[{title[1]}]({path.name})" in listed, f"{path.name} is not listed as `{title[1]}`"
        for part in ("Context", "Decision", "Consequence"):
            assert f"**{part}" in text, f"{path.name} lacks the paragraph {part}"


def codes_table() -> str:
    """The table of exit codes as the page must show it."""
    rows = [f"| {code} | {meaning} |" for code, meaning in console.MEANINGS.items()]
    return "\n".join(["| code | meaning |", "|---|---|", *rows]) + "\n"


def tree_of_errors() -> list[type[errors.HometapeError]]:
    """Every error of tape/errors.py, in the order of their definition."""
    return [kind for kind in errors.every() if kind.__module__ == errors.__name__]


def errors_table() -> str:
    """The table of errors as the page must show it."""
    rows = []
    for kind in tree_of_errors():
        meaning = " ".join((kind.__doc__ or "").split())
        again = "yes" if kind.retryable else "no"
        rows.append(f"| `{kind.code}` | {kind.exit_code} | {again} | {meaning} |")
    return (
        "\n".join(["| error | exit code | may succeed later by itself | meaning |", "|---|---|---|---|", *rows]) + "\n"
    )


def test_exit_codes_are_all_documented() -> None:
    """The page's tables are those of the code: no code and no error is missing, none has another meaning."""
    text = page("docs/exit-codes.md")
    for table in (codes_table(), errors_table()):
        assert table in text, f"docs/exit-codes.md must hold this table:\n\n{table}"


def test_errors_have_codes_of_their_own_that_the_table_explains() -> None:
    """No two errors share a code, and every exit code that an error leaves with has a meaning."""
    codes = [kind.code for kind in tree_of_errors()]
    assert sorted(codes) == sorted(set(codes))
    assert {kind.exit_code for kind in tree_of_errors()} <= set(console.MEANINGS)


def test_no_error_grows_outside_the_tree() -> None:
    """Every error that has a code is defined in tape/errors.py; private shades of one may live where they are used."""
    for app in apps().values():  # what the commands import is all there is
        assert app.info.name
    strays = {kind for kind in set(errors.every()) - set(tree_of_errors()) if "code" in vars(kind)}
    assert not strays


def shown_lines() -> Iterator[tuple[str, list[str]]]:
    """Each line of a page's code blocks as a shell would take it apart, with the page's name."""
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for block in re.findall(r"```(?:sh|console|powershell|bash)\n(.*?)```", text, flags=re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                yield name_of(path), shlex.split(line.replace("\\", "/"), comments=True)


def shown_commands() -> Iterator[tuple[str, list[str]]]:
    """Each command of ours that a page shows: the page, and the words from the command on."""
    for where, words in shown_lines():
        names = [word.rsplit("/", 1)[-1] for word in words]
        for position, name in enumerate(names):
            starts = position == 0 or "/" in words[position] or words[position - 1] in {"--", "sudo", "|", "&&", ";"}
            if starts and name in {"tape-agent", "tape-receiver"}:
                rest = words[position + 1 :]
                end = next((i for i, word in enumerate(rest) if word in {"|", "&&", ";", "&"}), None)
                yield where, [name, *rest[:end]]
                break


def apps() -> dict[str, typer.Typer]:
    """Both commands as they are."""
    import agent.cli
    import receiver.cli

    return {"tape-agent": agent.cli.app, "tape-receiver": receiver.cli.app}


def test_commands_shown_exist_with_their_options() -> None:
    """Every command line of ours in a page can be typed: the subcommand exists and takes these options."""
    groups = {name: typer.main.get_command(app) for name, app in apps().items()}
    seen = 0
    for where, (name, *rest) in shown_commands():
        command, shown = groups[name], name
        while hasattr(command, "commands"):
            assert rest, f"{where}: {shown} without a subcommand"
            assert rest[0] in command.commands, f"{where}: {shown} has no subcommand {rest[0]}"
            command, shown, rest = command.commands[rest[0]], f"{shown} {rest[0]}", rest[1:]
        taken = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        for word in rest:
            if word.startswith("-") and not re.fullmatch(r"-\d+", word):
                assert word.split("=")[0] in taken, f"{where}: {shown} does not take {word}"
        seen += 1
    assert seen > 5


def test_no_command_is_described_in_half_a_sentence() -> None:
    """The lists of commands fit 80 columns: each first sentence is short enough to be shown whole."""
    for name, app in apps().items():
        for words in ([], ["disk"], ["remote"]) if name == "tape-receiver" else ([],):
            shown = CliRunner().invoke(app, [*words, "--help"], prog_name=name, terminal_width=80)
            assert "Commands:" in shown.output
            assert "..." not in shown.output.partition("Commands:")[2], shown.output


def test_the_promises_name_tests_that_exist() -> None:
    """Each test that docs/promises.md names is there under that very name."""
    text = (PROJECT / "docs" / "promises.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/.]+?)(?:::(\w+))?`", text)
    assert len(named) > 15
    for path, name in named:
        body = (PROJECT / path).read_text(encoding="utf-8")
        assert not name or f"def {name}(" in body, f"{path}::{name}"
