"""Each target and each fault: nothing is called safe that is not there, nobody waits, in the end all is level."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from receiver import checking
from receiver.model import Held
from receiver.targets.contract import Proof
from tape.errors import HometapeError, TargetRefused
from tests.support.faulty import OTHERS, FaultySide
from tests.support.rclone_servers import KEY
from tests.support.waiting import wait_until

pytestmark = pytest.mark.process
_BATCH = 4


@pytest.fixture
def side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultySide]:
    """A home side that does not run yet."""
    with FaultySide(tmp_path, monkeypatch) as made:
        yield made


class Fault:
    """What is done to a target: `before` the service starts, when it `begins`, when it `ends`."""

    small = False

    def __init__(self, side: FaultySide, target: str) -> None:
        self.side = side
        self.target = target

    def begin(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        raise NotImplementedError


class Absent(Fault):
    """A folder that is gone, a disk that was pulled, a server that is down."""

    def begin(self) -> None:
        if self.target == "cloud":
            self.side.server.stop()
        else:
            self.away = self.side.folder / "away"
            self.side.disks[self.target].rename(self.away)

    def end(self) -> None:
        if self.target == "cloud":
            self.side.server.start()
        else:
            self.away.rename(self.side.disks[self.target])


class Slow(Fault):
    """Each segment takes a while."""

    def begin(self) -> None:
        self.side.trouble[self.target].pause = 1.5

    def end(self) -> None:
        self.side.trouble[self.target].pause = 0.0


class Full(Fault):
    """No byte is left on its file system."""

    small = True

    def begin(self) -> None:
        self.filler = self.side.disks[self.target] / "filler"
        with self.filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(2**20))
            except OSError:
                pass

    def end(self) -> None:
        self.filler.unlink()


class ReadOnly(Fault):
    """Its file system takes no writes."""

    small = True

    def begin(self) -> None:
        self.side.remount(self.target, "ro")

    def end(self) -> None:
        self.side.remount(self.target, "rw")


class Refusing(Fault):
    """It lets nobody in: a wrong key at the store; a clone beside the disk; a share that asks for another password."""

    def begin(self) -> None:
        if self.target == "cloud":
            self._serve(KEY[::-1])
        elif self.target == "usb":
            shutil.copytree(self.side.disks["usb"], self.side.disks["usb"].with_name("usb-clone"))
        else:
            self.side.trouble[self.target].refuse = TargetRefused(f"target {self.target}: logon failure")

    def end(self) -> None:
        if self.target == "cloud":
            self._serve(KEY)
        elif self.target == "usb":
            shutil.rmtree(self.side.disks["usb"].with_name("usb-clone"))
        else:
            self.side.trouble[self.target].refuse = None

    def _serve(self, key: str) -> None:
        server = self.side.server
        server.stop()
        at = server.argv.index("--auth-key") + 1
        server.argv[at] = f"{key},{server.argv[at].partition(',')[2]}"
        server.start()


class Corrupting(Fault):
    """It stores other bytes than it was given."""

    def begin(self) -> None:
        self.side.trouble[self.target].corrupt = True

    def end(self) -> None:
        self.side.trouble[self.target].corrupt = False


class Lying(Fault):
    """It says that it stored, and did not."""

    def begin(self) -> None:
        self.side.trouble[self.target].forget = True

    def end(self) -> None:
        self.side.trouble[self.target].forget = False


class Dying(Absent):
    """It goes away in the middle of a segment."""

    def begin(self) -> None:
        self.side.trouble[self.target].midway = super().begin

    def end(self) -> None:
        assert self.side.trouble[self.target].midway is None, "it never died"
        super().end()


class Hanging(Fault):
    """Calls there do not return."""

    def begin(self) -> None:
        self.side.trouble[self.target].gate.clear()

    def end(self) -> None:
        self.side.trouble[self.target].gate.set()


FAULTS: list[type[Fault]] = [Absent, Slow, Full, ReadOnly, Refusing, Corrupting, Lying, Dying, Hanging]


@pytest.mark.parametrize("target", OTHERS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda kind: kind.__name__.lower())
def test_a_fault_stays_where_it_is(side: FaultySide, target: str, fault: type[Fault]) -> None:
    """While segments keep coming, one target fails: the others' copies are made as before; what is called safe is
    there, as a look at the places shows; when the fault is over, every target gets everything.
    """
    if fault.small:
        side.small(target)
    side.start()
    side.deliver(_BATCH)
    before = side.wait_copied("home", *OTHERS)
    trouble = fault(side, target)
    trouble.begin()
    others = [name for name in ("home", *OTHERS) if name != target]
    for _ in range(2):
        side.deliver(_BATCH)
        assert side.wait_copied(*others) < 3 * before + 3, "the others waited for it"
    side.wait_safe()  # three copies are at hand without it
    assert side.copied(target) < len(side.made), "the fault did nothing"
    if fault is Dying:
        wait_until(lambda: side.trouble[target].midway is None, what="its death")
    trouble.end()
    side.deliver(1)
    side.wait_copied("home", *OTHERS)
    side.wait_safe()
    side.stop()
    assert side.broken == []
    for name in ("home", *OTHERS):
        assert all(side.holds(name, made) for made in side.made), name


def test_the_judge_sees_what_is_not_there(side: FaultySide, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the proof of copies taken out, targets that corrupt make receipts call safe what is not: it is noticed."""
    real = checking.judged

    def gullible(held: Held, answer: Proof | HometapeError) -> checking.Checked:
        good = replace(answer, digest=held.path.name.digest) if isinstance(answer, Proof) else answer
        return real(replace(held, sha256=""), good)

    monkeypatch.setattr(checking, "judged", gullible)
    side.start()
    for name in OTHERS[:2]:
        side.trouble[name].corrupt = True
    side.deliver(_BATCH)
    side.wait_safe()
    side.stop()
    assert len(side.broken) == _BATCH
