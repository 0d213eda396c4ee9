"""The policy of a configuration as rules of placement: which rule holds for a stream, and whether it ever can.

Pure. A segment satisfies a rule by the targets its verified copies lie at; targets that are not
configured any more don't count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from receiver.placement import Rule, Where, unsatisfiable
from receiver.settings import ReceiverSettings, TargetSettings
from tape.errors import ConfigError


@dataclass(frozen=True, slots=True)
class StreamRule:
    """What holds for the streams that `match`: the whole rule, and the one by which the server may free a segment.

    live_age: seconds without anything new after which it counts as silent; 0: never.
    """

    match: str
    rule: Rule
    release: Rule
    live_age: float


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a configuration. `streams`: the first that matches counts, the last one matches everything."""

    streams: tuple[StreamRule, ...]

    def rule(self, agent: str, stream: str) -> Rule:
        """What a stream's segments must satisfy."""
        return self.of(agent, stream).rule

    def release(self, agent: str, stream: str) -> Rule:
        """What a stream's segments must satisfy before the server may free them."""
        return self.of(agent, stream).release

    @property
    def standard(self) -> Rule:
        """What holds for streams without a rule of their own."""
        return self.streams[-1].rule

    def of(self, agent: str, stream: str) -> StreamRule:
        """The entry that holds for a stream."""
        name = f"{agent}/{stream}"
        return next(one for one in self.streams if fnmatchcase(name, one.match))


_EVERY = "*"


def rules_of(settings: ReceiverSettings) -> Rules:
    """The rules of a configuration."""
    policy = settings.policy
    standard = Rule(policy.copies, policy.media, policy.sites)
    found = [
        _stream_rule(
            one.match,
            Rule(
                standard.copies if one.copies is None else one.copies,
                standard.media if one.media is None else one.media,
                standard.sites if one.sites is None else one.sites,
            ),
            policy.release_after if one.release_after is None else one.release_after,
            settings.live_age if one.live_age is None else one.live_age,
        )
        for one in policy.stream
    ]
    return Rules((*found, _stream_rule(_EVERY, standard, policy.release_after, settings.live_age)))


def _stream_rule(match: str, rule: Rule, release_after: int | Literal["policy"], live_age: float) -> StreamRule:
    release = rule if release_after == "policy" else Rule(copies=min(release_after, rule.copies))
    return StreamRule(match, rule, release, live_age)


def where(target: TargetSettings) -> Where:
    """A configured target as placement sees it."""
    return Where(target.id, target.medium, target.site, target.home)


def wheres(settings: ReceiverSettings) -> dict[str, Where]:
    """Every configured target by its id."""
    return {target.id: where(target) for target in settings.target}


def check_policy(settings: ReceiverSettings) -> None:
    """Raises ConfigError, with every reason, if the configured targets can't satisfy the policy or one override."""
    places = list(wheres(settings).values())
    faults = []
    own = {one.match: one for one in settings.policy.stream}
    for one in rules_of(settings).streams:
        lacking = unsatisfiable(one.rule, places)
        if lacking:
            entry = "[policy]" if one.match == _EVERY and _EVERY not in own else f"[[policy.stream]] {one.match!r}"
            faults.append(f"{entry} can't be satisfied by the configured targets: {', '.join(lacking)}")
    if faults:
        raise ConfigError(
            "; ".join(faults), hint=f"configured: {_listed(places)}; add a target, or lower `policy` in receiver.toml"
        )


def _listed(places: Sequence[Where]) -> str:
    return ", ".join(f"{one.id} ({one.medium} at {one.site})" for one in places)
