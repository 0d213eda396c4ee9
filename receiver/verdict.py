"""The rules an upload is judged by: plain facts in, an outcome out. No I/O, no clock.

`ARRIVAL` needs only what arrived and what the catalog knows; `CONTENT` also what the inspection of the
file found. The first rule that applies decides; if none does, the segment is accepted. Each rule says
why it stands where it does. Segments may arrive in any order: a neighbour that is not held contradicts
nothing, and the link to it is checked when both are known (`breaks`).
"""

from collections.abc import Callable
from dataclasses import dataclass

from receiver.model import Answer, Outcome
from tape.digest import genesis, link
from tape.footer import LATEST_NS, Footer
from tape.names import SUFFIX, SegmentName, utc_day
from tape.settings import show_size

MAX_TEXT = 4096
_LARGEST_FILE = 1 << 50


@dataclass(frozen=True, slots=True)
class Limits:
    """What a segment may cost: counts and bytes (see LimitSettings)."""

    max_columns: int
    max_rows: int
    max_decoded: int


@dataclass(frozen=True, slots=True)
class Inspected:
    """What a look at a file's end found. `problem`: why it can't be read ("" if it can; the rest holds only then).

    `unopened`: why this machine could not open it, which says nothing about the file.
    `rows`, `columns`, `decoded` (bytes) as the Parquet metadata states them; `first`: name and physical type of the
    first column; `footer`: ours, None if it can't be read.
    """

    problem: str = ""
    rows: int = 0
    columns: int = 0
    decoded: int = 0
    first: tuple[str, str] = ("", "")
    footer: Footer | None = None
    unopened: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """A segment's place in its chain: what it says was before it, and its SHA-256 ("" while not known)."""

    seq: int
    previous: str
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """What is held around an upload's identity. `digest`: of the segment held under the same identity, "" if none.

    `wanted`: that one was lost here and has been asked for again. `before`, `after`: the neighbours by seq.
    `overlap`: seq and epoch of a held segment that covers some of the same bytes of the same file, "" if none.
    """

    digest: str = ""
    wanted: bool = False
    before: Link | None = None
    after: Link | None = None
    overlap: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a verdict rests on. `digest`: XXH3-128 of the bytes as they lie here; `size` in bytes.

    `quota_left`: bytes this agent may still store, None for no limit.
    """

    agent: str
    stream: str
    name: SegmentName
    digest: str
    size: int
    known: Known
    limits: Limits
    inspected: Inspected | None = None
    quota_left: int | None = None

    @property
    def footer(self) -> Footer:
        """Our footer; only where the rules before have made sure that there is one."""
        assert self.inspected is not None
        assert self.inspected.footer is not None
        return self.inspected.footer

    @property
    def seen(self) -> Inspected:
        """The inspection; only for rules of CONTENT."""
        assert self.inspected is not None
        return self.inspected


@dataclass(frozen=True, slots=True)
class Rule:
    """When `check` gives a reason, the answer is `answer`. `why`: why this rule is needed, and needed here."""

    name: str
    answer: Answer
    check: Callable[[Facts], str]
    why: str


def judge_arrival(facts: Facts) -> Outcome | None:
    """The outcome where the bytes need not be looked into; None: inspect, then `judge_content`."""
    return _first(ARRIVAL, facts)


def judge_content(facts: Facts) -> Outcome:
    """The outcome of an inspected upload that `judge_arrival` let pass."""
    return _first(CONTENT, facts) or Outcome(Answer.ACCEPTED)


def _first(rules: tuple[Rule, ...], facts: Facts) -> Outcome | None:
    for rule in rules:
        reason = rule.check(facts)
        if reason:
            return Outcome(rule.answer, "" if rule.answer is Answer.DUPLICATE else reason)
    return None


def _damaged(facts: Facts) -> str:
    if facts.digest == facts.name.digest:
        return ""
    return f"arrived damaged: the bytes have digest {facts.digest}, the name says {facts.name.digest}"


def _duplicate(facts: Facts) -> str:
    return "held already" if facts.known.digest == facts.name.digest and not facts.known.wanted else ""


def _conflict(facts: Facts) -> str:
    if facts.known.digest in ("", facts.name.digest):
        return ""
    return (
        f"segment {facts.name.seq} of epoch {facts.name.epoch} is held with digest {facts.known.digest}; "
        f"other bytes under the same identity, digest {facts.name.digest}, are never taken"
    )


def _suffix(facts: Facts) -> str:
    if facts.name.suffix == SUFFIX:
        return ""
    return f"files of kind .{facts.name.suffix} are not taken by this version, only .{SUFFIX}"


def _quota(facts: Facts) -> str:
    if facts.quota_left is None or facts.size <= facts.quota_left:
        return ""
    return (
        f"the quota of agent {facts.agent} is used up: {max(facts.quota_left, 0)} bytes are left, "
        f"{facts.size} are needed; raise quota_bytes in receiver.toml"
    )


def _unopened(facts: Facts) -> str:
    return facts.seen.unopened


def _unreadable(facts: Facts) -> str:
    return facts.seen.problem


def _no_footer(facts: Facts) -> str:
    return "" if facts.seen.footer is not None else "no hometape footer in the Parquet metadata"


def _foreign(facts: Facts) -> str:
    footer = facts.footer
    delivered = (facts.agent, facts.stream, facts.name.epoch, facts.name.seq)
    claimed = (footer.agent, footer.stream, footer.epoch, footer.seq)
    if claimed == delivered:
        return ""
    return "delivered as {}/{} {}-{}, but its footer says {}/{} {}-{}".format(*delivered, *claimed)


def _malformed(facts: Facts) -> str:
    footer = facts.footer
    source, clock = footer.source, footer.clock
    texts: tuple[object, ...] = (
        footer.schema,
        footer.agent_version,
        footer.kind,
        source.kind,
        source.file,
        source.head.xxh3,
    )
    flags: tuple[object, ...] = (source.final, False if clock.synchronised is None else clock.synchronised)
    numbers: tuple[object, ...] = (
        footer.sealed_ns,
        0 if footer.recv_first_ns is None else footer.recv_first_ns,
        0 if footer.recv_last_ns is None else footer.recv_last_ns,
        0 if clock.max_error_us is None else clock.max_error_us,
    )
    layout: object = footer.layout
    good = (
        all(map(_is_text, texts))
        and all(map(_is_flag, flags))
        and all(map(_is_time, numbers))
        and isinstance(layout, dict)
        and source.end <= _LARGEST_FILE
    )
    return "" if good else "its footer holds a field of the wrong type or out of range"


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_time(value: object) -> bool:
    return type(value) is int and 0 <= value < LATEST_NS


def _kind(facts: Facts) -> str:
    return (
        "" if facts.footer.kind == "rows" else f"segments of kind {facts.footer.kind!r} are not taken by this version"
    )


def _rows(facts: Facts) -> str:
    if facts.seen.rows == facts.footer.rows:
        return ""
    return f"its footer says {facts.footer.rows} rows, the Parquet file has {facts.seen.rows}"


def _schema(facts: Facts) -> str:
    if facts.seen.first == ("ts_recv", "INT64"):
        return ""
    name, kind = facts.seen.first
    return f"the first column must be ts_recv (INT64), not {name[:80]!r} ({kind or 'none'})"


def _too_large(facts: Facts) -> str:
    seen, limits = facts.seen, facts.limits
    if seen.columns > limits.max_columns:
        return f"{seen.columns} columns are more than limits.max_columns = {limits.max_columns}"
    if seen.rows > limits.max_rows:
        return f"{seen.rows} rows are more than limits.max_rows = {limits.max_rows}"
    if seen.decoded > limits.max_decoded:
        return f"{seen.decoded} bytes decoded are more than limits.max_decoded = {show_size(limits.max_decoded)}"
    return ""


def _day(facts: Facts) -> str:
    footer = facts.footer
    received = [ns for ns in (footer.recv_first_ns, footer.recv_last_ns) if ns is not None] or [footer.sealed_ns]
    if footer.day in {utc_day(ns) for ns in received}:
        return ""
    return f"its footer says day {footer.day}, but its rows were received on {utc_day(received[0])} (UTC)"


def _chain(facts: Facts) -> str:
    footer, known = facts.footer, facts.known
    if footer.seq == 0 and footer.previous != genesis(facts.agent, facts.stream, footer.epoch):
        return "its chain does not start at its stream and epoch"
    before = known.before
    if before is None or not before.sha256 or footer.previous == _after(facts, before):
        return ""
    return f"its chain does not follow segment {before.seq} as it is held"


def _overlap(facts: Facts) -> str:
    if not facts.known.overlap:
        return ""
    return f"some of its source bytes are held already in segment {facts.known.overlap}: ticks would be there twice"


def _after(facts: Facts, segment: Link) -> str:
    return link(segment.previous, facts.agent, facts.stream, facts.name.epoch, segment.seq, segment.sha256)


ARRIVAL: tuple[Rule, ...] = (
    Rule(
        "damaged",
        Answer.RESEND,
        _damaged,
        "first: of damaged bytes nothing else can be said, and a fresh copy is one upload away",
    ),
    Rule(
        "duplicate",
        Answer.DUPLICATE,
        _duplicate,
        "before any look inside: these very bytes were judged when they came first, and a resend must be OK at once",
    ),
    Rule(
        "conflict",
        Answer.CONFLICT,
        _conflict,
        "before any look inside: whatever these bytes are, they may never take the place of what is held",
    ),
    Rule("suffix", Answer.QUARANTINED, _suffix, "before inspecting: only Parquet can be inspected"),
    Rule(
        "quota",
        Answer.RESEND,
        _quota,
        "nothing is wrong with it: the agent keeps it and may send it again; duplicates, above, cost nothing",
    ),
)

CONTENT: tuple[Rule, ...] = (
    Rule("unopened", Answer.RESEND, _unopened, "first: a fault of this machine must not be held against the file"),
    Rule("unreadable", Answer.QUARANTINED, _unreadable, "before the others: they rest on what was read"),
    Rule(
        "too large",
        Answer.QUARANTINED,
        _too_large,
        "before anything that believes the file: a bomb must not be kept where readers decode it",
    ),
    Rule("no footer", Answer.QUARANTINED, _no_footer, "a Parquet file that no agent sealed"),
    Rule("malformed", Answer.QUARANTINED, _malformed, "before the fields are compared or stored"),
    Rule(
        "foreign",
        Answer.QUARANTINED,
        _foreign,
        "an agent may deliver only its own segments, each where its footer says: the catalog is rebuilt from footers",
    ),
    Rule("kind", Answer.QUARANTINED, _kind, "the rules below are those of rows"),
    Rule("schema", Answer.QUARANTINED, _schema, "readers of an archive rely on ts_recv"),
    Rule("rows", Answer.QUARANTINED, _rows, "a file whose two footers disagree lost or gained rows"),
    Rule("day", Answer.QUARANTINED, _day, "its folder is named by it, and a time range finds it by its folder"),
    Rule("chain", Answer.QUARANTINED, _chain, "it claims to follow bytes other than those that stand before it"),
    Rule("overlap", Answer.QUARANTINED, _overlap, "each tick is there once: byte ranges of one file never overlap"),
)


def breaks(
    agent: str, stream: str, epoch: str, mine: Link, *, before: Link | None, after: Link | None
) -> tuple[tuple[int, str], ...]:
    """What contradicts what around a segment whose SHA-256 is known: (blamed seq, reason) each.

    `before` and `after` are its neighbours (seq - 1, seq + 1) if they are held. The one whose `previous`
    contradicts is blamed: it claims to follow bytes that are not what stands before it.
    """

    def value(segment: Link) -> str:
        return link(segment.previous, agent, stream, epoch, segment.seq, segment.sha256)

    found = []
    if mine.seq == 0 and mine.previous != genesis(agent, stream, epoch):
        found.append((0, "chain does not start at its stream and epoch"))
    if before is not None and before.sha256 and mine.previous != value(before):
        found.append((mine.seq, f"chain does not follow segment {before.seq} as it is held"))
    if after is not None and after.previous != value(mine):
        found.append((after.seq, f"chain does not follow segment {mine.seq} as it is held"))
    return tuple(found)
