"""Ingest with real files, a real catalog and the real inspecting process."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from receiver.inspect import Inspector
from receiver.model import Answer, Copy, Upload
from receiver.settings import LimitSettings
from tape.bundle import MAGIC
from tape.clock import SYSTEM, ManualClock
from tape.digest import xxh3
from tape.durable import Disk
from tape.errors import DiskFull, SyncFailed
from tape.footer import Footer
from tape.names import BundleName
from tests.support.ingesting import Bench, ingesting, lay, settings_for
from tests.support.segments import Made, Maker, finish


@pytest.fixture(scope="module")
def inspector() -> Iterator[Inspector]:
    """One inspecting process for all tests here: starting it takes longer than most of them."""
    shared = Inspector(LimitSettings(), clock=SYSTEM)
    yield shared
    shared.close()


@pytest.fixture
async def bench(tmp_path: Path, inspector: Inspector) -> AsyncIterator[Bench]:
    async with ingesting(tmp_path, inspector=inspector) as started:
        yield started


async def test_an_upload_is_stored_where_it_belongs_and_catalogued(bench: Bench) -> None:
    """After OK the bytes lie under their final name, the catalog has them, and nothing private is left."""
    made = Maker().make()
    outcome = await bench.send(made)
    assert outcome.answer is Answer.ACCEPTED
    assert bench.stored() == {str(made.path): made.data}
    held = bench.catalog.find("box", "demo/ticks", made.footer.epoch, 0)
    assert held is not None
    assert held.footer == made.footer
    assert bench.private() == []


async def test_the_same_segment_again_is_ok_at_once(bench: Bench) -> None:
    """A resend after a lost answer is a duplicate: OK, stored once, its private file gone."""
    made = Maker().make()
    await bench.send(made)
    assert (await bench.send(made)).answer is Answer.DUPLICATE
    assert len(bench.stored()) == 1
    assert bench.catalog.streams()[0].segments == 1
    assert bench.private() == []


async def test_resends_while_the_first_still_waits_are_stored_once(bench: Bench) -> None:
    """Many at the same moment, in one batch and in several: one is accepted, the rest are duplicates."""
    made = Maker().many(3)
    sent = [bench.send(one) for _ in range(8) for one in made]
    outcomes = await asyncio.gather(*sent)
    assert [o.answer for o in outcomes].count(Answer.ACCEPTED) == 3
    assert all(o.ok for o in outcomes)
    assert len(bench.stored()) == 3
    assert bench.catalog.streams()[0].rows == 9


async def test_a_large_batch_is_told_while_it_is_under_way(bench: Bench) -> None:
    """A burst keeps the processor for itself: others can see it from its arrival to its answers, and not after."""
    assert not bench.ingest.behind
    sent = [asyncio.ensure_future(bench.send(made)) for made in Maker().many(70)]
    seen = 0
    while not any(one.done() for one in sent):
        await asyncio.sleep(0)
        seen += bench.ingest.behind
    await asyncio.gather(*sent)
    assert seen > 50
    assert not bench.ingest.behind
    assert (await bench.send(Maker().make())).ok
    assert not bench.ingest.behind


async def test_other_bytes_under_a_held_identity_never_overwrite(bench: Bench) -> None:
    """A conflict: what is held stays, the other bytes are kept aside, and the receipt claims neither held nor safe."""
    first, second = Maker().make(), Maker(salt=b"!").make()
    assert first.path.name.seq == second.path.name.seq
    await bench.send(first)
    (held,) = bench.catalog.all_segments()
    outcome = await bench.send(second)
    assert outcome.answer is Answer.CONFLICT
    assert "never taken" in outcome.reason
    assert bench.stored() == {str(first.path): first.data}
    assert list(bench.quarantined().values()) == [second.data]
    assert [i.kind for i in bench.catalog.incidents()] == ["conflict"]
    bench.catalog.add_copies([Copy(held.id, target, 1, "read-back xxh3") for target in ("pc", "nas")])
    bench.catalog.attest(held.id, first.sha256)
    receipt = (await bench.receipt(first)).epochs[first.footer.epoch]
    assert (receipt.held, receipt.safe) == ((), ())
    assert [seq for seq, _ in receipt.refused] == [0]


async def test_a_conflict_inside_one_batch_is_found(bench: Bench) -> None:
    """Two bodies for one identity at the same moment: exactly one is stored, the other is a conflict."""
    first, second = Maker().make(), Maker(salt=b"!").make()
    outcomes = await asyncio.gather(bench.send(first), bench.send(second))
    assert [o.answer for o in outcomes] == [Answer.ACCEPTED, Answer.CONFLICT]
    assert list(bench.stored().values()) == [first.data]


async def test_damaged_bytes_are_asked_for_again_and_not_kept(bench: Bench) -> None:
    """Bytes that do not have the digest in the name: resend, nothing kept, and the resend is accepted."""
    made = Maker().make()
    broken = bytearray(made.data)
    broken[len(broken) // 2] ^= 1
    outcome = await bench.ingest.commit(bench.upload(made, data=bytes(broken)))
    assert outcome.answer is Answer.RESEND
    assert bench.stored() == {}
    assert bench.quarantined() == {}
    assert bench.private() == []
    assert (await bench.send(made)).answer is Answer.ACCEPTED


async def test_a_drop_boxs_upload_is_hashed_here(bench: Bench) -> None:
    """Where nobody hashed on the way in, the committer does, and finds damage all the same."""
    made, other = Maker().many(2)
    assert (await bench.ingest.commit(bench.upload(made, digest=""))).answer is Answer.ACCEPTED
    damaged = bench.upload(other, digest="", data=other.data[:-1] + b"X")
    assert (await bench.ingest.commit(damaged)).answer is Answer.RESEND


async def test_what_breaks_a_rule_is_kept_aside_with_a_reason(bench: Bench) -> None:
    """Quarantine holds the bytes and a note; catalog and receipt say why; a good upload beside it is not affected."""
    maker = Maker()
    good = maker.make()
    bad = maker.make(rows=99)
    outcomes = await asyncio.gather(bench.send(good), bench.send(bad))
    assert [o.answer for o in outcomes] == [Answer.ACCEPTED, Answer.QUARANTINED]
    assert list(bench.quarantined().values()) == [bad.data]
    (note,) = (bench.settings.state / "quarantine").rglob("*.json")
    facts = json.loads(note.read_text(encoding="ascii"))
    assert facts["reason"] == outcomes[1].reason == "its footer says 99 rows, the Parquet file has 3"
    (row,) = bench.catalog.quarantined()
    assert (bench.settings.state / row.path).read_bytes() == bad.data
    receipt = (await bench.receipt(good)).epochs[good.footer.epoch]
    assert (receipt.held, receipt.refused) == (((0, 0),), ((1, outcomes[1].reason),))


async def test_a_refused_upload_that_comes_again_is_kept_once(bench: Bench) -> None:
    """An agent that sends the same refused segment for ever fills no disk."""
    bad = Maker().make(rows=99)
    for _ in range(4):
        assert (await bench.send(bad)).answer is Answer.QUARANTINED
    assert len(bench.quarantined()) == 1
    assert [i.times for i in bench.catalog.incidents()] == [4]
    assert len(bench.catalog.quarantined()) == 1


async def test_quarantine_is_bounded(tmp_path: Path, inspector: Inspector) -> None:
    """Beyond its limit the bytes of refused uploads are not kept; the refusals still are."""
    settings = settings_for(tmp_path)
    limits = settings.limits.model_copy(update={"quarantine": 20_000})
    async with ingesting(
        tmp_path, inspector=inspector, settings=settings.model_copy(update={"limits": limits})
    ) as bench:
        maker = Maker()
        bad = [maker.make(rows=99) for _ in range(9)]
        for one in bad:
            assert (await bench.send(one)).answer is Answer.QUARANTINED
        kept = sum(len(data) for data in bench.quarantined().values())
        assert 0 < kept < 20_000
        assert len(bench.quarantined()) < 9
        assert len(bench.catalog.quarantined()) == 9
        assert bench.private() == []


async def test_a_corrected_segment_ends_its_refusal(bench: Bench) -> None:
    """A segment refused once and accepted later (limits raised, agent repaired) is no longer refused."""
    bad = Maker().make(rows=99)
    good = Maker().make()
    await bench.send(bad)
    assert (await bench.send(good)).answer is Answer.ACCEPTED
    receipt = (await bench.receipt(good)).epochs[good.footer.epoch]
    assert (receipt.held, receipt.refused) == (((0, 0),), ())


async def test_ticks_that_are_held_already_are_not_taken_under_another_number(bench: Bench) -> None:
    """Source bytes that overlap a held segment's, across batches or in one, would be there twice: refused."""
    maker = Maker()
    first = maker.make()
    again = Maker(seq=7, chain=maker.chain).make()
    assert again.footer.source.start == first.footer.source.start
    await bench.send(first)
    outcome = await bench.send(again)
    assert outcome.answer is Answer.QUARANTINED
    assert "held already in segment" in outcome.reason
    other = Maker(stream="demo/other")
    one = other.make()
    two = Maker(stream="demo/other", seq=7, chain=other.chain).make()
    outcomes = await asyncio.gather(bench.send(one), bench.send(two))
    assert [o.answer for o in outcomes] == [Answer.ACCEPTED, Answer.QUARANTINED]


