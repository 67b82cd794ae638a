"""PostgreSQL killed, stopped and standing still, and without a free connection, under load."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from tests.system.conftest import MakeHouse
from tests.system.house import Client, House, message
from tests.system.ledger import Faults
from tests.system.reliability import Table
from tests.system.store import Postgres
from tests.system.test_store_faults import Producers, letters, refuse, rest

pytestmark = [pytest.mark.slow, pytest.mark.beside, pytest.mark.timeout(300)]

AWAY = 30
"""Seconds that it is not there."""


@pytest.fixture
def store(tmp_path: Path) -> Postgres:
    """Few connections: what a house of three processes has plus some."""
    return Postgres(tmp_path / "postgres", max_connections=40)


@contextlib.contextmanager
def stopped(store: Postgres) -> Iterator[None]:
    store.server.stop()
    yield
    store.server.start()


@contextlib.contextmanager
def still(store: Postgres) -> Iterator[None]:
    store.server.pause()
    yield
    store.server.resume()


@contextlib.contextmanager
def locked(store: Postgres) -> Iterator[None]:
    with store.locked("ACCESS EXCLUSIVE"):
        yield


def known(house: House, client: Client, receiver: Receiver) -> None:
    """A tenant whose events all become letters, and whom the web process knows: for one that it
    does not it needs the database."""
    refuse(house, receiver, client)
    client.emit("letters", data=message(0))
    wait_for(lambda: letters(house) == 1, 30, "its first letter", 0.1)


def test_a_postgresql_that_is_killed_time_and_again_costs_no_event_and_no_letter(
    make_house: MakeHouse, receiver: Receiver, table: Table, store: Postgres
) -> None:
    house, faults = make_house(workers=2, store=store), Faults()
    client = house.client()
    known(house, client, receiver)
    producers = Producers(house, receiver, 0.02)
    producers.wait_for(100)

    sent = 1
    for _ in range(5):
        with faults.during("killed"):
            for _ in range(10):
                assert client.emit("letters", data=message(sent)).status_code == 202
                sent += 1
            store.server.kill9()
            producers.wait_for(100)
            store.server.start()
        producers.wait_for(100)
        wait_for(lambda n=sent: letters(house) == n, 30, "the letters", 0.1)
        # Whoever asks first after a restart may be told so; then all is as before.
        wait_for(lambda: client.call("GET", "/deadletter").ok, 10, "an answer", 0.1)
    producers.stop()

    house.wait_quiet(60)
    assert producers.refusals == []
    ids = [id for (id,) in house.query("SELECT event_id FROM dead_letter")]
    assert len(ids) == len(set(ids)) == sent
    done = "SIGKILL for all of its processes, five times, started again after 100 events"
    why = f"{sent} letters, each once; no emit was refused"
    table.check("PostgreSQL killed", done, producers.ledger, receiver, faults, why)
    assert store.sound()
    assert house.audit()[0] == 0


@pytest.mark.parametrize(
    ("name", "away"),
    [("stopped", stopped), ("standing still", still), ("locked, also for readers", locked)],
    ids=["stopped", "still", "locked"],
)
def test_a_postgresql_that_is_away_for_30_seconds_holds_up_letters_and_no_event(
    make_house: MakeHouse,
    receiver: Receiver,
    table: Table,
    store: Postgres,
    name: str,
    away: Callable[[Postgres], contextlib.AbstractContextManager[None]],
) -> None:
    bounds = {"database_wait_seconds": 2, "database_statement_seconds": 3}
    house, faults = make_house(workers=1, store=store, **bounds), Faults()
    client = house.client()
    known(house, client, receiver)
    producers = Producers(house, receiver, 0.05)
    producers.wait_for(50)

    with faults.during(name), away(store):
        began = time.monotonic()
        for n in range(20):
            assert client.emit("letters", data=message(n)).status_code == 202
        told = refused(house, 6)
        seen = len(receiver.ids())
        producers.wait_for(100)
        wait_for(lambda: len(receiver.ids()) > seen + 50, 30, "deliveries meanwhile", 0.2)
        rest(max(0.0, began + AWAY - time.monotonic()))
    wait_for(lambda: letters(house) == 21, 30, "the letters", 0.1)
    producers.stop()

    house.wait_quiet(60)
    assert producers.refusals == []
    assert max(told) < 15
    client.good("GET", "/instance/fetchInstances")
    done = f"for {AWAY} s, under load"
    why = f"20 letters wait for its end; what needs it is answered 503 within {max(told):.0f} s"
    table.check(f"PostgreSQL {name}", done, producers.ledger, receiver, faults, why)
    assert house.audit()[0] == 0


def refused(house: House, times: int) -> list[float]:
    """Seconds until requests that need the database are told that it is not there."""
    client, took = house.client(), []
    for _ in range(times):
        began = time.monotonic()
        assert client.call("GET", "/instance/fetchInstances").status_code == 503
        took.append(time.monotonic() - began)
    return took


def test_a_postgresql_without_a_free_connection_holds_up_letters_and_no_event(
    make_house: MakeHouse, receiver: Receiver, table: Table, store: Postgres
) -> None:
    house, faults = make_house(workers=1, store=store), Faults()
    client = house.client()
    known(house, client, receiver)
    producers = Producers(house, receiver, 0.05)
    producers.wait_for(50)

    with contextlib.ExitStack() as taken, faults.during("no connection"):
        # A restart, or the house would keep those that it has.
        store.server.restart()
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                taken.enter_context(store.connect())
        began = time.monotonic()
        for n in range(20):
            assert client.emit("letters", data=message(n)).status_code == 202
        seen = len(receiver.ids())
        producers.wait_for(100)
        wait_for(lambda: len(receiver.ids()) > seen + 50, 30, "deliveries meanwhile", 0.2)
        rest(max(0.0, began + AWAY - time.monotonic()))
    wait_for(lambda: letters(house) == 21, 30, "the letters", 0.1)
    producers.stop()

    house.wait_quiet(60)
    assert producers.refusals == []
    done = f"all taken by somebody else for {AWAY} s, under load"
    table.check("PostgreSQL's connections", done, producers.ledger, receiver, faults)
    assert house.audit()[0] == 0
