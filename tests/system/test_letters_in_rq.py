"""Letters as RQ's jobs in a whole house: they come back when RQ's Redis was emptied, RQ's own
tools requeue them, and a hundred thousand of them slow nobody."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from evoflask import mirror
from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from evoflask.dev.redis_server import RedisServer
from evoflask.models import DeadLetter
from tests.system.conftest import MakeHouse
from tests.system.house import House, message

SINK = "webhook"
LETTERS = 100_000
EVENTS = 2_000
ROUNDS = 3


@pytest.fixture
def rq(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of RQ's own."""
    with RedisServer(tmp_path / "rq") as server:
        yield server


def give_up(house: House, receiver: Receiver, n: int) -> list[str]:
    """Events of instance `a` that a destination refuses for good; their ids."""
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/status/410"), retry=[])
    ids = [f"event-{each}" for each in range(n)]
    events = [{"event": "CALL", "id": each, "data": message(i)} for i, each in enumerate(ids)]
    assert client.emit_many("a", events).status_code == 202
    house.wait_quiet()
    return ids


def test_letters_follow_the_rows_through_a_flush_of_rqs_redis_and_rqs_own_requeue(
    make_house: MakeHouse, rq: RedisServer, receiver: Receiver
) -> None:
    house = make_house(rq_redis_url=rq.url)
    ids = give_up(house, receiver, 5)
    client: redis.Redis = rq.client()
    wait_for(lambda: len(mirror.shown(client, SINK)) == 5, 20, "five failed jobs")

    client.flushall()
    wait_for(lambda: len(mirror.shown(client, SINK)) == 5, 20, "the five again")

    house.client().set_webhook("a", receiver.url("/mended"))
    first = mirror.job_id(mirror.shown(client, SINK)[-1])
    # What RQ's command line does, and any other dashboard.
    words = ("--serializer", "rq.serializers.JSONSerializer", "--queue", "evoflask:webhook")
    process = house.command("rq", "requeue", "--url", rq.url, *words, first)
    assert process.wait(30) == 0, process.output()
    wait_for(lambda: len(mirror.shown(client, SINK)) == 4, 40, "four failed jobs")
    house.client().good("POST", "/deadletter/requeue", {"instance": "a"})

    wait_for(lambda: not mirror.shown(client, SINK), 20, "none")
    house.wait_quiet()
    arrived = [one.id for one in receiver.received() if one.path == "/mended"]
    assert sorted(arrived) == sorted(ids)
    assert house.off() == {}
    status, said = house.audit()
    assert status == 0, said


def fill(house: House, letters: int) -> None:
    """Letters, as many as a bad night leaves."""
    fields = DeadLetter._meta.sorted_fields
    names = [field.column_name for field in fields if field is not DeadLetter.id]
    (row,) = house.query(f"SELECT {','.join(names)} FROM dead_letter LIMIT 1")
    values = dict(zip(names, row, strict=True))
    marks = ",".join("?" * len(names))
    house.store.write_many(
        f"INSERT INTO dead_letter ({','.join(names)}) VALUES ({marks})",
        (
            [values[name] if name != "entry" else f"{n:013d}-filled" for name in names]
            for n in range(letters)
        ),
    )


def show(house: House, there: bool) -> None:
    """All letters open, or none, and RQ's jobs like them."""
    house.store.write("UPDATE dead_letter SET discarded_at = ?", None if there else time.time())
    wanted = 1000 if there else 0
    wait_for(lambda: len(mirror.shown(house.raw, SINK)) == wanted, 60, f"{wanted} failed jobs")


def rate(house: House, receiver: Receiver, prefix: str) -> float:
    """Events delivered a second, from the first emit to the last arrival."""
    client, before, began = house.client(), receiver.count(), time.monotonic()
    for at in range(0, EVENTS, 500):
        events = [
            {"event": "CALL", "id": f"{prefix}{n}", "data": message(n, chat=str(n % 50))}
            for n in range(at, at + 500)
        ]
        assert client.emit_many("b", events).status_code == 202
    receiver.wait_for(before + EVENTS, 120)
    return EVENTS / (time.monotonic() - began)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hundred_thousand_letters_slow_neither_the_dashboard_nor_the_workers(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house()
    give_up(house, receiver, 1)
    client = house.client()
    client.create("b")
    client.set_webhook("b", receiver.url("/b"))
    rate(house, receiver, "warm-")
    fill(house, LETTERS)

    # In turns, so that a machine that is busy with something else is so for both.
    rates: dict[bool, list[float]] = {False: [], True: []}
    for n in range(ROUNDS):
        for there in (False, True):
            show(house, there)
            rates[there].append(rate(house, receiver, f"{n}-{there}-"))
    took = []
    for _ in range(10):
        began = time.monotonic()
        client.good("GET", "/rq/0/data/queues.json")
        page = client.good("GET", "/rq/0/data/jobs/evoflask:webhook/failed/8/asc/1.json")
        took.append(time.monotonic() - began)
        assert len(page["jobs"]) == 8

    ratio = max(rates[True]) / max(rates[False])
    print(f"deliveries a second: {rates[False]} without, {rates[True]} with {LETTERS} letters;")
    print(f"ratio {ratio:.2f}; the queues and a page of letters: {sorted(took)[5]:.3f} s")
    assert ratio > 0.7
    assert sorted(took)[5] < 1
    assert house.off() == {}
