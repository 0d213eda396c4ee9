"""What is sent next: pure rules with a clock that is moved by hand."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.jobs import FAILED_IN_A_ROW, LINKS_LOST, ONE_IN, Job, Queue
from agent.model import Spooled
from agent.settings import ReceiverSettings
from tape.bundle import MAX_ITEMS, overhead
from tape.clock import ManualClock
from tape.names import SegmentName


def segment(number: int, size: int, epoch: str = "0" * 16, *, again: bool = False) -> Spooled:
    """A segment on record."""
    name = SegmentName(epoch, number, f"{number:032x}")
    return Spooled(number, "demo/ticks", name, f"demo/ticks/{name}", size, "", "", 1, 0, again=again)


def queue(sizes: list[int], **more: Any) -> tuple[Queue, ManualClock]:
    """A queue that holds segments of these sizes, numbered from 0."""
    clock = ManualClock()
    made = Queue(ReceiverSettings(**{"retry_min": 1, "retry_max": 8, **more}), clock=clock)
    made.add([segment(number, size) for number, size in enumerate(sizes)])
    return made, clock


def drain(made: Queue) -> list[list[int]]:
    """The numbers of every job that can be taken."""
    jobs = []
    while (job := made.next()) is not None:
        jobs.append([item.id for item in job.items])
    return jobs


@given(
    st.lists(st.integers(1, 2000), max_size=60),
    st.integers(0, 1500),
    st.integers(1, 5000),
)
def test_every_segment_is_in_one_job_and_no_bundle_breaks_its_bounds(sizes: list[int], below: int, most: int) -> None:
    """Whatever the sizes and settings: nothing twice, nothing left, the oldest never waits for a younger one."""
    made, _ = queue(sizes, bundle_below=below, bundle_max=most)
    jobs = drain(made)
    assert sorted(number for job in jobs for number in job) == list(range(len(sizes)))
    seen: set[int] = set()
    for job in jobs:
        assert job == sorted(job)
        assert job[0] == min(set(range(len(sizes))) - seen)
        seen.update(job)
        if len(job) > 1:
            bundle = [segment(number, sizes[number]) for number in job]
            assert all(one.size < below for one in bundle)
            assert sum(one.size + overhead(one.stream, one.name) for one in bundle) <= most


def test_a_bundle_holds_what_its_format_allows() -> None:
    """Never more items than a bundle may hold, and only of one epoch."""
    made, _ = queue([1] * (MAX_ITEMS + 5))
    assert [len(job) for job in drain(made)] == [MAX_ITEMS, 5]
    made.add([segment(90_000, 5), segment(90_001, 5, "f" * 16), segment(90_002, 5)])
    jobs = drain(made)
    assert jobs == [[90_000, 90_002], [90_001]]


def take(made: Queue) -> Job:
    """The next job, which must be there."""
    job = made.next()
    assert job is not None
    return job


def test_what_failed_comes_later_and_later() -> None:
    """The pause of one segment doubles to its limit, and it is not asked for before its time."""
    made, clock = queue([900_000])
    waits = []
    for _ in range(6):
        job = take(made)
        made.worked()
        made.failed(job)
        assert set(made.excluded()) == {0}
        wait = made.wait()
        assert wait is not None
        waits.append(round(wait))
        clock.advance(wait - 0.1)
        assert not made.due()
        clock.advance(0.2)
        assert made.due()
        assert not made.excluded()
        made.add([segment(0, 900_000)])
    assert waits == [1, 2, 4, 8, 8, 8]
    made.done(take(made))
    assert not made.excluded()
    made.add([segment(0, 900_000)])
    made.failed(take(made))
    assert made.wait() == 1  # forgotten, once it was done


def test_a_time_that_comes_between_two_questions_is_not_lost() -> None:
    """The outbox is asked for two queues, one after the other: what becomes due meanwhile stays due, and is awaited."""
    made, clock = queue([900_000])
    made.failed(take(made))
    clock.advance(100)
    assert set(made.excluded()) == {0}
    assert made.wait() == 0.001
    assert made.due()
    assert (made.due(), set(made.excluded()), made.wait()) == (False, set(), None)


def test_in_a_pause_nothing_else_is_waited_for() -> None:
    """What is due meanwhile can't be sent: asking again and again for it would only burn the processor."""
    made, clock = queue([900_000] * 5, retry_max=1000)
    for job in [take(made) for _ in range(3)]:
        made.failed(job)
    clock.advance(1.1)
    made.failed(take(made))
    assert made.pausing
    assert made.wait() == 2
    clock.advance(1.5)
    assert made.wait() == 0.5


