"""Every store. A new one is enrolled in `STORES`, and nowhere else."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from serve_app.store.base import Store
from serve_app.store.memory import MemoryStore
from serve_app.store.redis import RedisStore
from serve_app.store.sqlite import SqliteStore
from tests.store.servers import RedisServer

STORES = ("memory", "sqlite", "redis")
SHARED = ("sqlite", "redis")
"""Those that several processes can use."""


@pytest.fixture(scope="session")
def running_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for the tests that leave it running; each uses a prefix of its own."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that the test may kill."""
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str, str], Store]:
    """Opens a store of a kind; stores of one name share their state, and another name is empty."""

    def open_store(kind: str, name: str = "a") -> Store:
        if kind == "memory":
            return MemoryStore()
        if kind == "sqlite":
            return SqliteStore(tmp_path / name, timeout_s=10)
        server: RedisServer = request.getfixturevalue("running_redis")
        return RedisStore(server.url, prefix=f"{tmp_path.name}-{name}-{id(request)}", timeout_s=10)

    return open_store


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, opener: Callable[..., Store]) -> AsyncIterator[Store]:
    """Every store in turn, empty."""
    opened = opener(request.param)
    yield opened
    await opened.close()
