"""The working process of a folder on Windows: pipes, paths, files that another process holds."""

from pathlib import Path

import pytest

from tests.support.wine import WindowsPython, windows_path

pytestmark = [pytest.mark.wine, pytest.mark.xdist_group("wine"), pytest.mark.timeout(600)]

PROGRAM = r"""
import sys
from datetime import date
from pathlib import Path
from receiver.targets.contract import Parcel, Place, Proof
from receiver.targets.directory import TEMP_FOLDER, DirectoryTarget
from receiver.targets.marker import prepare
from tape.clock import SYSTEM
from tape.digest import xxh3
from tape.names import SegmentName, SegmentPath

base = Path(sys.argv[1])
prepare(base / 'nas', 'nas', clock=SYSTEM)
target = DirectoryTarget(Place('nas'), base / 'nas')
items = []
for seq in range(40):
    data = b'%d' % seq * 1000
    path = str(SegmentPath('bot', 's', date(2026, 1, 1), SegmentName('00112233445566aa', seq, xxh3(data))))
    home = base / 'h\u00f6me' / path
    home.parent.mkdir(parents=True, exist_ok=True)
    home.write_bytes(data)
    items.append(Parcel(path, len(data), xxh3(data), lambda: [], local=home))
print(set(target.put_many(items)))
writer = target._writer._child._process.pid
held = (target.root / items[7].path).open('rb')
proofs = target.verify_many(items)
print([isinstance(proof, Proof) and proof.digest == item.digest for proof, item in zip(proofs, items)].count(True))
same = target._writer._child._process.pid == writer
print(same, writer != target._reader._child._process.pid, list((target.root / TEMP_FOLDER).iterdir()))
(target.root / items[3].path).write_bytes(b'changed')
print([n for n, (proof, item) in enumerate(zip(target.verify_many(items), items)) if proof.digest != item.digest])
target._writer._child._process.kill()
target._reader._child._process.kill()
print({type(answer).__name__ for answer in target.put_many(items)}, len(target.verify_many(items)))
"""


def test_many_small_files_are_written_and_read_back_by_it(tmp_path: Path, winpy: WindowsPython) -> None:
    """A process for each, nothing left open or lying about; killed, it is missed by nobody."""
    out = winpy.run("-c", PROGRAM, windows_path(tmp_path), code=0).out.splitlines()
    assert [line for line in out if not line.startswith("wine:") and "a working process ended early" not in line] == [
        "{None}",
        "40",
        "True True []",
        "[3]",
        "{'AlreadyThere'} 40",
    ]
