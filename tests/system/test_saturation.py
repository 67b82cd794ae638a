"""Sinks beside sinks: two are saturated by backlogs, lone events of three others go on."""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path

import pika
import pytest

from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from tests.system.six_servers import Six, six

BOUND = 0.2
"""Seconds: the 99th percentile from the answer of the emit to the arrival, on a fast machine."""
TIMES = 20
"""On a slow one: so many times what it is alone. Behind the backlogs it would be all of their time,
a thousand times as long."""
HEAVY = 20
"""Tenants with a backlog."""
EACH = 10_000
"""Events of each of them, for both its sinks."""
WARM, SAMPLES = 40, 120
WATCHED = ("nats", "pusher")
"""SQS says itself when it accepted a message: a consumer would have to poll."""


def bound(url: str) -> None:
    """A queue that takes what RabbitMQ gets, and keeps the last of it."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.exchange_declare("evolution-events", "topic", durable=True)
        channel.queue_declare("heavy", durable=True, arguments={"x-max-length": 1000})
        channel.queue_bind("heavy", "evolution-events", "evolution.#")


def fill(everything: Six, receiver: Receiver) -> None:
    """A backlog for webhook and RabbitMQ, while nobody works."""
    client = everything.client()
    body = [
        {
            "event": "MESSAGES_UPSERT",
            "data": {"key": {"remoteJid": f"{n % 50}@s"}, "text": "x" * 900},
        }
        for n in range(1000)
    ]
    for tenant in range(HEAVY):
        name = f"heavy{tenant}"
        client.create(name, webhook={"url": receiver.url("/ok")}, rabbitmq={"enabled": True})
        for _ in range(EACH // 1000):
            assert client.emit_many(name, body).status_code == 202


def backlogs(everything: Six) -> dict[str, int]:
    """What waits for the two."""
    waiting = {"webhook": 0, "rabbitmq": 0}
    for lane in everything.house.lanes():
        sink = lane.facts.get("sink", "")
        if sink in waiting:
            waiting[sink] += lane.waiting
    return waiting


class Lone:
    """Lone events for the three."""

    def __init__(self, everything: Six) -> None:
        self._everything = everything
        self._client = everything.client()
        self._sqs = everything.servers.sqs

    def send(self, count: int) -> dict[str, float]:
        """When each event was answered, by its id, once all have arrived."""
        sent: dict[str, float] = {}
        for _ in range(count):
            answer = self._client.emit("lone", "CALL")
            sent[str(answer.json()["id"])] = time.time()
            time.sleep(random.uniform(0.05, 0.15))  # they are lone; nothing is waited for
        self._everything.wait_for(list(sent), WATCHED, timeout=60)
        wait_for(lambda: set(sent) <= set(self._sqs.times()), 60, "the events at SQS")
        return sent

    def measure(self) -> dict[str, float]:
        """The 99th percentile of each sink, in seconds."""
        sent = self.send(SAMPLES)
        found: dict[str, list[float]] = {sink: [] for sink in WATCHED}
        for each in self._everything.arrivals():
            if each.id in sent:
                found[each.sink].append(each.at - sent[each.id])
        kept = self._sqs.times()
        found["sqs"] = [kept[event_id] - at for event_id, at in sent.items()]
        p99s = {}
        for name, seconds in found.items():
            p50, p99s[name] = statistics.median(seconds), statistics.quantiles(seconds, n=100)[98]
            print(f"{name}: p50 {p50 * 1000:.1f} ms, p99 {p99s[name] * 1000:.1f} ms")
        return p99s


@pytest.mark.slow
def test_lone_events_do_not_wait_for_the_backlogs_of_other_sinks(
    tmp_path: Path, receiver: Receiver
) -> None:
    """Measured again when the machine was busy with something else, three times at most."""
    receiver.control(record=False)
    with six(tmp_path, ["lone"], watch=WATCHED, workers=2) as everything:
        bound(everything.servers.rabbitmq.url)
        everything.servers.sqs.create("lone")
        client = everything.client()
        off = {sink: {"enabled": False} for sink in ("webhook", "rabbitmq", "websocket")}
        client.good("POST", "/event/set/lone", off)
        lone = Lone(everything)
        lone.send(WARM)  # connections are made once a process
        bounds = {sink: max(BOUND, TIMES * p99) for sink, p99 in lone.measure().items()}
        for number in range(2):
            everything.house.stop("worker", number)
        fill(everything, receiver)
        for number in range(2):
            everything.house.start("worker", number)
        lone.send(WARM)
        wait_for(lambda: max(backlogs(everything).values()) < HEAVY * EACH - 1000, 30)

        good = any(
            all(p99 < bounds[sink] for sink, p99 in lone.measure().items()) for _ in range(3)
        )

        after = backlogs(everything)
        print(f"left of {HEAVY * EACH}: {after}")
        assert good
        assert min(after.values()) > 0, "the backlogs were gone before the last lone event"
