"""What is held around many segments against what is held around each: asked together or alone, the same."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from receiver.catalog import Catalog
from receiver.verdict import Known, Link
from tape.clock import ManualClock
from tape.footer import Footer
from tests.support.segments import Maker


@pytest.mark.parametrize("seed", range(6))
def test_a_run_is_answered_as_each_of_it_would_be(tmp_path: Path, seed: int) -> None:
    """Two streams with holes at random, some attested, some wanted again; asked in any order, twice, and beyond."""
    draw = random.Random(seed)
    made = [one for name in ("a", "b") for one in Maker(real=False, stream=name, epoch=f"{seed:016x}").many(20)]
    there = {one.path: one for one in made if draw.random() < 0.6}
    with Catalog.open(tmp_path, clock=ManualClock()) as catalog:
        held = catalog.add([one.new for one in there.values()])
        attested = {h.path for h in held if draw.random() < 0.5}
        catalog.attest_many([(h.id, there[h.path].sha256) for h in held if h.path in attested])
        wanted = {h.path for h in held if draw.random() < 0.2}
        for lost in held:
            if lost.path in wanted:
                catalog.want_again(lost.id, "lost")
        links = {
            (p.stream, p.name.seq): Link(p.name.seq, m.footer.previous, m.sha256 if p in attested else "")
            for p, m in there.items()
        }
        asked = draw.sample(made, len(made)) + made[:3]
        identities = [("box", m.path.stream, m.path.name.epoch, m.path.name.seq) for m in asked]
        identities += [("box", "a", "f" * 16, 1), ("box", "c", f"{seed:016x}", 1), ("box", "a", f"{seed:016x}", 999)]
        found = catalog.known(identities)
        assert found == [catalog.known([one])[0] for one in identities]
        for one, known in zip(asked, found, strict=False):
            seq, stream = one.path.name.seq, one.path.stream
            digest = one.path.name.digest if one.path in there else ""
            around = links.get((stream, seq - 1)), links.get((stream, seq + 1))
            assert known == Known(digest, one.path in wanted, *around)


@pytest.mark.parametrize("seed", range(6))
def test_overlaps_are_found_among_many(tmp_path: Path, seed: int) -> None:
    """Footers that cover held bytes, touch them, lie in holes or are the held ones themselves, asked all at once."""
    draw = random.Random(seed)
    made = Maker(real=False).many(30)
    some = [one for one in made if draw.random() < 0.4]
    with Catalog.open(tmp_path, clock=ManualClock()) as catalog:
        catalog.add([one.new for one in some])

        def naive(footer: Footer) -> str:
            source = footer.source
            hits = [
                m.footer
                for m in some
                if m.footer.source.start < source.end and m.footer.source.end > source.start
                if m.footer.source.file_id == source.file_id and m.footer.seq != footer.seq
            ]
            return f"{hits[-1].epoch}-{hits[-1].seq:012d}" if hits else ""

        asked = [one.footer for one in made]
        for one in made:
            shift = draw.randrange(-40, 40)
            source = one.footer.source
            moved = replace(source, start=max(source.start + shift, 0), end=max(source.end + shift, 1))
            asked.append(one.footer.completed(seq=1000 + one.footer.seq, source=moved))
            asked.append(one.footer.completed(seq=2000, source=replace(moved, file_id="e" * 32)))
        draw.shuffle(asked)
        assert catalog.overlaps(asked) == [naive(footer) for footer in asked]
        beyond = [f for f in asked if f.source.start >= max((m.footer.source.end for m in some), default=0)]
        assert catalog.overlaps(beyond) == [""] * len(beyond)
