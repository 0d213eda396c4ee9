"""The policy of a configuration as rules: which holds for a stream, and what can never hold."""

from typing import Any

import pytest

from receiver.placement import Rule
from receiver.policy import check_policy, rules_of, wheres
from receiver.settings import ReceiverSettings
from tape.errors import ConfigError

HOME = {"id": "home", "path": "/h", "home": True}
NAS = {"id": "nas", "path": "/n", "medium": "nas"}
CLOUD = {"id": "cloud", "kind": "remote", "remote": "s3:x"}


def settings(policy: dict[str, Any], *targets: dict[str, Any]) -> ReceiverSettings:
    return ReceiverSettings.model_validate({"state": "/x", "policy": policy, "target": list(targets)})


def test_the_first_entry_that_fits_a_stream_counts() -> None:
    """Entries match AGENT/STREAM with any part wild, case counts, and what they leave out is the policy's."""
    rules = rules_of(
        settings(
            {
                "copies": 3,
                "media": 2,
                "release_after": 2,
                "stream": [
                    {"match": "*/btcusdt/*", "sites": 2},
                    {"match": "box/*", "copies": 1, "media": 1},
                    {"match": "box/BTC*", "copies": 9},
                ],
            },
            HOME,
        )
    )
    assert rules.rule("box", "binance/btcusdt/frames") == Rule(3, 2, 2)
    assert rules.rule("box", "binance/ethusdt") == Rule(1, 1, 1)
    assert rules.rule("other", "binance/ethusdt") == rules.standard == Rule(3, 2, 1)


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        ({"copies": 3, "media": 2, "sites": 2}, Rule(2)),
        ({"copies": 1, "release_after": 2}, Rule(1)),
        ({"copies": 3, "release_after": 1}, Rule(1)),
        ({"copies": 3, "media": 2, "sites": 2, "release_after": "policy"}, Rule(3, 2, 2)),
        ({"copies": 3, "release_after": 3, "stream": [{"match": "*", "copies": 2}]}, Rule(2)),
        ({"copies": 3, "stream": [{"match": "*", "media": 2, "release_after": "policy"}]}, Rule(3, 2, 1)),
        ({"copies": 3, "release_after": "policy", "stream": [{"match": "*", "release_after": 1}]}, Rule(1)),
    ],
)
def test_when_the_server_may_free_a_segment(policy: dict[str, Any], wanted: Rule) -> None:
    """After so many copies, never more than the rule asks for; or by the whole rule."""
    assert rules_of(settings(policy, HOME)).release("box", "a/b") == wanted


def test_targets_as_placement_sees_them() -> None:
    """Medium and site come from the configuration, with what the kind fills in."""
    places = wheres(settings({}, HOME, NAS, CLOUD))
    assert [(w.id, w.medium, w.site, w.home) for w in places.values()] == [
        ("home", "disk", "home", True),
        ("nas", "nas", "home", False),
        ("cloud", "cloud", "cloud", False),
    ]


@pytest.mark.parametrize(
    ("policy", "targets", "reason"),
    [
        ({}, [HOME], r"^\[policy\] can't be satisfied by the configured targets: 1 of 2 copies$"),
        ({"copies": 4}, [HOME, NAS, CLOUD], "3 of 4 copies"),
        ({"media": 4}, [HOME, NAS, CLOUD], "3 of 4 media"),
        ({"sites": 3}, [HOME, NAS, CLOUD], "2 of 3 sites"),
        ({"stream": [{"match": "*", "sites": 3}]}, [HOME, NAS, CLOUD], r"^\[\[policy.stream\]\] '\*' .* 2 of 3 sites$"),
    ],
)
def test_what_can_never_hold_is_refused(policy: dict[str, Any], targets: list[dict[str, Any]], reason: str) -> None:
    """Too few targets, media or sites for the policy or one of its entries are an error that says which."""
    with pytest.raises(ConfigError, match=reason) as raised:
        check_policy(settings(policy, *targets))
    assert all(str(target["id"]) in raised.value.hint for target in targets)


def test_what_can_hold_is_accepted() -> None:
    """Exactly enough targets, media and sites are enough."""
    check_policy(settings({"copies": 3, "media": 3, "sites": 2}, HOME, NAS, CLOUD))
    check_policy(settings({"copies": 1}, HOME))


@pytest.mark.parametrize("path", ["/h", "/h/nas", "/h/../h/./nas/deep"])
def test_a_folder_in_another_targets_folder_is_no_second_copy(path: str) -> None:
    """It would count as a copy of its own, and be foreign in the other; a name that only begins alike is well."""
    with pytest.raises(ValueError, match=r"the folder of target .* lies in that of .*: give each one"):
        settings({}, HOME, {**NAS, "path": path})
    assert len(settings({}, HOME, {**NAS, "path": "/home2/h"}, {"id": "x", "path": "/h2"}).target) == 3
