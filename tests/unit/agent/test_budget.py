"""Budgets: who is sealed early, and when sealing waits."""

from hypothesis import given
from hypothesis import strategies as st

from agent.budget import Load, Pause, Relief, may_seal, relieve


def test_the_largest_goes_first() -> None:
    """As many of the largest as are needed are sealed, no more."""
    loads = [Load("a", 10, 0, 0), Load("b", 50, 5, 0), Load("c", 20, 0, 25), Load("d", 0, 90, 0)]
    assert relieve(loads, 0) == []
    assert relieve(loads, 40) == [("b", Relief.SEAL)]
    assert relieve(loads, 60) == [("b", Relief.SEAL), ("c", Relief.SEAL)]


def test_unfinished_lines_are_cut_last() -> None:
    """An unfinished line is cut only where whole lines do not free enough."""
    loads = [Load("a", 10, 0, 0), Load("d", 0, 90, 0), Load("e", 5, 30, 0)]
    assert relieve(loads, 15) == [("a", Relief.SEAL), ("e", Relief.SEAL)]
    assert relieve(loads, 16) == [("a", Relief.SEAL), ("e", Relief.SEAL), ("d", Relief.CUT)]
    assert relieve(loads, 999) == [("a", Relief.SEAL), ("d", Relief.CUT), ("e", Relief.CUT)]


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100)), max_size=20),
    st.integers(-10, 3000),
)
def test_relief_frees_enough_or_everything(sizes: list[tuple[int, int, int]], excess: int) -> None:
    """What is chosen frees the excess, or all there is; nobody is chosen twice."""
    loads = {str(n): Load(str(n), whole, partial, kept) for n, (whole, partial, kept) in enumerate(sizes)}
    chosen = relieve(loads.values(), excess)
    assert len({key for key, _ in chosen}) == len(chosen)
    freed = sum(
        loads[key].whole + loads[key].kept + (loads[key].partial if relief is Relief.CUT else 0)
        for key, relief in chosen
    )
    total = sum(load.whole + load.kept + load.partial for load in loads.values())
    assert freed >= min(excess, total)


def test_when_sealing_waits() -> None:
    """A low disk counts before a full spool; limits are inclusive the careful way."""
    assert may_seal(spooled=99, max_bytes=100, free=50, keep_free=50) is Pause.NONE
    assert may_seal(spooled=100, max_bytes=100, free=50, keep_free=50) is Pause.SPOOL_FULL
    assert may_seal(spooled=100, max_bytes=100, free=49, keep_free=50) is Pause.DISK_LOW
