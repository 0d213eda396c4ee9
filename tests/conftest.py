"""Fixtures that any test may ask for."""

import asyncio
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import structlog

from tests.support import Sshd, need_shared_data
from tests.support.rclone_servers import Remotes

# Two cores shared by many: a slow example is no failure, a wrong one is.
hypothesis.settings.register_profile(
    "hometape", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("hometape")

if sys.platform == "win32":

    class _Ticking(asyncio.WindowsProactorEventLoopPolicy):
        """Loops that look around four times a second: under Wine one is, rarely, not woken when a thread is done."""

        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            loop = super().new_event_loop()

            def tick() -> None:
                loop.call_later(0.25, tick)

            tick()
            return loop

    asyncio.set_event_loop_policy(_Ticking())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Marks of groups count, which they do not with pytest-xdist's own scheduler."""
    from tests.support.grouping import Grouped

    return Grouped(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Random order within each half: what starts processes or is slow comes first, else one worker is last with it."""
    items.sort(key=lambda item: not any(item.get_closest_marker(name) for name in ("process", "wine", "slow")))


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A command run in this process sets up logging; the next test finds it as if none had."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture
def sshd() -> Iterator[Sshd]:
    """A plain OpenSSH server on loopback, with an empty inbox."""
    with Sshd() as server:
        yield server


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of recorded ticks."""
    return need_shared_data()


@pytest.fixture(scope="module")
def remotes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remotes]:
    """Real servers, each started when a test first asks for one of its kind."""
    made = Remotes(tmp_path_factory.mktemp("remotes"))
    yield made
    made.close()
