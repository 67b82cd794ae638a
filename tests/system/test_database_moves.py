"""The database goes back to a backup, and up from its first tables, while events come in."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import requests

from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from tests.system.conftest import MakeHouse
from tests.system.house import House, message
from tests.system.ledger import Faults
from tests.system.reliability import Table
from tests.system.store import NAMES, usual
from tests.system.test_store_faults import Producers, letters, refuse

pytestmark = [pytest.mark.slow, pytest.mark.beside, pytest.mark.timeout(600)]

REST = ("worker", "clock")


def test_an_empty_database_is_an_error_and_destroys_nothing_of_what_redis_has(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(outbox_retain_seconds=1)
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/a"))
    house.kill9("worker")
    ids = {client.emit("a", data=message(n)).json()["id"] for n in range(20)}
    right, wrong = house.env["DATABASE_URL"], f"sqlite:///{house.folder}/empty.db"

    restart(house, wrong)
    wait_for(lambda: "knows none of them" in house.output("clock"), 60, "the clock's log", 0.1)
    wait_for(lambda: "knows none of them" in house.output("web"), 60, "the web's log", 0.1)
    ready = requests.get(f"{client.base}/readyz", timeout=10)
    # Every chore was done several times since.
    began = house.raw.time()[0]
    wait_for(lambda: float(house.raw.hget("evo:chores", "mirror")) > began + 5, 60, "chores", 0.1)
    restart(house, right)

    house.wait_quiet(60)
    part = ready.json()["parts"]["database"]
    assert (ready.status_code, part["state"], part["lanesUnknown"]) == (503, "failure", 1)
    assert "DATABASE_URL" in part["message"]
    assert {each.id for each in receiver.received() if each.path == "/a"} == ids
    assert house.audit()[0] == 0
    after = requests.get(f"{client.base}/readyz", timeout=10).json()["parts"]["database"]
    assert after["state"] == "ok"


def restart(house: House, url: str) -> None:
    """Restart all processes on another database."""
    for kind in ("web", "clock", "worker"):
        house.stop(kind)
    house.env["DATABASE_URL"] = url
    assert house.command("release").wait(60) == 0
    for kind in ("web", "clock", "worker"):
        house.start(kind)


@pytest.mark.parametrize("name", NAMES)
def test_a_restored_backup_is_adopted_and_nothing_that_redis_accepted_is_lost(
    make_house: MakeHouse, receiver: Receiver, table: Table, tmp_path: Path, name: str
) -> None:
    house, faults = make_house(store=usual(tmp_path, name)), Faults()
    client, copy = house.client(), tmp_path / "copy"
    refuse(house, receiver, client)
    for n in range(5):
        client.emit("letters", data=message(n))
    wait_for(lambda: letters(house) == 5, 30, "the letters", 0.1)
    producers = Producers(house, receiver, 0.02)
    producers.wait_for(100)

    house.store.backup(copy)
    producers.wait_for(100)
    client.change("t1", "webhook", concurrency=3)
    client.emit("letters", data=message(6))
    wait_for(lambda: letters(house) == 6, 30, "a letter that the backup has not", 0.1)
    with faults.during("the database is replaced"):
        # What was accepted and not delivered is Redis' own, and stays.
        client.good("POST", "/lane/t0/webhook/pause")
        producers.wait_for(100)
        for kind in ("clock", "worker", "web"):
            house.stop(kind)
        house.store.restore(copy)
        house.start("web")
        status, said = house.flask("db", "adopt")
        assert status == 0, said
        for kind in REST:
            house.start(kind)
    producers.wait_for(100)
    producers.stop()
    house.wait_quiet(60)

    rows = {row["name"]: row for row in client.good("GET", "/subscription/t1")}
    assert rows["webhook"]["concurrency"] != 3
    assert letters(house) == 5
    assert client.good("POST", "/deadletter/requeue", {"instance": "letters"})["requeued"] == 5
    house.wait_quiet(60)
    done = "copied under load, changed, and the copy put in its place and adopted"
    why = "settings and letters are those of the copy"
    fault = f"{house.store.name} restored from a backup"
    table.check(fault, done, producers.ledger, receiver, faults, why)
    status, said = house.audit()
    assert status == 0, said


@pytest.mark.parametrize("name", NAMES)
def test_the_first_tables_are_upgraded_while_events_are_accepted(
    make_house: MakeHouse, receiver: Receiver, table: Table, tmp_path: Path, name: str
) -> None:
    house, faults = make_house(store=usual(tmp_path, name)), Faults()
    client = house.client()
    refuse(house, receiver, client)
    for n in range(30):
        client.emit("letters", data=message(n))
    wait_for(lambda: letters(house) == 30, 30, "the letters", 0.1)
    client.good("POST", "/deadletter/discard", {"instance": "letters", "limit": 10})
    producers = Producers(house, receiver, 0.02)
    producers.wait_for(100)
    kept = rows(house)

    with faults.during("the upgrade"):
        for kind in REST:
            house.stop(kind)
        status, said = house.flask("db", "downgrade", "0002_audit_log")
        assert status == 0, said
        assert applied(house) == ["0001_first"]
        producers.wait_for(100)
        (home,) = house.query(HOME)
        house.store.write_many(OLD, [old(home, n) for n in range(5_000)])
        before = len(producers.ledger)
        status, said = house.flask("db", "upgrade", timeout=120)
        assert status == 0, said
        meanwhile = len(producers.ledger) - before
        for kind in REST:
            house.start(kind)
    producers.wait_for(100)
    producers.stop()
    house.wait_quiet(60)

    assert producers.refusals == []
    assert meanwhile > 0
    assert rows(house) == kept
    assert letters(house) == 30 + 5_000
    done = f"from its first tables to the newest, {meanwhile} events accepted while it ran"
    fault = f"{house.store.name} upgraded"
    table.check(fault, done, producers.ledger, receiver, faults)
    house.store.write("DELETE FROM dead_letter WHERE entry LIKE '%old'")
    status, said = house.audit()
    assert status == 0, said


def applied(house: House) -> list[str]:
    return [name for (name,) in house.query("SELECT name FROM schema_migration ORDER BY name")]


def rows(house: House) -> list[object]:
    """What the first tables say, but for what changes by itself."""
    instances = "SELECT id, name, outbox, token_sha256 FROM instance ORDER BY id"
    subscriptions = (
        "SELECT id, name, lane, sink, events, concurrency, timeout FROM subscription ORDER BY id"
    )
    dead = (
        "SELECT id, entry, event_id, reason, code, detail, meta, data, discarded_at"
        " FROM dead_letter WHERE entry NOT LIKE '%old' ORDER BY id"
    )
    return [house.query(sql) for sql in (instances, subscriptions, dead)]


HOME = """
SELECT s.instance_id, s.id, s.lane FROM subscription s JOIN instance i ON i.id = s.instance_id
WHERE i.name = 'letters'
"""
OLD = """
INSERT INTO dead_letter (instance_id, instance_name, subscription_id, subscription_name, lane,
    sink, entry, event_id, event, order_keys, at, size, reason, code, detail, tries, meta,
    created_at, requeued_at, requeued_run, discarded_at, data)
VALUES (?, 'letters', ?, 'webhook', ?, 'webhook', ?, ?, 'MESSAGES_UPSERT', NULL, ?, 400,
    'exhausted', '503', ?, 7, '{}', ?, ?, NULL, ?, ?)
"""


def old(home: tuple[object, ...], n: int) -> tuple[object, ...]:
    """A letter as the first version wrote it: open, requeued or discarded."""
    now = time.time()
    requeued = now if n % 3 == 1 else None
    discarded = now if n % 3 == 2 else None
    body = None if n % 3 else b"\x00\xff" + b"x" * 398
    entry = f"{1700000000000 + n:013d}-old"
    detail = f"it answered {n} é 😀"
    return (*home, entry, f"old-{n}", now, detail, now, requeued, discarded, body)
