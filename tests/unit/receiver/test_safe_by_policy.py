"""What receipts call safe, by the policy of each stream: exactly what its rule allows, never more."""

import random
from pathlib import Path
from typing import Any

import pytest

from receiver.catalog import Catalog
from receiver.ingest import Ingest
from receiver.model import Copy, Held
from receiver.placement import Rule, Standing, Where, judge
from receiver.settings import ReceiverSettings
from tape.clock import ManualClock
from tape.receipt import EpochReceipt, new_key, open_receipt, to_ranges
from tests.support.segments import Maker

PLACES = {
    "home": Where("home", "disk", "home", home=True),
    "nas": Where("nas", "nas", "home"),
    "usb": Where("usb", "usb", "home"),
    "cloud": Where("cloud", "cloud", "cloud"),
}


@pytest.mark.parametrize("seed", range(5))
def test_safe_is_what_the_rule_allows_by_copies_that_count(tmp_path: Path, seed: int) -> None:
    """Copies anywhere: safe is each attested segment, with one at home, whose configured copies satisfy the rule."""
    draw = random.Random(seed)
    made = Maker(real=False).many(300)
    with Catalog.open(tmp_path, clock=ManualClock()) as catalog:
        held = catalog.add([m.new for m in made])
        attested = set(draw.sample(range(300), 250))
        catalog.attest_many([(held[n].id, made[n].sha256) for n in sorted(attested)])
        where: dict[int, set[str]] = {n: set() for n in range(300)}
        for name in (*PLACES, "retired"):
            first = draw.randrange(300)
            for n in {*range(first, 300), *draw.sample(range(300), 40)}:
                where[n].add(name)
            catalog.add_copies([Copy(held[n].id, name, 1, "x") for n in where if name in where[n]])
        lost = set(draw.sample(range(300), 5))
        for n in lost:
            catalog.want_again(held[n].id, "lost")
        for _ in range(10):
            rule = Rule(draw.randint(1, 5), draw.randint(1, 4), draw.randint(1, 3))
            places = {name: place for name, place in PLACES.items() if name == "home" or draw.random() < 0.8}
            (receipt,) = catalog.held_and_safe("box", "demo/ticks", rule=rule, places=places).values()
            safe = [
                n
                for n in sorted(attested - lost)
                if judge(rule, places, where[n]).standing is Standing.SATISFIED and "home" in where[n]
            ]
            assert receipt.safe == to_ranges(safe)
            assert receipt.held == to_ranges(sorted(set(range(300)) - lost))


TARGETS = [
    {"id": "home", "path": "/h", "home": True},
    {"id": "nas", "path": "/n", "medium": "nas"},
    {"id": "cloud", "kind": "remote", "remote": "s3:x"},
]


def settings(state: Path, policy: dict[str, Any]) -> ReceiverSettings:
    return ReceiverSettings.model_validate({"state": str(state), "policy": policy, "target": TARGETS})


def commit(catalog: Catalog, stream: str, *targets: str) -> Held:
    """One attested segment with copies at these targets."""
    made = Maker(stream=stream, real=False).make()
    (held,) = catalog.add([made.new])
    catalog.attest(held.id, made.sha256)
    catalog.add_copies([Copy(held.id, name, 1, "x") for name in targets])
    return held


async def told(ingest: Ingest, stream: str, key: Any) -> EpochReceipt:
    data = await ingest.receipt("box", stream)
    assert data is not None
    (epoch,) = open_receipt(data, key.public_key(), agent="box", stream=stream).epochs.values()
    return epoch


async def test_receipts_follow_the_policy_of_their_stream(tmp_path: Path) -> None:
    """`release_after` decides, per stream, from the moment it is configured; what is retired counts for nothing."""
    key = new_key()
    policy = {"copies": 3, "media": 2, "sites": 2, "stream": [{"match": "*/btc/*", "release_after": "policy"}]}
    with Catalog.open(tmp_path, clock=ManualClock()) as catalog:
        ingest = Ingest(settings(tmp_path, policy), catalog, key, clock=ManualClock())
        commit(catalog, "eth/ticks", "home", "nas", "retired")
        assert (await told(ingest, "eth/ticks", key)).safe == ((0, 0),)
        strict = commit(catalog, "btc/ticks", "home", "nas", "retired")
        assert (await told(ingest, "btc/ticks", key)).safe == ()
        catalog.add_copies([Copy(strict.id, "cloud", 2, "x")])
        assert (await told(ingest, "btc/ticks", key)).safe == ((0, 0),)
        one = commit(catalog, "one/ticks", "home")
        assert (await told(ingest, "one/ticks", key)).safe == ()
        ingest.use(settings(tmp_path, {"copies": 3, "release_after": 1}))
        assert (await told(ingest, "one/ticks", key)).safe == ((0, 0),)
        catalog.drop_copy(one.id, "home", "gone")
        assert (await told(ingest, "one/ticks", key)).safe == ()
        await ingest.stop()
