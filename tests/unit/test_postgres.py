"""PostgreSQL: that every wait has an end, that the pool has bounds, and what a restart costs."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import peewee
import psycopg
import pytest

from evoflask import auditlog, db, models, postgres
from evoflask.dev import postgres_server
from evoflask.dev.postgres_server import PostgresServer
from evoflask.errors import DatabaseDown, Misconfigured
from evoflask.settings import Settings
from tests.conftest import Url, missing

WAIT = 1.0
STATEMENT = 2.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """One that is killed and paused."""
    try:
        postgres_server.find_programs()
    except Misconfigured as error:
        missing(str(error))
    folder = tmp_path_factory.mktemp("postgres")
    with PostgresServer(folder, durable=False, settings={"max_connections": 12}) as made:
        db.connect(Url(made.create("a")))
        db.upgrade()
        yield made


@pytest.fixture
def url(server: PostgresServer) -> Iterator[str]:
    """A bound database, with little patience and three connections."""
    if server.process is None or not server.process.alive:
        server.start()
    server.execute("DELETE FROM instance", database="a")
    url = server.url("a")
    db.connect(Url(url, 3, WAIT, STATEMENT))
    yield url
    db.close()
    db.database.obj.close_all()


def ask() -> int:
    with db.translate():
        return int(models.Instance.select().count())


def in_threads(n: int, work: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(n) as threads:
        return list(threads.map(work, range(n)))


def test_a_server_that_is_down_is_told_at_once_and_reached_again_once_it_is_up(
    server: PostgresServer, url: str
) -> None:
    assert ask() == 0

    server.kill9()
    told = []
    for _ in range(3):
        began = time.monotonic()
        with pytest.raises(DatabaseDown):
            ask()
        told.append(time.monotonic() - began)
    server.start()

    assert max(told) < WAIT
    assert ask() == 0


def test_connections_that_a_restart_broke_are_never_handed_out_again(
    server: PostgresServer, url: str
) -> None:
    met = threading.Barrier(3)

    def hold(_: int) -> None:
        ask()
        met.wait(10)
        db.close()

    in_threads(3, hold)
    server.restart()

    assert in_threads(3, lambda _: (ask(), db.close())) == [(0, None)] * 3


def test_a_broken_connection_is_replaced_even_if_nobody_said_so(
    server: PostgresServer, url: str
) -> None:
    query = models.Instance.select()
    assert query.count() == 0

    server.restart()
    told = raises(query.count)  # not through the door that closes it

    assert told is peewee.OperationalError
    assert query.count() == 0


def test_a_transaction_that_a_restart_broke_leaves_the_thread_usable(
    server: PostgresServer, url: str
) -> None:
    def fail() -> None:
        with db.writing():
            make("a")
            server.restart()
            make("b")

    with pytest.raises(DatabaseDown):
        fail()

    assert not db.database.in_transaction()
    assert ask() == 0


def make(name: str) -> models.Instance:
    made: models.Instance = models.Instance.create(
        name=name, token_sha256="", integration="EVOLUTION"
    )
    return made


def test_a_server_that_stands_still_holds_nobody_for_longer_than_the_bounds(
    server: PostgresServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "MARGIN", 0.5)
    met = threading.Barrier(6)
    db.connect(Url(url, 8, WAIT, STATEMENT))
    in_threads(6, lambda _: (met.wait(10), ask(), met.wait(10), db.close()))  # six are kept
    ask()

    server.pause()
    try:
        began = time.monotonic()
        with pytest.raises(DatabaseDown):
            ask()  # on a connection that is open
        open_one = time.monotonic() - began
        began = time.monotonic()
        new_ones = in_threads(12, lambda _: raises(ask))
        at_once = time.monotonic() - began
    finally:
        server.resume()

    assert open_one < STATEMENT + 3
    assert new_ones == [DatabaseDown] * 12
    # libpq gives up after two seconds at least; one after the other it would be six times that.
    assert at_once < 8
    assert ask() == 0


def raises(work: Callable[[], object]) -> type[Exception] | None:
    try:
        work()
    except Exception as error:
        return type(error)
    return None


def test_an_address_that_swallows_everything_is_given_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        db.connect(Url(f"postgresql://u@127.0.0.1:{port}/d", 3, WAIT, STATEMENT))
        began = time.monotonic()

        with pytest.raises(DatabaseDown):
            ask()

        assert time.monotonic() - began < 6


def test_one_more_than_the_pool_has_waits_and_is_refused(url: str) -> None:
    held, done = threading.Barrier(4), threading.Event()

    def hold(n: int) -> object:
        if n == 3:
            held.wait(10)
            began = time.monotonic()
            try:
                return raises(ask), time.monotonic() - began >= WAIT - 0.1
            finally:
                done.set()
        ask()
        held.wait(10)
        done.wait(10)
        db.close()
        return None

    refused = in_threads(4, hold)[3]

    assert refused == (DatabaseDown, True)
    assert ask() == 0


def test_one_more_than_the_pool_has_gets_what_somebody_gives_back(url: str) -> None:
    def work(_: int) -> int:
        for _ in range(5):
            ask()
            db.close()
        return 1

    assert sum(in_threads(12, work)) == 12


def test_threads_that_ended_with_a_connection_leave_room_for_others(url: str) -> None:
    for _ in range(4):
        in_threads(2, lambda _: ask())  # nobody gives it back

    assert ask() == 0


def test_a_server_without_a_free_connection_is_down_and_comes_back(
    server: PostgresServer, url: str
) -> None:
    links: list[psycopg.Connection[Any]] = []

    while raises(lambda: links.append(psycopg.connect(url))) is None:
        pass
    refused = raises(ask)
    for link in links:
        link.close()

    assert refused is DatabaseDown
    deadline = time.monotonic() + 5
    while raises(ask) and time.monotonic() < deadline:
        time.sleep(0.01)  # its backends end a moment after their connections
    assert ask() == 0


def test_a_lock_and_a_long_statement_end_by_themselves(url: str) -> None:
    row = make("a")
    with psycopg.connect(url) as other:
        other.execute("UPDATE instance SET number = '1'")
        began = time.monotonic()
        change = models.Instance.update(number="2").where(models.Instance.id == row.id)

        assert raises(lambda: write(change)) is DatabaseDown
        assert WAIT - 0.1 < time.monotonic() - began < WAIT + 3
        other.rollback()

    with pytest.raises(DatabaseDown), db.translate():
        db.database.execute_sql("SELECT pg_sleep(30)")
    assert raises(lambda: write(change)) is None


def write(query: Any) -> None:
    with db.writing():
        query.execute()


def test_a_process_that_stands_still_in_a_transaction_loses_its_locks(url: str) -> None:
    row = make("a")
    change = models.Instance.update(number="2").where(models.Instance.id == row.id)
    took = []

    def other(_: int) -> None:
        began = time.monotonic()
        while raises(lambda: write(change)) and time.monotonic() < began + 20:
            pass
        took.append(time.monotonic() - began)

    def stand_still() -> None:
        with db.writing():
            change.execute()
            in_threads(1, other)
            change.execute()

    lost = raises(stand_still)

    assert lost is DatabaseDown
    assert took[0] < STATEMENT + 3
    assert ask() == 1


def test_what_the_url_says_counts_more_than_the_settings() -> None:
    limits = postgres.Limits(3, 5, 30)

    usual = postgres.parameters("postgresql://u:p%40@h:1/d?sslmode=require", limits)
    said = postgres.parameters(
        "postgresql://h/d?connect_timeout=9&options=-c%20statement_timeout%3D1", limits
    )

    assert (usual["user"], usual["password"], usual["port"]) == ("u", "p@", "1")
    assert usual["sslmode"] == "require"
    assert "statement_timeout=30000" in usual["options"]
    assert said["connect_timeout"] == "9"
    assert said["options"].endswith("-c statement_timeout=1")


def test_a_nul_in_a_text_costs_no_row(url: str) -> None:
    with db.writing():
        auditlog.note("a\x00b", "x", fact="c\x00d")
        columns = ("instance_id", "instance_name", "subscription_name", "sink", "lane", "entry")
        columns += ("event_id", "event", "number", "at", "seconds", "outcome", "code", "detail")
        columns += ("host", "answer")
        one = (1, "i", "s", "webhook", "l", "e", "id", "CALL", 1, 0.5, 0.25, "refused")
        db.insert_rows("delivery_log", columns, [(*one, "500", "d\x00e", "h", 'tab\tnl\n"\\N')])

    noted = models.AuditLog.select().order_by(models.AuditLog.id.desc()).first()
    log = models.DeliveryLog.select().first()
    assert (noted.by, noted.facts) == ("a\ufffdb", {"fact": "c\x00d"})
    assert (log.detail, log.answer, log.at) == ("d\ufffde", 'tab\tnl\n"\\N', 0.5)
    assert models.Instance.get_or_none(models.Instance.name == "\x00") is None


def test_a_migration_waits_for_a_table_in_short_turns_so_that_others_get_through(
    server: PostgresServer,
) -> None:
    url = server.create("b")
    db.connect(Url(url))
    names = db.upgrade()
    index = "0008_letter_indexes"
    for name in reversed(names[names.index(index) :]):
        db.downgrade(name)
    with psycopg.connect(url) as other, ThreadPoolExecutor(1) as thread:
        other.execute("SELECT count(*) FROM dead_letter")  # and its transaction goes on
        upgrade = thread.submit(db.upgrade)
        slowest = 0.0
        end = time.monotonic() + 4
        with psycopg.connect(url, autocommit=True) as reader:
            while time.monotonic() < end:
                began = time.monotonic()
                reader.execute("SELECT count(*) FROM dead_letter")
                slowest = max(slowest, time.monotonic() - began)
        assert not upgrade.done()
        other.rollback()
        assert upgrade.result(20)[0] == index

    assert slowest < 2.5
    assert db.pending() == []


def test_errors_of_the_driver_are_known_by_peewee() -> None:
    """peewee looks at a class and its first base; what it does not know would pass the door."""
    kinds = [kind for kind in vars(psycopg.errors).values() if isinstance(kind, type)]
    kinds = [k for k in kinds if issubclass(k, psycopg.Error) and k is not psycopg.Error]

    for kind in kinds:
        with pytest.raises(peewee.PeeweeException), peewee.__exception_wrapper__:
            raise kind("x")


def test_a_password_in_the_options_of_the_url_is_a_secret_too() -> None:
    url = "postgresql://u:one@h/d?password=two%21&sslpassword=three"

    assert {"one", "two!", "two%21", "three"} <= set(Settings(database_url=url).secrets())
