"""The listening server: who may connect, log in and open sessions, and the limits around them."""

import asyncio
import functools
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import asyncssh

from receiver.ingress.inbox import Inbox
from receiver.ingress.limits import Allowance, agent_to_shorten, to_leave, window_for
from receiver.ingress.reading import Reading
from receiver.ingress.session import Session, make_channel
from receiver.ingress.view import Serving
from receiver.model import Committer
from receiver.settings import AgentEntry, ReceiverSettings
from receiver.traffic import Traffic
from tape import __version__, sshtune
from tape.clock import SYSTEM, Clock
from tape.durable import DISK, Disk
from tape.errors import ConfigError
from tape.log import get_logger

_log = get_logger(__name__)

_KEEPALIVES_MISSED = 3
_ROUND = 1.0
_DEAF_FOR = 30.0
_STOP_WITHIN = 10.0
_BACKLOG = 128


class Ingress:
    """The embedded SFTP server. `stored`: bytes an agent has at home, for its quota.

    `start` and `stop` run on one event loop. Uploads go to `<state>/inbox`, which is cleared at the start,
    and from there to the committer; the connection never outlives `stop`, a commit under way does.
    """

    def __init__(
        self,
        settings: ReceiverSettings,
        host_key: asyncssh.SSHKey,
        committer: Committer,
        *,
        clock: Clock = SYSTEM,
        disk: Disk = DISK,
        stored: Callable[[str], int] = lambda _agent: 0,
    ) -> None:
        self._settings = settings.listen
        self._clock = clock
        self.traffic = Traffic(clock)
        self._inbox = Inbox(settings.state / "inbox", disk, self.traffic.add)
        self._agents = {entry.name: _Agent(entry, self._inbox, committer, clock, stored) for entry in settings.agent}
        self._options = _options(settings, host_key)
        self._sockets: list[socket.socket] = []
        self._tasks: set[asyncio.Future[Any]] = set()
        self._doors: list[_Door] = []
        self._serving: set[asyncio.Future[None]] = set()
        self._work: set[asyncio.Future[None]] = set()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._sockets[0].getsockname()[1])

    @property
    def connected(self) -> Counter[str]:
        """Logged-in connections of each agent."""
        return Counter(door.agent.name for door in self._doors if door.agent is not None)

    async def start(self) -> None:
        """Clear the inbox and listen. Raises ConfigError where it can't listen, DiskError."""
        sshtune.tune_allocator()
        left = await asyncio.to_thread(self._inbox.open)
        if left:
            _log.info("leftovers of unfinished uploads were deleted", count=left)
        self._sockets = await _listen(self._settings.host, self._settings.port)
        for sock in self._sockets:
            self._keep(asyncio.ensure_future(self._accept(sock)))
        self._keep(asyncio.ensure_future(self._watch()))
        _log.info("ingress listens", host=self._settings.host, port=self.port, agents=len(self._agents))

    async def stop(self) -> None:
        """Stop listening, close every connection, wait a while for commits under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for sock in self._sockets:
            sock.close()
        for door in list(self._doors):
            door.drop()
        await asyncio.gather(*self._serving, return_exceptions=True)
        if self._work:
            await asyncio.wait(self._work, timeout=_STOP_WITHIN)
        await asyncio.to_thread(self._inbox.close)

    def _keep(self, task: asyncio.Future[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ------------------------------------------------------------ connections

    async def _accept(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                link, peer = await loop.sock_accept(sock)
            except OSError as error:  # out of descriptors, or the caller is gone again
                _log.warning("a connection could not be accepted", error=str(error))
                await self._clock.sleep(0.1)
                continue
            door = _Door(self, str(peer[0]) if peer else "", self._clock.monotonic())
            self._make_room(door)
            self._doors.append(door)
            door.task = asyncio.ensure_future(self._serve(link, door))
            self._serving.add(door.task)
            door.task.add_done_callback(functools.partial(self._served, link, door))

    def _make_room(self, newcomer: "_Door") -> None:
        waiting = [door for door in self._doors if door.agent is None]
        leaver = to_leave(waiting, newcomer.address, newcomer.since, total=self._settings.max_unauthenticated)
        if leaver is not None:
            _log.debug("too many connections before login: one is dropped", address=leaver.address)
            leaver.drop()
            self._doors.remove(leaver)

    async def _serve(self, link: socket.socket, door: "_Door") -> None:
        try:
            conn = await asyncssh.run_server(link, options=self._options, server_factory=lambda: door)
            await conn.wait_closed()
        except Exception as error:  # noqa: BLE001 - whatever the library meets in a stranger's bytes ends his connection
            _log.debug("a connection ended", address=door.address, error=str(error))

    def _served(self, link: socket.socket, door: "_Door", task: "asyncio.Future[None]") -> None:
        self._serving.discard(task)
        door.drop()
        if door.conn is None:  # else its transport closes the socket, when it no longer waits on it
            link.close()
        if door in self._doors:
            self._doors.remove(door)

    async def _watch(self) -> None:
        """Close what is idle, deaf or overdone."""
        while True:
            await self._clock.sleep(_ROUND)
            now = self._clock.monotonic()
            for door in list(self._doors):
                why = door.why_to_close(now, self._settings.idle_timeout)
                if why:
                    _log.info("a connection is closed", agent=door.name, address=door.address, why=why)
                    door.drop()

    # ------------------------------------------------------------ what a connection asks

    def knows(self, name: str, key: asyncssh.SSHKey) -> bool:
        """Whether this key is that agent's."""
        agent = self._agents.get(name)
        return agent is not None and agent.key == key.public_data

    def welcome(self, door: "_Door", name: str) -> None:
        """A connection has logged in; where there are too many, the agent that has most loses one."""
        connected = self.connected
        door.agent = self._agents[name]
        shorter = agent_to_shorten(connected, name, total=self._settings.max_connections)
        _log.info("an agent is connected", agent=name, address=door.address)
        if shorter is None:
            return
        loser = door if shorter == name else [other for other in self._doors if other.name == shorter][-1]
        _log.warning("too many connections: one is dropped", agent=shorter)
        loser.drop()

    def session(self, door: "_Door") -> tuple[Any, Session] | None:
        """A channel for one more session of a connection, unless its agent has enough."""
        agent = door.agent
        if agent is None or door.conn is None or not agent.serving.allowance.enter():
            return None
        window = window_for(agent.serving.allowance.sessions - 1, self._settings.window)
        session = Session(
            agent.serving, self._spawn, window=window, touched=door.touch, left=agent.serving.allowance.leave
        )
        door.sessions.append(session)
        packet = sshtune.packet_for(str(door.conn.get_extra_info("client_version") or ""))
        return make_channel(door.conn, session, window=window, packet=packet)

    def now(self) -> float:
        """The monotonic clock, seconds."""
        return self._clock.monotonic()

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)


