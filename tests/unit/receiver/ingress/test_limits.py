"""Limits: who has to leave, whose connection goes, and what an agent may hold."""

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.ingress.limits import GRACE, UNFINISHED, Allowance, agent_to_shorten, to_leave, window_for


@dataclass
class At:
    """A caller as the rule sees it."""

    address: str
    since: float = 0.0
    progress: int = 0


def test_there_is_room() -> None:
    """Below both limits nobody leaves."""
    assert to_leave([At("a")] * 3, "a", 10, total=16) is None
    assert to_leave([At("a")] * 4, "b", 10, total=16) is None


def test_a_full_address_loses_its_own() -> None:
    """The share of one address is used up: one of its own leaves, the one that came least far."""
    idle, active, other = At("a", 1), At("a", 2, 2), At("b", 0)
    assert to_leave([other, active, idle, At("a", 3, 1), At("a", 4, 1)], "a", 100, total=16) is idle


def test_a_full_house_loses_of_the_address_that_holds_most() -> None:
    """A caller alone at its address is safe from those who are many."""
    alone = At("z", 0)
    many = [At("a", 1), At("a", 2), At("a", 3), At("b", 1), At("b", 2)]
    assert to_leave([alone, *many], "new", 100, total=6) is many[0]


def test_who_just_came_is_not_the_first_to_leave() -> None:
    """A fresh caller that has not said a word yet outlasts old ones that said something and stopped."""
    fresh, stale = At("a", 99.5), At("a", 1, 1)
    assert to_leave([stale, At("a", 2, 2), At("a", 3, 2), fresh], "a", 100, total=16) is stale
    assert to_leave([stale, At("a", 2, 2), At("a", 3, 2), fresh], "a", 100 + GRACE, total=16) is fresh


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 3)), max_size=40), st.sampled_from("abcdefz"))
def test_admitting_keeps_both_limits(callers: list[tuple[str, int]], last: str) -> None:
    """However callers come, neither limit is ever passed."""
    inside: list[At] = []
    for number, (address, progress) in enumerate([*callers, (last, 0)]):
        leaver = to_leave(inside, address, float(number), total=8, per_address=3)
        if leaver is not None:
            inside.remove(leaver)
        inside.append(At(address, float(number), progress))
        assert len(inside) <= 8
        assert max(Counter(at.address for at in inside).values()) <= 3


@pytest.mark.parametrize(
    ("connected", "newcomer", "loser"),
    [
        ({"a": 2}, "a", None),
        ({"a": 4}, "a", "a"),
        ({"a": 4}, "b", "a"),
        ({"a": 3, "b": 1}, "b", "a"),
        ({"a": 2, "b": 2}, "b", "b"),
        ({"a": 2, "b": 2}, "c", "a"),
        ({"a": 1, "b": 1, "c": 1, "d": 1}, "e", "e"),
    ],
)
def test_connections_are_shared_between_agents(connected: dict[str, int], newcomer: str, loser: str | None) -> None:
    """At four in all, who holds most gives one up; nobody is pushed below an equal share."""
    assert agent_to_shorten(Counter(connected), newcomer, total=4) == loser


def test_windows_of_many_sessions_stay_bounded() -> None:
    """Eight have the full one, later ones an eighth; never more than asked for."""
    mib = 1 << 20
    assert [window_for(n, 16 * mib) for n in (0, 7, 8, 63)] == [16 * mib, 16 * mib, 2 * mib, 2 * mib]
    assert window_for(20, 64 * mib) == 8 * mib
    assert window_for(20, mib) == mib


def test_bytes_are_counted_and_given_back() -> None:
    """One upload's limit, the sum of unfinished ones, and the quota over what is stored."""
    allowance = Allowance(max_sessions=1, max_upload=100, quota=0)
    assert allowance.begin(10**12) == "", "no quota: whatever is stored"
    assert allowance.take(100, 0) == ""
    assert allowance.take(1, 100).startswith("refused: ")
    for _ in range(UNFINISHED - 1):
        assert allowance.take(100, 0) == ""
    assert allowance.take(1, 0).startswith("resend: ")
    allowance.give_back(100)
    assert allowance.unfinished == (UNFINISHED - 1) * 100
    assert allowance.take(1, 0) == ""


def test_a_quota_counts_what_is_stored_and_what_is_coming() -> None:
    """It answers with `resend`: the agent keeps its segments until there is room."""
    allowance = Allowance(max_sessions=1, max_upload=1000, quota=100)
    assert allowance.begin(60) == ""
    assert allowance.take(40, 0) == ""
    assert allowance.take(1, 40).startswith("resend: ")
    assert allowance.begin(60).startswith("resend: ")
    allowance.give_back(40)
    assert allowance.begin(99) == ""
    assert allowance.begin(100).startswith("resend: ")


def test_sessions_are_counted() -> None:
    """In and out."""
    allowance = Allowance(max_sessions=2, max_upload=1, quota=0)
    assert [allowance.enter() for _ in range(3)] == [True, True, False]
    allowance.leave()
    assert allowance.enter()
