"""The verdict's tables: each rule alone, each pair in its order, and the chain."""

import dataclasses
from collections.abc import Callable
from datetime import date

import pytest

from receiver.model import Answer, Outcome
from receiver.verdict import (
    ARRIVAL,
    CONTENT,
    Facts,
    Inspected,
    Known,
    Limits,
    Link,
    breaks,
    judge_arrival,
    judge_content,
)
from tape.digest import genesis, link
from tape.footer import ClockState, Footer
from tests.support.segments import DAY_NS, Maker

LIMITS = Limits(max_columns=10, max_rows=100, max_decoded=10_000)
REPLACE = dataclasses.replace


def good() -> Facts:
    """A first segment with nothing wrong."""
    made = Maker().make()
    seen = Inspected("", made.footer.rows, 2, 500, ("ts_recv", "INT64"), made.footer)
    name = made.path.name
    return Facts("box", "demo/ticks", name, name.digest, len(made.data), Known(), LIMITS, seen, None)


def footer(facts: Facts, **changes: object) -> Facts:
    """The same with other fields in the footer."""
    seen = facts.seen
    assert seen.footer is not None
    return REPLACE(facts, inspected=REPLACE(seen, footer=REPLACE(seen.footer, **changes)))


def seen(facts: Facts, **changes: object) -> Facts:
    """The same with another finding of the inspection."""
    return REPLACE(facts, inspected=REPLACE(facts.seen, **changes))


def known(facts: Facts, **changes: object) -> Facts:
    """The same with something else held."""
    return REPLACE(facts, known=REPLACE(facts.known, **changes))


# For each rule: what makes it apply, and a part of what it then says.
SPOILED: dict[str, tuple[Callable[[Facts], Facts], str]] = {
    "damaged": (lambda f: REPLACE(f, digest="0" * 32), "arrived damaged"),
    "duplicate": (lambda f: known(f, digest=f.name.digest), ""),
    "conflict": (lambda f: known(f, digest="1" * 32), "other bytes under the same identity"),
    "suffix": (lambda f: REPLACE(f, name=REPLACE(f.name, suffix="bin")), ".bin are not taken"),
    "quota": (lambda f: REPLACE(f, quota_left=f.size - 1), "raise quota_bytes"),
    "unopened": (lambda f: seen(f, unopened="the receiver can't open it"), "can't open it"),
    "unreadable": (lambda f: seen(f, problem="not a Parquet file"), "not a Parquet file"),
    "too large": (lambda f: seen(f, columns=11), "limits.max_columns = 10"),
    "no footer": (lambda f: seen(f, footer=None), "no hometape footer"),
    "malformed": (lambda f: footer(f, agent_version=["x"]), "wrong type"),
    "foreign": (lambda f: REPLACE(f, agent="other"), "but its footer says box/demo/ticks"),
    "kind": (lambda f: footer(f, kind="dump"), "kind 'dump'"),
    "schema": (lambda f: seen(f, first=("price", "DOUBLE")), "ts_recv"),
    "rows": (lambda f: seen(f, rows=f.seen.rows + 1), "says 3 rows, the Parquet file has 4"),
    "day": (lambda f: footer(f, day=date(2001, 1, 1)), "received on 2023-11-15"),
    "chain": (lambda f: footer(f, previous="ab" * 32), "does not start at its stream"),
    "overlap": (lambda f: known(f, overlap="x-1"), "held already in segment x-1"),
}
RULES = [*ARRIVAL, *CONTENT]


def judge(facts: Facts) -> Outcome:
    return judge_arrival(facts) or judge_content(facts)


def test_a_good_first_segment_is_accepted() -> None:
    """With nothing wrong, no rule applies."""
    assert judge(good()) == Outcome(Answer.ACCEPTED)


def test_every_rule_is_argued_and_has_a_case() -> None:
    """The table below covers the rules, all of them, and each says why it is there."""
    assert [rule.name for rule in RULES] == list(SPOILED)
    assert all(len(rule.why) > 20 for rule in RULES)


@pytest.mark.parametrize("name", list(SPOILED))
def test_each_rule_alone_gives_its_answer_and_reason(name: str) -> None:
    """One thing wrong: that rule's answer, with a reason an operator can act on."""
    spoil, text = SPOILED[name]
    rule = next(rule for rule in RULES if rule.name == name)
    outcome = judge(spoil(good()))
    assert outcome.answer is rule.answer
    assert text in outcome.reason
    assert bool(outcome.reason) == (rule.answer is not Answer.DUPLICATE)


def test_of_two_things_wrong_the_earlier_rule_decides() -> None:
    """For every pair of rules whose cases can be combined, the order of the table is the order of precedence."""
    tried = 0
    for first_at, first in enumerate(RULES):
        for second in RULES[first_at + 1 :]:
            try:
                both = SPOILED[second.name][0](SPOILED[first.name][0](good()))
            except AssertionError:  # the footer one needs is what the other took away
                continue
            if not first.check(both):  # the second's case undid the first's
                continue
            tried += 1
            assert judge(both).answer is first.answer, (first.name, second.name)
    assert tried > 90


def test_a_wanted_segment_is_taken_again_and_only_with_its_own_bytes() -> None:
    """What was lost here and asked for is not a duplicate; other bytes remain a conflict."""
    facts = known(good(), digest=good().name.digest, wanted=True)
    assert judge(facts).answer is Answer.ACCEPTED
    assert judge(known(facts, digest="1" * 32)).answer is Answer.CONFLICT


