"""What a command asks of the running service, and how it is answered."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from receiver.requests import FOLDER, LATER, Requests
from tape.clock import ManualClock
from tape.errors import TargetAbsent


@pytest.fixture
def clock() -> ManualClock:
    """Time that passes when told to."""
    return ManualClock()


@pytest.fixture
def requests(tmp_path: Path, clock: ManualClock) -> Requests:
    """Both sides of one state folder."""
    return Requests(tmp_path, clock=clock)


def test_a_request_is_acted_on_once_and_answered(requests: Requests) -> None:
    """What was asked arrives as it was, in the order of asking, and its answer is given once."""
    seen: list[tuple[str, Mapping[str, Any]]] = []

    def act(kind: str, about: Mapping[str, Any]) -> Mapping[str, Any]:
        seen.append((kind, about))
        return {"number": len(seen)}

    names = [requests.ask("eject", target=f"usb{number}") for number in range(3)]
    assert [requests.answer(name) for name in names] == [None] * 3
    assert requests.take(act) == 3
    assert requests.take(act) == 0
    assert seen == [("eject", {"target": f"usb{number}"}) for number in range(3)]
    assert [requests.answer(name) for name in names] == [{"number": number} for number in (1, 2, 3)]
    assert requests.answer(names[0]) is None


def test_an_error_reaches_the_one_who_asked(requests: Requests) -> None:
    """It is raised there as what it was, with its hint and exit code."""

    def act(kind: str, about: Mapping[str, Any]) -> Mapping[str, Any]:
        raise TargetAbsent("away", hint="plug it in")

    name = requests.ask("eject", target="usb1")
    requests.take(act)
    with pytest.raises(TargetAbsent, match="away") as error:
        requests.answer(name)
    assert (error.value.hint, error.value.exit_code) == ("plug it in", 69)


def test_what_can_not_be_done_yet_stays(requests: Requests) -> None:
    """A request that has to wait is taken again, until it was done."""
    answers: list[Mapping[str, Any] | None] = [LATER, LATER, {"done": True}]
    name = requests.ask("retire", target="x")
    for expected in (0, 0, 1):
        assert requests.take(lambda *_: answers.pop(0)) == expected
    assert requests.answer(name) == {"done": True}


def test_what_nobody_waits_for_is_not_done(requests: Requests, clock: ManualClock, tmp_path: Path) -> None:
    """A request that was withdrawn, or that lay there for long, is not acted on; an old answer goes, too."""

    def act(kind: str, about: Mapping[str, Any]) -> Mapping[str, Any]:
        return {}

    assert requests.withdraw(requests.ask("eject", target="a"))
    assert requests.take(act) == 0
    name = requests.ask("eject", target="b")
    assert requests.take(act) == 1
    assert not requests.withdraw(name)
    requests.ask("eject", target="c")
    clock.advance(3600)
    assert requests.take(act) == 0
    assert list((tmp_path / FOLDER).iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", json.dumps({"kind": "x"}).encode()])
def test_what_is_no_request_is_answered_and_gone(requests: Requests, tmp_path: Path, data: bytes) -> None:
    """A file that can't be read as a request is not taken for ever."""
    name = requests.ask("x")
    (tmp_path / FOLDER / f"{name}.request").write_bytes(data)
    requests.take(lambda *_: {})
    with pytest.raises(Exception, match="can't be read"):
        requests.answer(name)
    assert requests.take(lambda *_: {}) == 0


def test_no_requests_no_folder(requests: Requests, tmp_path: Path) -> None:
    """Looking makes nothing."""
    assert requests.take(lambda *_: {}) == 0
    assert list(tmp_path.iterdir()) == []