def test_failures_in_a_row_are_homes_fault() -> None:
    """After a few in a row there is a pause for all, which grows by rounds, not by segments; a success ends it."""
    made, clock = queue([900_000] * 40, retry_max=1000)
    jobs = [take(made) for _ in range(20)]
    for number, job in enumerate(jobs):
        assert made.troubled == (number >= FAILED_IN_A_ROW)
        made.failed(job)
    assert made.wait() == 1
    clock.advance(1.1)
    assert (made.troubled, made.pausing) == (True, False)
    made.failed(take(made))
    clock.advance(1.5)
    assert (made.troubled, made.pausing) == (True, True)
    clock.advance(0.6)
    assert (made.troubled, made.pausing) == (True, False)
    made.worked()
    assert (made.troubled, made.pausing) == (False, False)


def test_a_segment_that_always_breaks_the_link_gives_way() -> None:
    """A broken link is no reason to wait, but one and the same segment each time is; then it goes alone."""
    made, clock = queue([10, 10, 900_000])
    for count in range(1, LINKS_LOST + 1):
        job = take(made)
        assert [item.id for item in job.items] == [0, 1]
        made.link_lost(job)
        assert set(made.excluded()) == (set() if count < LINKS_LOST else {0, 1})
        if count < LINKS_LOST:
            made._ready.clear()
            made.add([segment(0, 10), segment(1, 10), segment(2, 900_000)])
    assert drain(made) == [[2]]
    clock.advance(5)
    assert made.due()
    made.add([segment(0, 10), segment(1, 10)])
    assert drain(made) == [[0], [1]]


def test_items_of_a_refused_bundle_go_alone_until_they_are_done() -> None:
    """Split once, they are not put together again; a later resend of one that was held may be."""
    made, _ = queue([10, 10, 10])
    job = take(made)
    made.one_by_one(job)
    assert not made.excluded()
    made.add(job.items)
    alone = [take(made) for _ in range(3)]
    assert [len(job.items) for job in alone] == [1, 1, 1]
    for job in alone:
        made.done(job)
    made.add([segment(0, 10), segment(1, 10)])
    assert drain(made) == [[0, 1]]


def test_a_job_names_itself() -> None:
    """For a log line: its first segment, and how many more."""
    made, _ = queue([10, 10, 10])
    assert str(take(made)).endswith("00.parquet and 2 more")


def test_what_home_held_once_travels_behind_and_still_gets_its_share() -> None:
    """While there is something new, one job in eight is an old one; afterwards all are; none when they may not."""
    made, _ = queue([1000] * 20, bundle_below=0)
    made.add([segment(number, 1000, again=True) for number in range(100, 110)])
    jobs = [made.next() for _ in range(16)]
    assert [n for n, job in enumerate(jobs) if job is not None and job.behind] == [ONE_IN - 1, 2 * ONE_IN - 1]
    left = [job.behind for job in iter(lambda: made.next(behind=False), None)]
    assert left == [False] * 6
    assert (made.empty, made.none_behind) == (True, False)
    assert drain(made) == [[number] for number in range(102, 110)]


def test_old_and_new_never_share_a_bundle() -> None:
    """So that each bundle travels at one pace."""
    made, _ = queue([10, 10], bundle_below=100, bundle_max=10_000)
    made.add([segment(number, 10, again=True) for number in (5, 6)])
    assert drain(made) == [[0, 1], [5, 6]]
