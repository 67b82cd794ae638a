"""Real servers for the whole suite, clean for each test.

A server that is missing skips at home and fails where `CI` is true.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from werkzeug.routing import Rule

from evoflask import db, vault
from evoflask.dev import postgres_server, process
from evoflask.dev.postgres_server import PostgresServer
from evoflask.dev.process import wait_for as _wait_for
from evoflask.dev.redis_server import RedisServer, find_binary
from evoflask.errors import Misconfigured
from evoflask.settings import Settings
from tests import schedule

ROOT = Path(__file__).resolve().parents[1]
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
API_KEY = "test-key-of-the-suite"
ENCRYPTION_KEY = "dGhlIHN1aXRlJ3Mgb3duIGtleSwgMzIgYnl0ZXMhISE="
DATABASES = ("sqlite", "postgres")
DATABASE = os.environ.get("DATABASE") or "sqlite"
"""What tests run on that need one and do not say which."""


def pytest_configure() -> None:
    """Takes a part of the ports, and of the signals those that a shell took away."""
    vault.configure([ENCRYPTION_KEY])
    # Several processes share the tests (pytest-xdist). A server that is down for a moment must
    # find its port free again, so nobody else looks for one there.
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % count
    size = len(process.PORTS) // count
    # Tests must pass on a machine five times slower. A wait ends when its condition is true.
    process.PATIENCE = 5.0
    process.PORTS = process.PORTS[number * size : (number + 1) * size]
    # Whatever runs in the background of a script, or under nohup, ignores these, and so would
    # all that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    _share_builders()


def _share_builders() -> None:
    """Let werkzeug compile the URL builder of a rule once in the suite, not in each application.

    The suite makes three thousand applications of seventy rules. Their builders took 60 ms of the
    90 ms of `create_app`. A builder depends on the rule's text alone where there are no defaults.
    """
    compile_builder, known = Rule._compile_builder, dict[object, Any]()

    def shared(rule: Rule, append_unknown: bool = True) -> Any:
        if rule.defaults:
            return compile_builder(rule, append_unknown)
        key = rule.rule, tuple(rule._trace), append_unknown
        if key not in known:
            known[key] = compile_builder(rule, append_unknown)
        return known[key]

    Rule._compile_builder = shared  # type: ignore[method-assign]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long files first. The tests of a file stay together."""
    items.sort(key=lambda item: schedule.rank(schedule.file_of(item.nodeid)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Replace the scheduling of `--dist loadfile`."""
    return schedule.LongestFirst(config, log) if config.option.dist == "loadfile" else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What is marked `databases` runs on both, all else on the one that DATABASE names."""
    both = metafunc.definition.get_closest_marker("databases") and not os.environ.get("DATABASE")
    for fixture in {"database_url", "empty_url"}.intersection(
        metafunc.fixturenames if both else ()
    ):
        metafunc.parametrize(fixture, DATABASES, indirect=True)


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


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """One server for the session, which forgets all in a power cut. Faults bring their own."""
    try:
        postgres_server.find_programs()
    except Misconfigured as error:
        missing(str(error))
    with PostgresServer(tmp_path_factory.mktemp("postgres"), durable=False) as server:
        yield server


@dataclass(frozen=True)
class Url:
    """What a connection is made of."""

    database_url: str
    database_connections: int = 20
    database_wait_seconds: float = 5.0
    database_statement_seconds: float = 30.0


@pytest.fixture(scope="session")
def postgres_tables(postgres: PostgresServer) -> str:
    """A database with all tables, for one test after the other: it is emptied faster than a
    new one is made. Its name."""
    name = "tables"
    db.connect(Url(postgres.create(name)))
    db.upgrade()
    db.database.obj.close_all()
    return name


@pytest.fixture(scope="session")
def sqlite_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a SQLite file with all tables and no rows."""
    file = tmp_path_factory.mktemp("sqlite") / "tables.db"
    db.connect(Url(f"sqlite:///{file}"))
    db.upgrade()
    _close_all()  # the last connection writes the log into the file
    return file


@pytest.fixture
def make_tables(sqlite_tables: Path) -> Callable[[], None]:
    """Make the tables of a new database. SQLite's file is copied, which costs a hundredth of the
    migrations."""

    def make() -> None:
        if db.is_sqlite():
            shutil.copy(sqlite_tables, db.database.database)
        else:
            db.upgrade()

    return make


@pytest.fixture
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of the test's own without a table."""
    if getattr(request, "param", DATABASE) == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    server, name = request.getfixturevalue("postgres"), f"test_{secrets.token_hex(6)}"
    yield server.create(name)
    _close_all()
    server.drop(name)


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database without a row; in PostgreSQL with all tables, SQLite's file is made by the
    first connection."""
    if getattr(request, "param", DATABASE) == "sqlite":
        yield ""  # in the home
        return
    server, name = request.getfixturevalue("postgres"), request.getfixturevalue("postgres_tables")
    server.execute(_EMPTY, database=name)
    yield server.url(name)
    _close_all()


_EMPTY = """
DO $$
DECLARE t text;
BEGIN
    DELETE FROM meta WHERE key <> 'epoch';
    FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = 'public'
        AND tablename NOT IN ('meta', 'schema_migration')
    LOOP
        EXECUTE format('DELETE FROM %I', t);
        EXECUTE format('ALTER SEQUENCE %I RESTART', t || '_id_seq');
    END LOOP;
END $$
"""


def _close_all() -> None:
    db.close()
    if db.database.obj is not None:
        db.database.obj.close_all()


@pytest.fixture
def settings(tmp_path: Path, redis_url: str, database_url: str) -> Callable[..., Settings]:
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
            "database_url": database_url,
            "webhook_allow_networks": LOOPBACK,
        }
        return Settings(**usual | changes)

    return make