async def test_a_foreign_segment_is_refused(bench: Bench) -> None:
    """An agent can't deliver under another agent's name what its footer says is its own, nor the reverse."""
    made = Maker(agent="other").make()
    upload = dataclasses.replace(bench.upload(made), agent="box")
    outcome = await bench.ingest.commit(upload)
    assert outcome.answer is Answer.QUARANTINED
    assert "its footer says other/demo/ticks" in outcome.reason
    assert bench.stored() == {}


async def test_a_quota_puts_off_what_is_above_it(tmp_path: Path, inspector: Inspector) -> None:
    """An agent over its quota is told to come again, keeps its segment, and other agents are not affected."""
    maker = Maker()
    made = maker.many(4)
    size = sum(len(one.data) for one in made[:2]) + 100
    async with ingesting(tmp_path, inspector=inspector, settings=settings_for(tmp_path, quota_bytes=size)) as bench:
        outcomes = await asyncio.gather(*(bench.send(one) for one in made))
        assert [o.answer for o in outcomes] == [Answer.ACCEPTED, Answer.ACCEPTED, Answer.RESEND, Answer.RESEND]
        assert "raise quota_bytes" in outcomes[2].reason
        assert (await bench.send(made[0])).answer is Answer.DUPLICATE
        assert (await bench.send(Maker(agent="other").make())).answer is Answer.ACCEPTED


