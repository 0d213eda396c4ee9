"""What a comparison says of each segment, beside a plain model of both sides."""

from hypothesis import given
from hypothesis import strategies as st

from agent.model import State
from agent.resync_rules import Fate, Known, Plan, Row, Told, Verdict, judge
from tape.inventory import BLOCK, node_of
from tape.receipt import to_ranges

A, B = b"\0" * 16, b"\1" * 16
EPOCH = "e" * 16


def known(made: dict[int, bytes], rows: dict[int, State], *, next_seq: int | None = None, block: int = 0) -> Known:
    """A block in which `made` was made and the rows of these states are left."""
    left = {seq: Row(seq, made[seq], state, 100) for seq, state in rows.items()}
    following = max(made, default=-1) + 1 if next_seq is None else next_seq
    return Known(block, tuple(sorted(made)), node_of(made.items()), left, following)


ROWS = {State.SEALED: Fate.WAITING, State.HELD: Fate.MISSING, State.SAFE: Fate.MISSING, State.RELEASED: Fate.GONE,
        State.REFUSED: Fate.REFUSED, State.LOST: Fate.GONE}  # fmt: skip


@given(
    st.dictionaries(
        st.integers(0, BLOCK - 1), st.tuples(st.sampled_from(list(State)), st.sampled_from([None, A, B])), max_size=20
    )
)
def test_every_row_has_its_fate(segments: dict[int, tuple[State, bytes | None]]) -> None:
    """In every state, held, lacking or wrong at home: exactly those are named that are not as they were made."""
    made = known(dict.fromkeys(segments, A), {seq: state for seq, (state, _) in segments.items()})
    there = {seq: digest for seq, (_, digest) in segments.items() if digest is not None}
    expected = {
        seq: ROWS[state] if digest is None else Fate.WRONG for seq, (state, digest) in segments.items() if digest != A
    }
    assert {one.seq: one.fate for one in judge(made, there)} == expected


@given(st.sets(st.integers(0, BLOCK - 1), min_size=1), st.data())
def test_compacted_segments_are_told_by_number_alone(seqs: set[int], data: st.DataObject) -> None:
    """Of rows that are gone: all there and as made is level, each missing one is named, a wrong one is noticed."""
    gone = data.draw(st.sets(st.sampled_from(sorted(seqs))))
    wrong = data.draw(st.sets(st.sampled_from(sorted(seqs))))
    left = data.draw(st.sets(st.sampled_from(sorted(seqs))))
    made = known(dict.fromkeys(seqs, A), dict.fromkeys(left, State.HELD))
    there = {seq: B if seq in wrong else A for seq in seqs - gone}
    found = list(judge(made, there))
    assert {one.seq for one in found if one.fate is Fate.GONE} == gone - left
    assert {one.seq for one in found if one.fate is Fate.MISSING} == gone & left
    assert {one.seq for one in found if one.fate is Fate.WRONG and not one.among} == (wrong & left) - gone
    folded, suspects = seqs - left, [one for one in found if one.among]
    assert bool(suspects) == bool(folded and not (folded & gone) and folded & wrong)
    assert all(set(one.among) == folded for one in suspects)


def test_foreign_is_what_was_never_made() -> None:
    """Numbers beyond the last one made, in the own epoch only: a number below it was made and forgotten."""
    there = dict.fromkeys([3, 7, 8, 9], A)
    found = list(judge(known({7: A}, {7: State.HELD}, next_seq=8), there))
    assert [(one.fate, one.seq) for one in found] == [(Fate.FOREIGN, 8), (Fate.FOREIGN, 9)]
    elsewhere = Known(0, (7,), node_of([(7, A)]), {7: Row(1, A, State.HELD, 1)}, None)
    assert list(judge(elsewhere, there)) == []


def test_what_moved_meanwhile_is_not_judged() -> None:
    """A row that changed while the sides were compared is left for another time."""
    made = known({1: A, 2: A}, {1: State.HELD, 2: State.HELD})
    assert [one.seq for one in judge(made, {}, skip=lambda row: row.id == 1)] == [2]


@given(st.sets(st.integers(0, 3 * BLOCK)))
def test_a_receipt_tells_the_numbers_of_a_block(held: set[int]) -> None:
    """Ranges of a receipt, asked block by block, give back every number and none else."""
    told = Told(to_ranges(sorted(held)))
    found = [seq for block in range(4) for seq in told.of(block)]
    assert found == sorted(held)
    assert told.last_block == (max(held) // BLOCK if held else -1)
    made = known(dict.fromkeys(range(BLOCK), A), {})
    missing = {one.seq for one in judge(made, told.of(0))}
    assert missing == set(range(BLOCK)) - held


def test_a_plan_sums_up() -> None:
    """Segments, bytes and ranges of each fate, and the exit code by the gravest of them."""
    plan = Plan()
    row = Row(1, A, State.HELD, 50)
    plan.add("a", EPOCH, [])
    assert plan.exit_code == 0
    plan.add("a", EPOCH, [Verdict(Fate.MISSING, seq, row) for seq in (4, 5, 6, 9)])
    assert plan.exit_code == 1
    assert plan.total(Fate.MISSING) == (4, 200)
    assert plan.streams["a"].counts[Fate.MISSING].ranges == {EPOCH: [(4, 6), (9, 9)]}
    for fate in (Fate.GONE, Fate.WRONG, Fate.FOREIGN, Fate.REFUSED):
        worse = Plan()
        worse.add("b", EPOCH, [Verdict(fate, 1)])
        assert worse.exit_code == 2
        assert not worse.to_plain(ranges=False)["level"]
