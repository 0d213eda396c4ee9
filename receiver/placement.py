"""Placement, pure: which copies the policy asks for, what to copy from where, who is behind and why.

Values in, decisions out: no I/O, no clock. `Where` is what a target declares, `Rule` what the policy
demands. A segment stands by the set of targets that hold a verified copy of it.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

from tape.receipt import Ranges


@dataclass(frozen=True, slots=True)
class Where:
    """A target as placement sees it: what it lives on, where it stands, whether it is the home archive."""

    id: str
    medium: str
    site: str
    home: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """How many verified copies, on how many different media, at how many sites. One copy must be at home."""

    copies: int = 2
    media: int = 1
    sites: int = 1


class Standing(StrEnum):
    """How a segment stands against the rule."""

    SATISFIED = "satisfied"
    DEGRADED = "degraded"  # more than one copy, but not all that is asked for
    AT_RISK = "at risk"  # one copy left, where the rule wants more
    UNPROVEN = "unproven"  # no verified copy yet, or none any more


@dataclass(frozen=True, slots=True)
class Judgement:
    """A standing, and each part of the rule that is not met, in words."""

    standing: Standing
    lacking: tuple[str, ...] = ()


def judge(rule: Rule, targets: Mapping[str, Where], copies: Collection[str]) -> Judgement:
    """How a segment with verified copies at these targets stands. Targets that are not configured don't count."""
    held = [targets[name] for name in copies if name in targets]
    lacking = tuple(_lacking(rule, held))
    if not lacking:
        return Judgement(Standing.SATISFIED)
    if not held:
        return Judgement(Standing.UNPROVEN, lacking)
    return Judgement(Standing.AT_RISK if len(held) == 1 < rule.copies else Standing.DEGRADED, lacking)


def _lacking(rule: Rule, held: Sequence[Where]) -> Iterator[str]:
    if len(held) < rule.copies:
        yield f"{len(held)} of {rule.copies} copies"
    if (media := len({where.medium for where in held})) < rule.media:
        yield f"{media} of {rule.media} media"
    if (sites := len({where.site for where in held})) < rule.sites:
        yield f"{sites} of {rule.sites} sites"
    if not any(where.home for where in held):
        yield "no copy at home"


def unsatisfiable(rule: Rule, targets: Iterable[Where]) -> tuple[str, ...]:
    """Why no segment could ever satisfy the rule with these targets; empty if one could."""
    return tuple(_lacking(rule, list(targets)))


def sweep(held: Ranges, layers: Mapping[str, Ranges]) -> Iterator[tuple[int, int, frozenset[str]]]:
    """Cut the held numbers where a layer begins or ends: (first, last, the layers they all lie in), ascending.

    Costs by the number of ranges, not of numbers. Neighbours may lie in the same layers.
    """
    steps: list[tuple[int, int, str]] = []
    for name, ranges in layers.items():
        for first, last in ranges:
            steps.append((first, 1, name))
            steps.append((last + 1, 0, name))
    steps.sort()
    inside: set[str] = set()
    names: frozenset[str] = frozenset()
    position = 0
    for first, last in held:
        here = first
        while position < len(steps) and steps[position][0] <= last:
            at = steps[position][0]
            if at > here:
                yield here, at - 1, names
                here = at
            while position < len(steps) and steps[position][0] == at:
                _, opens, name = steps[position]
                (inside.add if opens else inside.discard)(name)
                position += 1
            names = frozenset(inside)
        yield here, last, names


def partition(held: Ranges, layers: Mapping[str, Ranges]) -> Counter[frozenset[str]]:
    """How many of the held numbers lie in which of the layers: set of layer names -> count."""
    found: Counter[frozenset[str]] = Counter()
    for first, last, names in sweep(held, layers):
        found[names] += last - first + 1
    return found


def satisfying(rule: Rule, targets: Mapping[str, Where], held: Ranges, layers: Mapping[str, Ranges]) -> Ranges:
    """The held numbers that satisfy the rule by the targets they lie at; targets not configured don't count."""
    judged: dict[frozenset[str], bool] = {}
    found: list[tuple[int, int]] = []
    for first, last, names in sweep(held, layers):
        if names not in judged:
            judged[names] = judge(rule, targets, names).standing is Standing.SATISFIED
        if not judged[names]:
            continue
        if found and found[-1][1] + 1 == first:
            found[-1] = (found[-1][0], last)
        else:
            found.append((first, last))
    return tuple(found)


def sources_for(copies: Collection[str], targets: Iterable[Where], *, readable: Collection[str]) -> list[str]:
    """Where to read a segment from, best first: home, then a target at home's site, then the others by name."""
    known = [where for where in targets if where.id in copies and where.id in readable]
    site = next((where.site for where in targets if where.home), "")
    return [where.id for where in sorted(known, key=lambda w: (not w.home, w.site != site, w.id))]


class _Sized(Protocol):
    @property
    def size(self) -> int: ...


Item = TypeVar("Item", bound=_Sized)


def batches(items: Sequence[Item], *, files: int, size: int) -> Iterator[list[Item]]:
    """Cut a queue into batches of at most so many files and bytes, in order; a larger file goes alone."""
    batch: list[Item] = []
    total = 0
    for item in items:
        if batch and (len(batch) >= files or total + item.size > size):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += item.size
    if batch:
        yield batch


def backoff(failures: int, *, first: float = 1.0, most: float = 300.0) -> float:
    """Seconds to wait after so many failures in a row: doubling, bounded."""
    return float(min(most, first * 2.0 ** min(max(failures - 1, 0), 30)))


@dataclass(frozen=True, slots=True)
class Lag:
    """What is known of a target that lacks segments. Ages in seconds."""

    behind: int
    condition: str
    reason: str
    error: str = ""
    under_way: int = 0
    silent: float = 0.0


def why_behind(lag: Lag, *, patience: float = 60.0) -> str:
    """Why a target is behind, in words; empty if it is not."""
    if lag.behind <= 0:
        return ""
    if lag.condition != "ready":
        return lag.reason or lag.condition
    if lag.silent > patience:
        return f"has not answered for {lag.silent:.0f} s"
    if lag.error:
        return lag.error
    return "catching up" if lag.under_way else "waiting for its turn"
