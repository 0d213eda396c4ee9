"""Remotes on Windows: rclone.exe, paths with spaces, and the shell that rclone-python starts it through."""

from pathlib import Path

import pytest

from tests.support.wine import WindowsPython, windows_path

pytestmark = [pytest.mark.wine, pytest.mark.xdist_group("wine"), pytest.mark.timeout(600)]

PROGRAM = r"""
import sys
from datetime import date
from pathlib import Path
from receiver.settings import TargetSettings
from receiver.targets.contract import Parcel, Place
from receiver.targets.rclone import find_rclone
from receiver.targets.rclone_config import create
from receiver.targets.remote import RemoteTarget
from receiver.targets.remote_setup import prepare_remote
from tape.digest import xxh3
from tape.names import SegmentName, SegmentPath

def parcel(seq, data, home=None):
    path = str(SegmentPath('bot', 's', date(2026, 1, 1), SegmentName('00112233445566aa', seq, xxh3(data))))
    local = None
    if home is not None:
        local = home / path
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_bytes(data)
    return Parcel(path, len(data), xxh3(data), lambda: [data], local=local)

folder = Path(sys.argv[1]) / 'a place'
config = folder / 'rclone.conf'
print(find_rclone().name)
create('store', 'alias', {'remote': (folder / 'store').as_posix()}, {}, config=config)
secrets = {'password': 'one', 'password2': 'two'}
create('cry', 'crypt', {'remote': 'store:crypt'}, secrets, obscured=frozenset(secrets), config=config)
for remote in ('store:plain', 'cry:'):
    entry = TargetSettings(id='nas', kind='remote', remote=remote, rclone_config=config, timeout=60)
    state = folder / remote.partition(':')[0]
    prepare_remote(entry, state)
    target = RemoteTarget(Place('nas', kind='remote'), entry, state)
    items = [parcel(1, b'one', folder / 'home'), parcel(2, b'two', folder / 'home')]
    print(target.put_many(items), [type(a).__name__ for a in target.put_many(items + [parcel(3, b'three')])])
    print([p.method for p in target.verify_many(items)])
    target.note_sums([(i.path, '0' * 64) for i in items])
    target.settle()
    target.recover()
    print(len(list(target.list())), b''.join(target.read(items[0].path)), target.state().condition)
    print(target.set_aside(items[0].path, 'x')[:21], target.stat(items[0].path))
"""


def test_plain_and_encrypted_remotes_hold_the_contract(tmp_path: Path, winpy: WindowsPython) -> None:
    """Made, prepared, filled from the home archive, proven, listed, read and set aside, as everywhere."""
    done = winpy.run("-c", PROGRAM, windows_path(tmp_path), code=0)
    assert done.out.splitlines() == [
        "rclone.exe",
        *("[None, None] ['AlreadyThere', 'AlreadyThere', 'NoneType']", "['remote xxh128', 'remote xxh128']"),
        *("3 b'one' ready", ".hometape-aside/bot/s None"),
        *("[None, None] ['AlreadyThere', 'AlreadyThere', 'NoneType']", "['cryptcheck md5', 'cryptcheck md5']"),
        *("3 b'one' ready", ".hometape-aside/bot/s None"),
    ]