Way = Callable[[Bench, Upload], Upload]
taken = pytest.mark.parametrize("way", [lambda _, upload: upload, Bench.apart], ids=["one file", "taken apart"])
"""How a bundle comes: as one file, from a drop box, or in pieces, from the ingress."""


@taken
async def test_a_bundle_is_committed_whole(bench: Bench, way: Way) -> None:
    """Every segment of a bundle lies under its own name afterwards; the bundle itself is gone; a resend is OK."""
    made = [*Maker().many(20), *Maker(stream="demo/other").many(5)]
    assert (await bench.ingest.commit(way(bench, bench.bundle(made)))).answer is Answer.ACCEPTED
    assert bench.stored() == {str(one.path): one.data for one in made}
    assert bench.private() == []
    assert (await bench.ingest.commit(way(bench, bench.bundle(made)))).answer is Answer.DUPLICATE
    assert bench.private() == []


@taken
async def test_a_bundles_bad_item_does_not_cost_its_good_ones(bench: Bench, way: Way) -> None:
    """The bundle is refused with the first reason; the good segments are held, and sent again they are duplicates."""
    maker = Maker()
    good = maker.many(3)
    bad = maker.make(rows=99)
    more = maker.make()
    outcome = await bench.ingest.commit(way(bench, bench.bundle([*good, bad, more])))
    assert outcome.answer is Answer.QUARANTINED
    assert "99 rows" in outcome.reason
    assert len(bench.stored()) == 4
    assert (await bench.send(good[1])).answer is Answer.DUPLICATE
    assert (await bench.ingest.commit(way(bench, bench.bundle([*good, more])))).answer is Answer.DUPLICATE


