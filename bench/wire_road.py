"""What the wire benchmark stands on: segments in an outbox, a receiver, a plain sshd for the peers, a long line."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from agent.model import KnownFile, Origin
from agent.outbox import Outbox
from agent.outbox_rows import NewSegment, StoredFile
from agent.settings import AgentSettings
from bench.installed import environment
from tape.clock import SYSTEM
from tape.digest import digests_of, xxh3
from tape.footer import KEY, Footer, Head, SourceRange
from tape.names import SegmentName, utc_day
from tape.settings import load
from tests.support import Program, Sshd, need_program, processes, wait_until
from tests.support.needs import PROJECT
from tests.support.road import Road

NEAR, FAR = "10.77.0.1", "10.77.0.2"


def make_segments(state: Path, count: int, size: int, seed: int) -> Path:
    """An outbox with `count` real segments of about `size` bytes that do not compress; returns its spool."""
    rows = max(size // 4096, 1)
    noise = np.random.default_rng(seed).bytes(rows * 4096)
    lines = [noise[n * 4096 : (n + 1) * 4096] for n in range(rows)]
    outbox = Outbox.open(state, "server1", clock=SYSTEM)
    origin = Origin("f" * 32, "feed", "bench/ticks", "/data/ticks", "lines")
    for number in range(count):
        now = SYSTEM.now_ns()
        table = pa.table(
            {"ts_recv": pa.array([now] * rows, pa.timestamp("ns", tz="UTC")), "payload": pa.array(lines, pa.binary())}
        )
        head = outbox.head(origin.stream)
        start, end = number * len(noise), (number + 1) * len(noise)
        footer = Footer(
            agent="server1",
            stream=origin.stream,
            epoch=outbox.epoch,
            seq=head.next_seq,
            previous=head.chain,
            day=utc_day(now),
            sealed_ns=now,
            row_first=head.next_row,
            source=SourceRange("file", "ticks", origin.file_id, start, end, Head(4, "0" * 32), digest=xxh3(noise)),
            rows=rows,
            recv_first_ns=now,
            recv_last_ns=now,
            schema="0" * 32,
            layout={"kind": "lines"},
        )
        folder = outbox.spool / origin.stream
        folder.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(
            folder / "new", table.schema, compression="none", use_dictionary=False, store_schema=False
        ) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({KEY.decode("ascii"): footer.to_json().decode("ascii")})
        both = digests_of(folder / "new")
        name = SegmentName(outbox.epoch, head.next_seq, both.digest)
        (folder / "new").rename(folder / str(name))
        known = KnownFile(origin, origin.name, 1, 1, end, 4, "a" * 32, 4, "b" * 32)
        stored = StoredFile(known, b"", "{}", "")
        outbox.commit(NewSegment(origin.stream, name, both.size, both.sha256, rows, now, now, start, stored))
    spool = outbox.spool
    outbox.close()
    return spool


class Line:
    """Where commands run: `near` is the agent's end, `far` is home; loopback unless a long line is laid."""

    def __init__(self) -> None:
        self.host = "127.0.0.1"
        self.near: list[str] = []
        self.far: list[str] = []

    def close(self) -> None:
        """Nothing to take up again."""


class LongLine(Line):
    """Two network namespaces joined by a delaying program; needs root. `tools`: folder of netbox.c and netns.sh."""

    def __init__(self, tools: Path, scratch: Path, *, one_way_ms: float, mbit: int, loss: float = 0.0) -> None:
        super().__init__()
        self.host = FAR
        self.near, self.far = ["ip", "netns", "exec", "wireA"], ["ip", "netns", "exec", "wireB"]
        self._folder = scratch / "netbox"
        (self._folder / "run").mkdir(parents=True, exist_ok=True)
        for name in ("netbox.c", "netns.sh"):
            shutil.copy(tools / name, self._folder / name)
        program: list[str | Path] = [
            need_program("gcc"),
            "-O2",
            "-o",
            self._folder / "netbox",
            self._folder / "netbox.c",
        ]
        subprocess.run(program, check=True, capture_output=True)
        self._script("up", str(one_way_ms), str(mbit), str(loss))
        subprocess.run([*self.near, "ping", "-c", "1", "-W", "5", FAR], check=False, capture_output=True)

    def use(self, congestion: str) -> None:
        """The congestion control of connections that ask for none, at both ends; ours asks for the one configured."""
        write = ["sh", "-c", 'echo "$0" > /proc/sys/net/ipv4/tcp_congestion_control', congestion]
        for end in (self.near, self.far):
            if subprocess.run([*end, *write], check=False, stderr=subprocess.DEVNULL).returncode:
                raise SystemExit(
                    f"the namespaces may not use {congestion}\nhint: take another with --congestion, or allow it:"
                    f" sysctl -w net.ipv4.tcp_allowed_congestion_control='reno bbr {congestion}'"
                )

    def close(self) -> None:
        """Take the namespaces away."""
        self._script("down")

    def _script(self, *words: str) -> None:
        done = subprocess.run(
            ["bash", self._folder / "netns.sh", *words],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=60,
        )
        if done.returncode:
            raise SystemExit(f"netns.sh {words[0]} failed: {done.stderr.decode('utf-8', 'replace')}")


