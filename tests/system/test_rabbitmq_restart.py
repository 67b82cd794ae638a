"""A broker that goes and comes back under the whole house, and one that nobody listens to."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pika
import pytest
from pika.exceptions import AMQPError

from evoflask.dev.process import wait_for
from evoflask.dev.rabbitmq_server import RabbitmqServer
from evoflask.errors import Misconfigured
from tests.conftest import missing
from tests.system.conftest import MakeHouse
from tests.system.house import House, Threads, message
from tests.system.reliability import Row, Table

pytestmark = [pytest.mark.slow, pytest.mark.beside, pytest.mark.timeout(300)]

TENANTS, EACH = 20, 250
EXCHANGE, QUEUE = "evolution-events", "all"
SCHEDULE = "0.5,0.5,1,1" + ",2" * 40
"""Longer than a broker is away."""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RabbitmqServer]:
    server = RabbitmqServer(tmp_path / "rabbitmq")
    try:
        server.prepare()
    except Misconfigured as error:
        missing(str(error))
    with server:
        yield server


@contextlib.contextmanager
def opened(server: RabbitmqServer) -> Iterator[pika.adapters.blocking_connection.BlockingChannel]:
    connection = pika.BlockingConnection(pika.URLParameters(server.url))
    try:
        yield connection.channel()
    finally:
        with contextlib.suppress(AMQPError):
            connection.close()


def bind(server: RabbitmqServer) -> None:
    """A durable queue for all."""
    with opened(server) as channel:
        channel.exchange_declare(EXCHANGE, "topic", durable=True)
        channel.queue_declare(QUEUE, durable=True)
        channel.queue_bind(QUEUE, EXCHANGE, "evolution.*.messages_upsert")
    server.keep()


def read(server: RabbitmqServer) -> list[tuple[str, str, bytes]]:
    """Instance, id and body of all that lies in the queue."""
    found = []
    with opened(server) as channel:
        while True:
            method, properties, body = channel.basic_get(QUEUE, auto_ack=True)
            if method is None:
                return found
            found.append((json.loads(body)["instance"], properties.message_id, body))


def tenants(house: House, count: int) -> list[str]:
    client = house.client()
    names = [f"t{n}" for n in range(count)]
    for name in names:
        client.create(name)
        body = {"rabbitmq": {"enabled": True, "events": ["MESSAGES_UPSERT"]}}
        client.good("POST", f"/rabbitmq/set/{name}", body)
    return names


class Accepted:
    """What was answered 2xx; safe to share between threads."""

    def __init__(self) -> None:
        self.ids: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def pour(self, house: House, names: list[str], events: range) -> None:
        client = house.client()
        for n in events:
            for name in names:
                event = {"event": "MESSAGES_UPSERT", "id": f"{name}-{n}", "data": message(n)}
                client.insist(f"/event/emit/{name}", event)
                with self._lock:
                    self.ids.add((name, f"{name}-{n}"))


def test_a_broker_stopped_and_killed_during_5000_events_has_them_all(
    make_house: MakeHouse, broker: RabbitmqServer, table: Table
) -> None:
    bind(broker)
    house = make_house(workers=2, rabbitmq_uri=broker.url, retry_schedule=SCHEDULE)
    names = tenants(house, TENANTS)
    accepted = Accepted()

    half = EACH // 2
    for end, events in ((broker.stop, range(half)), (broker.kill9, range(half, EACH))):
        before = len(accepted.ids)
        emitters = Threads(
            [lambda k=k, e=events: accepted.pour(house, names[k::4], e) for k in range(4)]
        )
        wait_for(lambda n=before: len(accepted.ids) > n + 800, 60, "events under way")
        end()
        # They are accepted all the same.
        seen = len(accepted.ids)
        wait_for(lambda n=seen: len(accepted.ids) > n + 200, 60, "events without a broker")
        broker.start()
        emitters.join()
        house.wait_quiet(120)

    assert len(accepted.ids) == TENANTS * EACH
    arrived = read(broker)
    assert {(name, id) for name, id, _ in arrived} == accepted.ids
    # A repeat is the same to the byte.
    assert len({body for _, _, body in arrived}) == len(accepted.ids)
    assert house.query("SELECT count(*) FROM dead_letter") == [(0,)]
    assert house.off() == {}
    status, said = house.audit()
    assert status == 0, said
    for n in range(2):
        assert house.process("worker", n).alive
    repeats = len(arrived) - len(accepted.ids)
    done = "stopped, and later killed, under load"
    why = "under way when it was done" if repeats else ""
    table.write(Row("RabbitMQ restarted", done, len(accepted.ids), 0, repeats, why))
    # That a broker is away is told in the lanes, and is no flood in the log.
    assert "pika" not in house.output("worker")
    assert "guest:guest" not in house.output("worker")


def test_what_nobody_is_bound_for_is_a_letter_and_arrives_once_it_is_bound_and_requeued(
    make_house: MakeHouse, broker: RabbitmqServer
) -> None:
    house = make_house(rabbitmq_uri=broker.url)
    [name] = tenants(house, 1)
    client = house.client()
    kept = {client.emit(name, data=message(n)).json()["id"] for n in range(20)}

    wait_for(lambda: house.query("SELECT count(*) FROM dead_letter") == [(20,)], 30)

    letters = client.good("GET", "/deadletter")["letters"]
    assert {(each["reason"], each["code"]) for each in letters} == {("rejected", "unroutable")}
    bind(broker)
    assert client.good("POST", "/deadletter/requeue", {"code": "unroutable"})["requeued"] == 20
    house.wait_quiet()
    assert sorted(id for _, id, _ in read(broker)) == sorted(kept)
    status, said = house.audit()
    assert status == 0, said


def test_an_alarm_of_the_broker_charges_nothing_and_loses_nothing(
    make_house: MakeHouse, broker: RabbitmqServer
) -> None:
    bind(broker)
    house = make_house(rabbitmq_uri=broker.url, retry_schedule="1,1")
    names = tenants(house, 4)
    accepted = Accepted()
    accepted.pour(house, names, range(5))
    house.wait_quiet()

    broker.ctl("set_vm_memory_high_watermark", "absolute", "1")
    accepted.pour(house, names, range(5, 100))
    began = time.monotonic()
    wait_for(lambda: time.monotonic() > began + 5, what="an alarm that lasts")
    waiting = house.unsettled()
    broker.ctl("set_vm_memory_high_watermark", "0.4")

    assert waiting > 300
    house.wait_quiet()
    arrived = read(broker)
    # What was on its way when the broker stopped listening may be sent again after its hold.
    assert {(name, id) for name, id, _ in arrived} == accepted.ids
    assert len(arrived) <= len(accepted.ids) + 4 * 8
    assert house.query("SELECT count(*) FROM dead_letter") == [(0,)]
    assert not any(view.facts.get("error") for view in house.lanes())
