"""Sinks beside sinks: two are saturated by backlogs, lone events of three others go on."""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path

import pika
import pytest

from evoflask.dev.receiver import Receiver
from tests.system.six import Six, six

LONE = ("nats", "sqs", "pusher")
HEAVY = 20
"""Tenants with a backlog."""
EACH = 5_000
"""Events of each of them, for both its sinks."""
SAMPLES = 150


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


@pytest.mark.slow
def test_lone_events_do_not_wait_for_the_backlogs_of_other_sinks(
    tmp_path: Path, receiver: Receiver
) -> None:
    receiver.control(record=False)
    found: dict[str, list[float]] = {sink: [] for sink in LONE}
    with six(tmp_path, ["lone"], watch=LONE, workers=2) as everything:
        bound(everything.servers.rabbitmq.url)
        client = everything.client()
        off = {sink: {"enabled": False} for sink in ("webhook", "rabbitmq", "websocket")}
        client.good("POST", "/event/set/lone", off)
        for number in range(2):
            everything.house.stop("worker", number)
        fill(everything, receiver)
        for number in range(2):
            everything.house.start("worker", number)

        sent = {}
        for _ in range(SAMPLES):
            answer = client.emit("lone", "CALL")
            sent[str(answer.json()["id"])] = time.time()
            time.sleep(random.uniform(0.02, 0.06))  # the events are lone; nothing is waited for
        after = backlogs(everything)
        everything.wait_for(list(sent), LONE, timeout=60)
        for each in everything.arrivals():
            if each.id in sent:
                found[each.sink].append(each.at - sent[each.id])

    p99s = {}
    for sink, seconds in found.items():
        p50, p99s[sink] = statistics.median(seconds), statistics.quantiles(seconds, n=100)[98]
        print(f"{sink}: p50 {p50 * 1000:.1f} ms, p99 {p99s[sink] * 1000:.1f} ms of {len(seconds)}")
    print(f"left of {HEAVY * EACH}: {after}")
    assert max(p99s.values()) < 0.2
    assert min(after.values()) > 0, "the backlogs were gone before the last lone event"