class Home:
    """A receiver as a real process, at the far end of a line."""

    def __init__(self, folder: Path, line: Line) -> None:
        self.line = line
        self.road = Road(folder, targets=())
        window = "32 MiB" if line.near else "16 MiB"
        self.road.configure(receiver_set=(f"listen.host={line.host}", f"listen.window={window}", "policy.copies=1"))
        self.settings = load(AgentSettings, self.road.agent_toml).receiver.model_copy(update={"host": line.host})
        self.key = folder / "server" / "state" / "agent_key"
        self.restart()

    def restart(self) -> None:
        """Start it, the first time or after it was ended."""
        words = [sys.executable, "-c", "import sys; from receiver.cli import main; sys.exit(main())"]
        argv = [*self.line.far, *words, "run", "--config", self.road.receiver_toml]
        self.program = Program(argv, env=processes.environment(**environment("receiver.cli")))
        self.program.wait_for("listening")

    def cpu(self) -> float:
        """CPU seconds the receiver and its helpers used so far."""
        me = psutil.Process(self.program.pid)
        family = [me, *me.children(recursive=True)]
        return float(sum(sum(one.cpu_times()[:2]) for one in family))

    def deliver(self, state: Path) -> dict[str, Any]:
        """Send an outbox home; what `wire_child` says, and `home_cpu`: what the receiver used meanwhile, s."""
        before = self.cpu()
        argv = [sys.executable, "-m", "bench.wire_child", state, self.settings.model_dump_json(), self.key]
        words = [str(word) for word in [*self.line.near, *argv]]
        done = subprocess.run(
            words,
            cwd=PROJECT,
            env=environment("bench.wire_child"),
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"the push ended with {done.returncode}: {done.stderr[-2000:]}\n{self.program.report()}")
        return {**json.loads(done.stdout), "home_cpu": self.cpu() - before}

    def close(self) -> None:
        """Kill it."""
        self.program.close()


class Peer(Sshd):
    """A plain sshd with a shell, for scp, sftp and rsync, at the far end of a line."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self.line = line
        config = (self.folder / "config").read_text(encoding="utf-8")
        kept = [word for word in config.splitlines() if not word.startswith(("ForceCommand", "Chroot"))]
        text = "\n".join(kept).replace("ListenAddress 127.0.0.1", f"ListenAddress {line.host}")
        (self.folder / "config").write_text(text + "\n", encoding="utf-8", newline="\n")

    def start(self) -> None:
        """Start it in its namespace and wait until it listens."""
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self._program = Program([*self.line.far, self._sshd, "-D", "-e", "-f", self.folder / "config"])
        wait_until(lambda: "Server listening" in self.log(), what="sshd to listen")

    def ssh_options(self) -> list[str]:
        """Options of scp, sftp and ssh."""
        return [
            *("-F", "/dev/null", "-i", str(self.client_key), "-o", "UserKnownHostsFile=/dev/null"),
            *("-o", "StrictHostKeyChecking=no", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"),
            *("-o", "LogLevel=ERROR"),
        ]

    def scp(self, source: Path, target: Path, *more: str) -> list[str]:
        """Copy a folder with scp as it comes."""
        there = f"{self.user}@{self.line.host}:{target}"
        return ["scp", "-q", "-r", "-P", str(self.port), *self.ssh_options(), *more, str(source), there]

    def sftp(self, *options: str) -> list[str]:
        """Commands on standard input."""
        there = f"{self.user}@{self.line.host}"
        return ["sftp", "-q", "-b", "-", "-P", str(self.port), *self.ssh_options(), *options, there]

    def rsync(self, source: Path, target: Path) -> list[str]:
        """Copy a folder with rsync as it comes."""
        shell = " ".join(["ssh", "-p", str(self.port), *self.ssh_options()])
        return ["rsync", "-r", "-W", "-e", shell, f"{source}/", f"{self.user}@{self.line.host}:{target}/"]

    def timed(self, argv: Sequence[str], *, commands: str = "") -> float:
        """Seconds a command takes at the near end."""
        began = time.monotonic()
        done = subprocess.run(
            [*self.line.near, *argv], input=commands, capture_output=True, text=True, encoding="utf-8", check=False
        )
        seconds = time.monotonic() - began
        if done.returncode:
            raise SystemExit(f"{argv[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
        return seconds
