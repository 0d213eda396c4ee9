"""What tests of every room share: waiting, ports, programs, processes, trees, recordings, a real sshd.

Only tests import this. What serves one room's tests alone stays beside those tests.
"""

from tests.support.needs import in_ci, missing, need_program, need_shared_data
from tests.support.ports import free_port
from tests.support.processes import Finished, Program, command, environment, run
from tests.support.proxy import Proxy
from tests.support.recordings import RECORDINGS, Recording, recording
from tests.support.sshd import Sshd
from tests.support.trees import read_tree, write_tree
from tests.support.waiting import wait_until, wait_until_async

__all__ = [
    "RECORDINGS",
    "Finished",
    "Program",
    "Proxy",
    "Recording",
    "Sshd",
    "command",
    "environment",
    "free_port",
    "in_ci",
    "missing",
    "need_program",
    "need_shared_data",
    "read_tree",
    "recording",
    "run",
    "wait_until",
    "wait_until_async",
    "write_tree",
]
