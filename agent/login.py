"""Reaching the receiver: pinned keys on both sides, modern algorithms, one tuned connection at a time."""

import asyncio
from concurrent.futures import Executor
from pathlib import Path

import asyncssh

from agent.requests import say
from agent.settings import ReceiverSettings
from agent.sftp import Connection
from agent.throttle import Throttle
from tape import __version__, sshtune
from tape.clock import Clock
from tape.errors import AuthError, ConfigError, LinkError
from tape.keys import load_ssh_key

KEEPALIVES_MISSED = 3
_KEY_HINT = "set it to the line that `tape-receiver check` prints on the receiver"


def pinned(text: str) -> list[asyncssh.SSHKey]:
    """The host keys of the configuration, several separated by `;`; raises ConfigError if there is none."""
    try:
        keys = [asyncssh.import_public_key(part.strip()) for part in text.split(";") if part.strip()]
    except (asyncssh.KeyImportError, ValueError) as error:
        raise ConfigError(
            f"receiver.host_key can't be read: {error}",
            hint=_KEY_HINT,
        ) from error
    if not keys:
        raise ConfigError(
            "receiver.host_key is empty: an unknown host is never trusted",
            hint=_KEY_HINT,
        )
    return keys


async def connect(
    settings: ReceiverSettings, *, agent: str, key: Path, throttle: Throttle, clock: Clock, readers: Executor
) -> Connection:
    """Open one connection with its SFTP sessions. `readers`: threads that read what is uploaded.

    Raises LinkError if nobody answers, AuthError if a key is refused on either side, ConfigError.
    """
    keys = pinned(settings.host_key)
    where = f"{settings.host}:{settings.port}"
    try:
        conn = await asyncssh.connect(
            settings.host,
            settings.port,
            config=None,
            username=settings.user or agent,
            client_keys=[load_ssh_key(key)],
            known_hosts=lambda *_: (keys, [], []),
            server_host_key_algs=sshtune.host_key_algorithms([k.get_algorithm() for k in keys]),
            client_version=f"{sshtune.BANNER}_{__version__.replace('-', '.')}",
            preferred_auth="publickey",
            password_auth=False,
            kbdint_auth=False,
            gss_auth=False,
            gss_kex=False,
            host_based_auth=False,
            agent_path=None,
            x509_trusted_certs=None,
            connect_timeout=settings.connect_timeout or None,
            login_timeout=settings.connect_timeout or None,
            keepalive_interval=settings.keepalive,
            keepalive_count_max=KEEPALIVES_MISSED,
            **sshtune.algorithms(),
        )
    except asyncssh.HostKeyNotVerifiable as error:
        raise AuthError(f"{where} is not the receiver this agent is pinned to: {error}") from error
    except asyncssh.PermissionDenied as error:
        raise AuthError(f"{where} refuses the key or name of this agent: {error}") from error
    except asyncssh.KeyExchangeFailed as error:
        raise AuthError(f"{where} and this agent have no algorithm or host key in common: {error}") from error
    except (asyncssh.Error, OSError, TimeoutError) as error:
        raise LinkError(f"{where} can't be reached: {say(error)}") from error
    connection = Connection(conn, settings, throttle=throttle, clock=clock, readers=readers)
    try:
        async with asyncio.timeout(settings.connect_timeout or None):
            await connection.start()
    except (asyncssh.Error, OSError, TimeoutError, LinkError) as error:
        connection.abort("no SFTP session")
        raise LinkError(f"{where} gives no SFTP session: {say(error)}") from error
    except BaseException:
        connection.abort("given up")
        raise
    return connection