@taken
async def test_a_bundle_with_a_damaged_item_is_asked_for_again(bench: Bench, way: Way) -> None:
    """An item whose bytes differ from its name's digest wants a resend, even beside a refused one."""
    maker = Maker()
    good, bad, wrong = maker.make(), maker.make(rows=99), maker.make()
    outcome = await bench.ingest.commit(way(bench, bench.bundle([good, bad, wrong], damage=wrong)))
    assert outcome.answer is Answer.RESEND
    assert list(bench.stored()) == [str(good.path)]


@taken
async def test_damaged_and_malformed_bundles_keep_nothing(bench: Bench, way: Way) -> None:
    """Another name than its head's: resend. No bundle inside: refused, for a resend would not help."""
    upload = way(bench, bench.bundle(Maker().many(2)))
    other = dataclasses.replace(upload.name, digest="0" * 32)
    assert (await bench.ingest.commit(dataclasses.replace(upload, name=other))).answer is Answer.RESEND
    for content in (b"nonsense", MAGIC + b"\0\0\0\0", MAGIC + b"\0\0\0\1\0\x05/x"):
        path = lay(bench.inbox, content)
        name = BundleName("00000000000000aa", xxh3(content))
        outcome = await bench.ingest.commit(way(bench, Upload("box", "", name, path, len(content), "", 1)))
        assert outcome.answer is Answer.QUARANTINED
        assert not path.exists()
    long = bench.bundle(Maker().many(2))
    long.path.write_bytes(long.path.read_bytes() + b"!")
    outcome = await bench.ingest.commit(way(bench, dataclasses.replace(long, size=long.size + 1)))
    assert outcome.answer is Answer.QUARANTINED
    assert "the index promises" in outcome.reason
    assert bench.stored() == {}
    assert bench.private() == []


async def test_receipts_are_signed_cached_and_renewed_when_the_stream_changes(bench: Bench) -> None:
    """The same receipt until something changes; then a later one that knows more; none for an unknown stream."""
    maker = Maker()
    first, second = maker.many(2)
    assert await bench.ingest.receipt("box", "demo/ticks") is None
    await bench.send(first)
    one = await bench.receipt(first)
    assert one == await bench.receipt(first)
    await bench.send(second)
    two = await bench.receipt(first)
    assert two.issued_ns > one.issued_ns
    assert two.epochs[maker.epoch].held == ((0, 1),)
    assert two.epochs[maker.epoch].safe == ()
    for held in bench.catalog.all_segments():
        bench.catalog.add_copies([Copy(held.id, target, 1, "read-back xxh3") for target in ("pc", "nas")])
    bench.catalog.attest(1, first.sha256)
    three = await bench.receipt(first)
    assert three.epochs[maker.epoch].safe == ((0, 0),)


async def test_nothing_is_taken_while_the_home_archive_is_not_there(bench: Bench) -> None:
    """An unmounted home archive: put off, not written into the empty mount point, and taken when it is back."""
    made = Maker().make()
    marker = bench.home / ".hometape-target"
    hidden = marker.rename(bench.home / "hidden")
    outcome = await bench.send(made)
    assert outcome.answer is Answer.RESEND
    assert "has no .hometape-target" in outcome.reason
    for way in (lambda upload: upload, bench.apart):
        assert (await bench.ingest.commit(way(bench.bundle([made])))).answer is Answer.RESEND
    assert bench.stored() == {}
    assert bench.private() == []
    hidden.rename(marker)
    assert (await bench.send(made)).answer is Answer.ACCEPTED


async def test_a_lost_segment_that_was_asked_for_is_stored_again(bench: Bench) -> None:
    """Its receipt says resend, the resend is taken with the same bytes, and it is held again."""
    made = Maker().make()
    await bench.send(made)
    (bench.home / str(made.path)).write_bytes(b"rotten")
    bench.catalog.want_again(1, "every copy is bad")
    receipt = (await bench.receipt(made)).epochs[made.footer.epoch]
    assert (receipt.held, receipt.resend) == ((), ((0, 0),))
    assert [i.kind for i in bench.catalog.incidents()] == ["lost"]
    assert (await bench.send(made)).answer is Answer.ACCEPTED
    assert bench.stored() == {str(made.path): made.data}
    assert list(bench.quarantined().values()) == [b"rotten"]
    receipt = (await bench.receipt(made)).epochs[made.footer.epoch]
    assert (receipt.held, receipt.resend) == (((0, 0),), ())
    assert bench.catalog.incidents() == []
    assert bench.catalog.streams()[0].segments == 1