class _Agent:
    """An agent as configured, with what its sessions share."""

    def __init__(
        self, entry: AgentEntry, inbox: Inbox, committer: Committer, clock: Clock, stored: Callable[[str], int]
    ) -> None:
        self.name = entry.name
        self.key = _public_data(entry)
        allowance = Allowance(max_sessions=entry.max_sessions, max_upload=entry.max_segment, quota=entry.quota_bytes)
        self.serving = Serving(entry.name, inbox, committer, clock, allowance, entry.max_handles, stored)


class _Door(asyncssh.SSHServer):
    """One connection, from the accepted socket to its end."""

    def __init__(self, ingress: Ingress, address: str, since: float) -> None:
        self._ingress = ingress
        self._login = ""
        self.address = address
        self.since = since
        self.active = since
        self.agent: _Agent | None = None
        self.conn: asyncssh.SSHServerConnection | None = None
        self.sessions: list[Session] = []
        self.task: asyncio.Future[None] | None = None

    @property
    def name(self) -> str:
        """The agent's name; "" before the login."""
        return self.agent.name if self.agent is not None else ""

    @property
    def progress(self) -> int:
        """Steps of the handshake done: greeted, keys agreed, a name given."""
        if self.conn is None:
            return 0
        steps = [self.conn.get_extra_info("client_version"), self.conn.get_extra_info("recv_cipher"), self._login]
        return sum(bool(step) for step in steps)

    def drop(self) -> None:
        """End the connection at once."""
        if self.conn is not None:
            self.conn.abort()
        elif self.task is not None:
            self.task.cancel()

    def touch(self) -> None:
        """The client did something."""
        self.active = self._ingress.now()

    def why_to_close(self, now: float, idle: float) -> str:
        """The reason to close it; "" if there is none."""
        if self.agent is None:
            return ""  # asyncssh's login time-out is at work
        if any(session.overdone() for session in self.sessions):
            return "it piles up environment settings"
        deaf = [session.deaf_since for session in self.sessions if session.deaf_since is not None]
        if deaf and now - min(deaf) > _DEAF_FOR:
            return "it does not read its answers"
        if now - self.active > idle and not any(session.busy for session in self.sessions):
            return "it was idle"
        return ""

    # ------------------------------------------------------------ what asyncssh calls

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """The connection exists; nothing is known about the caller."""
        self.conn = conn
        transport = getattr(conn, "_transport", None)  # without it bytes are read as the library does
        if transport is not None:
            transport.set_protocol(Reading(conn))

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, and with it sessions whose channel never came to be."""
        for session in self.sessions:
            session.connection_lost(exc)
        self.sessions.clear()

    def begin_auth(self, username: str) -> bool:
        """Every name must prove itself; unknown ones fail like known ones."""
        self._login = username
        return True

    def public_key_auth_supported(self) -> bool:
        """The only way to log in."""
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """The name must be an agent's and the key that agent's."""
        self._login = username
        return self._ingress.knows(username, key)

    def auth_completed(self) -> None:
        """The caller is who it says."""
        self.touch()
        assert self.conn is not None
        self._ingress.welcome(self, str(self.conn.get_extra_info("username")))

    def session_requested(self) -> Any:
        """One more channel: for SFTP, if the agent's limits allow."""
        self.sessions = [session for session in self.sessions if not session.ended]
        return self._ingress.session(self) or False


