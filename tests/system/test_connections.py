"""Redis connections of a web process, and the threads that ask for them."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

from evoflask.dev.redis_server import RedisServer
from evoflask.errors import OutboxDown
from evoflask.outbox import Outbox, client, connect
from tests.system.conftest import MakeHouse
from tests.system.house import Threads

PRODUCERS = 100
"""Clients at once: fewer than the web process has threads, more than a pool's default of 64."""
PAUSE_MS = 1_000
"""Milliseconds in which Redis does not answer. Less than the outbox's timeout."""


def test_each_thread_of_the_web_process_gets_a_connection_to_the_outbox(
    make_house: MakeHouse,
) -> None:
    house = make_house(workers=0, clock=False)
    house.client().create("a")
    house.client().set_webhook("a", "http://127.0.0.1:9/")
    answers: Counter[tuple[int, str]] = Counter()
    start = threading.Barrier(PRODUCERS + 1)

    def produce() -> None:
        producer = house.client()
        producer.emit("a")  # its connection stays
        start.wait(60)
        answer = producer.emit("a")
        answers[answer.status_code, "" if answer.ok else answer.text] += 1

    producers = Threads([produce] * PRODUCERS)
    start.wait(60)
    house.raw.execute_command("CLIENT", "PAUSE", PAUSE_MS, "ALL")
    producers.join(60)

    assert answers == {(202, ""): PRODUCERS}


def test_threads_beyond_the_bound_wait_for_a_connection_and_are_refused_in_words(
    tmp_path: Path,
) -> None:
    errors: Counter[str] = Counter()

    with RedisServer(tmp_path / "redis") as server:
        redis_client = connect(server.url, timeout=0.5, connections=client.CONNECTIONS + 1)
        pool = redis_client.connection_pool
        taken = [pool.get_connection() for _ in range(client.CONNECTIONS)]
        outbox = Outbox(redis_client)

        def ask() -> None:
            try:
                outbox.partitions(1)
            except OutboxDown as error:
                errors[str(error)] += 1

        Threads([ask] * 3).join(30)
        pool.release(taken.pop())
        Threads([ask] * 3).join(30)
        redis_client.close()

    assert errors == {"all connections to the outbox are busy; nothing was accepted": 3}