class _Failing(Disk):
    """A disk whose chosen operation fails when asked to."""

    def __init__(self) -> None:
        self.fail_sync = False
        self.full_place = False

    def sync_many(self, files, folders) -> None:  # type: ignore[no-untyped-def]  # as in Disk
        if self.fail_sync:
            raise SyncFailed("fsync failed: input/output error")
        super().sync_many(files, folders)

    def place(self, temp: Path, final: Path) -> None:
        if self.full_place:
            raise DiskFull(f"no space left while naming {final}")
        super().place(temp, final)


async def test_a_failed_fsync_gives_no_ok_and_ends_the_service(tmp_path: Path, inspector: Inspector) -> None:
    """After a failed fsync nothing is acknowledged any more, not even what would be a retry; the error is there."""
    disk = _Failing()
    maker = Maker()
    async with ingesting(tmp_path, inspector=inspector, disk=disk) as bench:
        assert (await bench.send(maker.make())).ok
        disk.fail_sync = True
        made = maker.make()
        with pytest.raises(SyncFailed):
            await bench.send(made)
        disk.fail_sync = False
        with pytest.raises(SyncFailed):
            await bench.send(made)
        assert await bench.ingest.wait_failed() is bench.ingest.failed
        assert bench.catalog.find("box", "demo/ticks", maker.epoch, 1) is None


async def test_a_full_disk_puts_uploads_off_and_keeps_nothing(tmp_path: Path, inspector: Inspector) -> None:
    """No space: resend, no half-placed file, also for a resend of it in the same batch; work goes on afterwards."""
    disk = _Failing()
    async with ingesting(tmp_path, inspector=inspector, disk=disk) as bench:
        made = Maker().make()
        disk.full_place = True
        outcomes = await asyncio.gather(bench.send(made), bench.send(made))
        assert [o.answer for o in outcomes] == [Answer.RESEND, Answer.RESEND]
        assert bench.stored() == {}
        assert bench.private() == []
        disk.full_place = False
        assert (await bench.send(made)).answer is Answer.ACCEPTED


async def test_stopping_answers_everybody(tmp_path: Path, inspector: Inspector) -> None:
    """Uploads that wait when the service stops are told to come again; those committed stay committed."""
    async with ingesting(tmp_path, inspector=inspector) as bench:
        made = Maker().many(30)
        sent = [asyncio.create_task(bench.send(one)) for one in made]
        await asyncio.sleep(0)
        await bench.ingest.stop()
        outcomes = await asyncio.gather(*sent)
        accepted = sum(o.answer is Answer.ACCEPTED for o in outcomes)
        assert len(bench.stored()) == accepted
        assert {o.answer for o in outcomes} <= {Answer.ACCEPTED, Answer.RESEND}


async def test_a_whole_file_left_by_a_crash_is_taken_over(tmp_path: Path, inspector: Inspector) -> None:
    """A file placed but not catalogued is adopted at the next start; a torn one and foreign names are not."""
    maker = Maker()
    whole, torn, wrong = maker.make(), maker.make(), maker.make(rows=99)
    known = maker.make()
    clock = ManualClock()
    async with ingesting(tmp_path, inspector=inspector, clock=clock) as bench:
        await bench.send(known)
        home = bench.home
        await bench.ingest.stop()
        bench.catalog.open_more_folders([whole.path.folder])  # as it stands while a batch is under way
    folder = home / whole.path.folder
    (folder / str(whole.path.name)).write_bytes(whole.data)
    (folder / str(torn.path.name)).write_bytes(torn.data[:-3])
    (folder / str(wrong.path.name)).write_bytes(wrong.data)
    (folder / ".tmp-00").write_bytes(b"half")
    (folder / "SHA256SUMS").write_bytes(b"sums")
    async with ingesting(tmp_path, inspector=inspector, clock=clock) as bench:
        assert bench.catalog.open_folders() == []
        names = {Path(name).name for name in bench.stored()}
        assert names == {str(known.path.name), str(whole.path.name), "SHA256SUMS"}
        assert bench.catalog.find(*_identity(whole)) is not None
        assert bench.catalog.find(*_identity(torn)) is None
        assert sorted(bench.quarantined().values()) == sorted([torn.data[:-3], wrong.data])
        assert (await bench.send(whole)).answer is Answer.DUPLICATE
        assert (await bench.send(torn)).answer is Answer.ACCEPTED