def _public_data(entry: AgentEntry) -> bytes | None:
    """The key's public part; None where there is no key: then nobody can log in. Raises ConfigError."""
    if not entry.key:
        return None
    try:
        return asyncssh.import_public_key(entry.key).public_data
    except asyncssh.KeyImportError as error:
        raise ConfigError(
            f"agent {entry.name!r}: its key can't be read: {error}",
            hint="copy the line `ssh-ed25519 AAAA...` that `tape-agent init` printed",
        ) from error


def _options(settings: ReceiverSettings, host_key: asyncssh.SSHKey) -> asyncssh.SSHServerConnectionOptions:
    listen = settings.listen
    return asyncssh.SSHServerConnectionOptions(
        server_factory=asyncssh.SSHServer,
        server_version=f"{sshtune.BANNER}_{__version__}",
        server_host_keys=[host_key],
        public_key_auth=True,
        password_auth=False,
        kbdint_auth=False,
        host_based_auth=False,
        gss_kex=False,
        gss_auth=False,
        allow_pty=False,
        allow_scp=False,
        agent_forwarding=False,
        x11_forwarding=False,
        line_editor=False,
        rdns_lookup=False,
        tcp_keepalive=True,
        login_timeout=listen.login_timeout,
        keepalive_interval=listen.keepalive,
        keepalive_count_max=_KEEPALIVES_MISSED,
        **sshtune.algorithms(),
    )


async def _listen(host: str, port: int) -> list[socket.socket]:
    """Sockets for every address of a host, all at one port. Raises ConfigError."""
    loop = asyncio.get_running_loop()
    sockets: list[socket.socket] = []
    try:
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((entry[0], entry[4]) for entry in found):
            bound = (address[0], sockets[0].getsockname()[1] if sockets else address[1])
            sock = socket.create_server(bound, family=family, backlog=_BACKLOG)
            sockets.append(sock)
            sock.setblocking(False)  # noqa: FBT003 - the call's only form
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise ConfigError(
            f"can't listen on {host} port {port}: {error.strerror or error}",
            hint="set `listen.host` and `listen.port` to an address of this machine and a free port",
        ) from error
    return sockets
