"""A million dead letters: an operator is answered within a second, and no worker notices."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from tests.system.bulk import Tenants
from tests.system.conftest import MakeHouse
from tests.system.house import House, message
from tests.system.store import Sqlite

LETTERS = 1_000_000
TENANTS = 20
REQUEUED = 10_000
ANSWER = 1.0
"""Seconds that an operator waits for an answer at most."""
SEARCH = 2.0
"""The same where the details of all letters are searched, twice: for the page, for the counts."""
RATIO = 0.7
"""Throughput of a worker while an operator is at work, beside the same without."""
WINDOW = 6.0
"""Seconds of one measurement."""
BREATH = 1.0
"""Seconds between an answer and the next question: somebody reads."""
WAITING = 100_000
"""Events that wait when a measurement begins: more than a worker delivers in one."""

WRITE = """
WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last)
INSERT INTO dead_letter (instance_id, instance_name, subscription_id, subscription_name, lane, sink,
    entry, event_id, event, at, size, reason, code, detail, tries, meta, created_at, data)
SELECT s.instance_id, 'filled', s.id, s.name, s.lane, s.sink,
    printf('%013d-%020d-0', 1700000000000 + i, 0), 'order-' || i,
    CASE i % 3 WHEN 0 THEN 'MESSAGES_UPSERT' WHEN 1 THEN 'CALL' ELSE 'CONTACTS_UPDATE' END,
    1700000000 + i / 10.0, 400, CASE i % 5 WHEN 0 THEN 'expired' ELSE 'exhausted' END,
    CASE i % 100 WHEN 0 THEN '410' ELSE '503' END,
    'the receiver answered: there is no order ' || i, 7, '{}', :now - 1000 + i / 1000.0,
    CAST('{"n": ' || i || ', "text": "' || hex(zeroblob(180)) || '"}' AS BLOB)
FROM n JOIN (SELECT *, row_number() OVER (ORDER BY id) - 1 AS nth FROM subscription
    WHERE instance_id IN (SELECT id FROM instance WHERE name LIKE 'dead%')) s
    ON s.nth = i % :tenants
"""


def fill(house: House, letters: int = LETTERS, tenants: int = TENANTS) -> None:
    """Letters of the tenants whose names begin with `dead`."""
    with house.store.connect() as connection:
        connection.execute("PRAGMA synchronous = OFF")
        for first in range(0, letters, 100_000):
            last = min(first + 100_000, letters) - 1
            facts = {"first": first, "last": last, "now": time.time(), "tenants": tenants}
            with connection:
                connection.execute(WRITE, facts)


class Operator:
    """Looks and asks; how long each answer took."""

    def __init__(self, house: House) -> None:
        self._client = house.client()
        self._questions = itertools.cycle(QUESTIONS)
        self.took: dict[str, list[float]] = {}

    def ask(self, name: str, method: str, path: str, body: object = None) -> None:
        began = time.monotonic()
        answer = self._client.call(method, path, body)
        self.took.setdefault(name, []).append(time.monotonic() - began)
        assert answer.ok, answer.text

    def work(self, seconds: float) -> None:
        """One question after the other, with a breath between two of them."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.ask(*next(self._questions))
            time.sleep(BREATH)

    def idle(self) -> bool:
        """No operation runs."""
        return not self._client.good("GET", "/operation?state=running")["operations"]

    def medians(self) -> dict[str, float]:
        """By question: something else on this machine can spoil a single answer."""
        return {name: round(statistics.median(took), 3) for name, took in self.took.items()}


QUESTIONS = (
    ("list", "GET", "/deadletter", None),
    ("list by code and tenant", "GET", "/deadletter?code=410&instance=dead0", None),
    ("list by text", "GET", "/deadletter?text=no order 77777&reason=exhausted", None),
    ("count by a rare code", "GET", "/deadletter?code=418", None),
    ("requeue 10,000", "POST", "/deadletter/requeue",
     {"event": "CALL", "reason": "expired", "limit": REQUEUED}),
    ("dry run", "POST", "/deadletter/discard", {"code": "410", "dryRun": True}),
)  # fmt: skip


@contextlib.contextmanager
def beside(work: Callable[[], None]) -> Iterator[None]:
    """Something done in a thread meanwhile; what it raises is raised."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join(60)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_million_letters_are_answered_within_a_second_and_disturb_no_worker(
    make_house: MakeHouse, receiver: Receiver, tmp_path: Path
) -> None:
    house = make_house(store=Sqlite(tmp_path / "letters.db"))
    urls = {f"dead{n}": receiver.url("/dead") for n in range(TENANTS)}
    Tenants(house, urls, enabled=False)  # requeued ones wait: what is measured is the desk
    fill(house)
    busy = Tenants(house, {"busy": receiver.url("/busy")})
    receiver.control(record=False)
    body = [(f"chat{n % 50}", orjson.dumps(message(n))) for n in range(10_000)]
    operator = Operator(house)

    def ready() -> None:
        while house.lane("busy").waiting < WAITING:
            busy.fill("busy", body)

    def rate() -> float:
        """Deliveries a second, now."""
        began, before = time.monotonic(), house.lane("busy").count("delivered")
        time.sleep(WINDOW)
        done, seconds = house.lane("busy").count("delivered") - before, time.monotonic() - began
        assert house.lane("busy").waiting > 0, "the worker had nothing to do"
        return done / seconds

    ready()
    rate()
    ratios = []
    for _ in range(4):
        ready()
        without = rate()
        ready()
        with beside(lambda: operator.work(WINDOW)):
            ratios.append(rate() / without)

    for question in QUESTIONS:
        operator.ask(*question)
    wait_for(operator.idle, 60, "the operations to end", 0.2)
    waiting = sum(house.lane(name).waiting for name in urls)
    asked = len(operator.took["requeue 10,000"])
    print(f"ratios {[round(each, 2) for each in ratios]}; answers {operator.medians()}")
    assert waiting == asked * REQUEUED
    slow = {
        name: took
        for name, took in operator.medians().items()
        if took > (SEARCH if name == "list by text" else ANSWER)
    }
    assert slow == {}
    assert statistics.median(ratios) >= RATIO, ratios


@pytest.mark.slow
@pytest.mark.beside
def test_a_requeue_goes_on_after_its_clock_was_killed_and_repeats_a_piece_at_most(
    make_house: MakeHouse, receiver: Receiver, tmp_path: Path
) -> None:
    house = make_house(store=Sqlite(tmp_path / "letters.db"))
    Tenants(house, {"dead0": receiver.url("/ok")})
    letters = 30_000  # some seconds of work, so that the kill comes in the middle
    fill(house, letters, 1)
    client = house.client()

    begun = client.good("POST", "/deadletter/requeue", {"instance": "dead0"})
    path = f"/operation/{begun['operation']}"
    wait_for(lambda: client.good("GET", path)["done"] > begun["requeued"], 20, "the clock's work")
    house.kill9("clock")
    killed_at = client.good("GET", path)
    house.start("clock")
    wait_for(lambda: client.good("GET", path)["state"] == "done", 60, "its end", 0.2)
    house.wait_quiet()

    assert killed_at["state"] == "running"
    ids = receiver.ids()
    assert set(ids) == {f"order-{n}" for n in range(letters)}
    assert len(ids) - letters <= 100  # the append whose mark the kill prevented
    assert client.good("GET", "/deadletter")["total"] == 0
    assert house.off() == {}