async def test_an_orphan_in_a_folder_nobody_noted_is_met_when_its_resend_comes(
    tmp_path: Path, inspector: Inspector
) -> None:
    """Whole: it becomes held as it is. Torn: it is set aside and the resend takes its place."""
    maker = Maker()
    whole, torn = maker.make(), maker.make()
    async with ingesting(tmp_path, inspector=inspector) as bench:
        folder = bench.home / whole.path.folder
        folder.mkdir(parents=True)
        (folder / str(whole.path.name)).write_bytes(whole.data)
        (folder / str(torn.path.name)).write_bytes(torn.data[:-3])
        outcomes = await asyncio.gather(bench.send(whole), bench.send(torn))
        assert [o.answer for o in outcomes] == [Answer.ACCEPTED, Answer.ACCEPTED]
        assert bench.stored() == {str(one.path): one.data for one in (whole, torn)}
        assert list(bench.quarantined().values()) == [torn.data[:-3]]
        assert bench.private() == []


async def test_folders_are_noted_before_files_are_placed_and_closed_later(tmp_path: Path, inspector: Inspector) -> None:
    """A start searches only folders that were in use at the end, never the whole archive."""
    clock = ManualClock()
    async with ingesting(tmp_path, inspector=inspector, clock=clock) as bench:
        made = Maker().make()
        await bench.send(made)
        assert bench.catalog.open_folders() == [made.path.folder]
        clock.advance(3600)
        other = Maker(stream="demo/other").make()
        await bench.send(other)
        assert bench.catalog.open_folders() == [other.path.folder]
        catalog = bench.catalog
        await bench.ingest.stop()
        assert catalog.open_folders() == []


async def test_an_unforeseen_error_in_a_batch_does_not_end_the_service(bench: Bench) -> None:
    """Whatever a batch raises that nobody thought of, its uploads are put off and the next batch is taken."""
    made = Maker().make()
    run = bench.ingest._batches.run
    bench.ingest._batches.run = lambda _: 1 // 0  # type: ignore[method-assign, assignment, return-value]  # any bug
    assert (await bench.send(made)).answer is Answer.RESEND
    bench.ingest._batches.run = run  # type: ignore[method-assign]  # as it was
    assert (await bench.send(made)).answer is Answer.ACCEPTED


async def test_hostile_footers_never_reach_the_catalog(bench: Bench) -> None:
    """Footers with absurd numbers and types are refused one by one; good segments in the same batch are taken."""
    maker = Maker()
    good = maker.make()
    bad = []
    for field, value in (("recv_first_ns", ""), ("recv_last_ns", 2**70), ("layout", "x"), ("agent_version", 7)):
        footer = dataclasses.replace(maker.make().footer, **{field: value})  # type: ignore[arg-type]  # that is the point
        bad.append(finish(footer, parquet_with(footer)))
    outcomes = await asyncio.gather(bench.send(good), *(bench.send(one) for one in bad))
    assert [o.answer for o in outcomes] == [Answer.ACCEPTED] + [Answer.QUARANTINED] * 4


def parquet_with(footer: Footer) -> bytes:
    """A segment with that footer, however wrong the types in it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"ts_recv": pa.array(range(footer.rows), pa.int64())})
    out = pa.BufferOutputStream()
    with pq.ParquetWriter(out, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({"hometape": footer.to_json().decode()})
    data: bytes = out.getvalue().to_pybytes()
    return data


def _identity(made: Made) -> tuple[str, str, str, int]:
    return made.path.agent, made.path.stream, made.path.name.epoch, made.path.name.seq