@pytest.mark.parametrize("order", ["before", "after"])
def test_out_of_order_arrival_is_accepted(order: str) -> None:
    """A segment whose neighbours are not held, or not attested yet, contradicts nothing."""
    maker = Maker()
    maker.make()
    made = maker.make()
    facts = REPLACE(good(), name=made.path.name, digest=made.path.name.digest)
    facts = seen(facts, footer=made.footer, rows=made.footer.rows)
    assert judge(facts).answer is Answer.ACCEPTED
    neighbour = Link(made.footer.seq + (1 if order == "after" else -1), "cd" * 32)
    assert judge(known(facts, **{order: neighbour})).answer is Answer.ACCEPTED


def test_a_chain_that_does_not_follow_an_attested_neighbour_is_quarantined() -> None:
    """Once the segment before is attested, what claims to follow other bytes is not taken."""
    maker = Maker()
    first, second = maker.many(2)
    facts = REPLACE(good(), name=second.path.name, digest=second.path.name.digest)
    facts = seen(facts, footer=second.footer)
    right = Link(0, first.footer.previous, first.sha256)
    assert judge(known(facts, before=right)).answer is Answer.ACCEPTED
    wrong = judge(known(facts, before=REPLACE(right, sha256="00" * 32)))
    assert wrong.answer is Answer.QUARANTINED
    assert "does not follow segment 0" in wrong.reason


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 101},
        {"decoded": 10_001},
    ],
)
def test_rows_and_decoded_size_have_limits(changes: dict[str, int]) -> None:
    """What the metadata claims beyond a limit is quarantined, with the key that sets it."""
    outcome = judge(seen(good(), **changes))
    assert outcome.answer is Answer.QUARANTINED
    assert "limits.max_" in outcome.reason


def malformed() -> list[dict[str, object]]:
    made = Maker().make().footer
    return [
        {"recv_first_ns": "now"},
        {"recv_last_ns": -1},
        {"recv_first_ns": True},
        {"recv_first_ns": ""},
        {"recv_last_ns": []},
        {"clock": ClockState(max_error_us={})},  # type: ignore[arg-type]  # what a hostile footer may hold
        {"source": REPLACE(made.source, end=(1 << 50) + 1)},
        {"schema": 5},
        {"layout": []},
        {"kind": None},
        {"clock": ClockState(synchronised="yes")},  # type: ignore[arg-type]  # what a hostile footer may hold
        {"clock": ClockState(max_error_us=-1)},
        {"source": REPLACE(made.source, final=1)},
        {"source": REPLACE(made.source, file="x" * 5000)},
    ]


@pytest.mark.parametrize("changes", malformed(), ids=str)
def test_fields_of_a_wrong_type_are_quarantined_not_stored(changes: dict[str, object]) -> None:
    """Nothing of the wrong type gets as far as the catalog or a comparison."""
    outcome = judge(footer(good(), **changes))
    assert outcome.answer is Answer.QUARANTINED
    assert "wrong type" in outcome.reason


@pytest.mark.parametrize(
    ("first", "last", "day", "fine"),
    [
        (0, 10, 0, True),
        (0, DAY_NS, 1, True),  # a clock that stepped over midnight while the segment was open
        (0, DAY_NS, 2, False),
        (None, None, 0, True),  # rows without receive times: the day of sealing
        (None, None, 1, False),
    ],
)
def test_the_day_is_one_on_which_its_rows_were_received(
    first: int | None, last: int | None, day: int, fine: bool
) -> None:
    """`date=` must be the UTC day of receipt; without receive times, that of sealing."""
    start = Maker().start_ns
    made = Maker().make().footer
    facts = footer(
        good(),
        recv_first_ns=None if first is None else start + first,
        recv_last_ns=None if last is None else start + last,
        day=date.fromordinal(made.day.toordinal() + day),
    )
    assert judge(facts).ok == fine


def _value(previous: str, seq: int, sha256: str) -> str:
    return link(previous, "a", "s", "e" * 16, seq, sha256)


@pytest.mark.parametrize("before_known", [True, False])
@pytest.mark.parametrize("before_right", [True, False])
@pytest.mark.parametrize("after_there", [True, False])
@pytest.mark.parametrize("after_right", [True, False])
def test_the_segment_whose_previous_contradicts_is_blamed(
    before_known: bool, before_right: bool, after_there: bool, after_right: bool
) -> None:
    """All combinations of neighbours: only an attested one can contradict, and the later of two is blamed."""
    before = Link(4, "11" * 32, "22" * 32 if before_known else "")
    true_previous = _value("11" * 32, 4, "22" * 32)
    mine = Link(5, true_previous if before_right else "33" * 32, "44" * 32)
    after = Link(6, _value(mine.previous, 5, mine.sha256) if after_right else "55" * 32)
    found = breaks("a", "s", "e" * 16, mine, before=before, after=after if after_there else None)
    blamed = [seq for seq, _ in found]
    assert blamed == [5] * (before_known and not before_right) + [6] * (after_there and not after_right)


def test_seq_0_must_start_at_genesis() -> None:
    """The first of an epoch follows the genesis of its own agent, stream and epoch, nothing else."""
    right = Link(0, genesis("a", "s", "e" * 16), "44" * 32)
    assert breaks("a", "s", "e" * 16, right, before=None, after=None) == ()
    assert [seq for seq, _ in breaks("a", "t", "e" * 16, right, before=None, after=None)] == [0]


def test_a_footer_is_required_before_it_is_read() -> None:
    """Rules that read the footer come after those that make sure there is one."""
    names = [rule.name for rule in CONTENT]
    assert names.index("unreadable") < names.index("no footer") < names.index("malformed") < names.index("foreign")
    assert isinstance(good().footer, Footer)
