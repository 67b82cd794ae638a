"""Real servers for the whole suite, clean for each test.

A server that is missing skips at home and fails where `CI` is true.
"""

from __future__ import annotations

import ipaddress
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from evoflask import vault
from evoflask.dev import process
from evoflask.dev.process import wait_for as _wait_for
from evoflask.dev.redis_server import RedisServer, find_binary
from evoflask.errors import Misconfigured
from evoflask.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
API_KEY = "test-key-of-the-suite"
ENCRYPTION_KEY = "dGhlIHN1aXRlJ3Mgb3duIGtleSwgMzIgYnl0ZXMhISE="


def pytest_configure() -> None:
    """Takes a part of the ports, and of the signals those that a shell took away."""
    vault.configure([ENCRYPTION_KEY])
    # Several processes share the tests (pytest-xdist). A server that is down for a moment must
    # find its port free again, so nobody else looks for one there.
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % count
    size = len(process.PORTS) // count
    process.PORTS = process.PORTS[number * size : (number + 1) * size]
    # Whatever runs in the background of a script, or under nohup, ignores these, and so would
    # all that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def missing(what: str) -> None:
    """Ends the test: there is no such server here."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture
def wait_for() -> Callable[..., Any]:
    """Polls a condition: `wait_for(lambda: ..., timeout=5)`."""
    return _wait_for


@pytest.fixture
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for the session, in memory only. Faults bring servers of their own."""
    try:
        find_binary()
    except Misconfigured as error:
        missing(str(error))
    folder = tmp_path_factory.mktemp("redis")
    with RedisServer(folder, socket=folder / "s") as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The session's server, emptied."""
    with redis_server.client() as client:
        client.flushall()
        client.script_flush()
        client.config_set("maxmemory", "1gb")
    return redis_server.url


@pytest.fixture
def redis_client(redis_url: str, redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A client of the emptied server; answers bytes, tries once."""
    with redis_server.client() as client:
        yield client


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Callable[..., Settings]:
    """Makes `Settings` with a home of the test's own: `settings(max_batch=3)`."""

    def make(**changes: Any) -> Settings:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        usual: dict[str, Any] = {
            "home": home,
            "api_key": API_KEY,
            "encryption_key": (ENCRYPTION_KEY,),
            "auth_failures_per_minute": 100_000,
            "redis_url": redis_url,
            "webhook_allow_networks": LOOPBACK,
        }
        return Settings(**usual | changes)

    return make
