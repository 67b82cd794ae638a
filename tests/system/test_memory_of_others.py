"""Memory that others use costs no waiting event, and emits go on."""

from __future__ import annotations

import contextlib
import json
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from tests.system.conftest import MakeHouse
from tests.system.house import House, message

WAITING = 10
"""Small events of the victim, whose destination fails."""
LOOKS = 8
"""Times that the clock looks at the memory while it is short."""
LARGE = 12_000_000
SOCKETS = 130
WEB = 300_000_000
"""Bytes of memory that the web process has at its peak: a quarter of WEB_READ_BYTES in bodies."""


def looks(house: House, n: int = LOOKS) -> None:
    """Wait until the clock has looked at the memory more than `n` times."""
    seen: set[bytes | None] = set()

    def enough() -> bool:
        seen.add(house.raw.hget("evo:chores", "relieve"))
        return len(seen) > n

    wait_for(enough, 60, "the clock to look at the memory", 0.05)


def make_victim(house: House, receiver: Receiver) -> None:
    """Create a tenant whose events wait for their retries."""
    client = house.client()
    receiver.control(path="/victim", status=500)
    client.create("victim")
    client.set_webhook("victim", receiver.url("/victim"))
    for n in range(WAITING):
        assert client.emit("victim", data=message(n, padding="x" * 300)).status_code == 202


def assert_unharmed(house: House, emitted: int = WAITING) -> None:
    """Check that all events still wait, and that one more is accepted."""
    answer = house.client().emit("victim", data=message(emitted))
    lane = house.lane("victim")
    letters = house.query("SELECT reason, detail FROM dead_letter")
    assert (letters, lane.waiting, lane.dying) == ([], emitted + (answer.status_code == 202), 0)
    assert answer.status_code == 202, answer.text


@pytest.mark.timeout(120)
def test_foreign_keys_in_a_shared_redis_cost_no_waiting_event_and_refuse_no_emit(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    receiver.control(keep=True)
    house = make_house(
        maxmemory="200mb",
        retry_schedule="3600,3600",
        operator_webhook_url=receiver.url("/operator"),
    )
    make_victim(house, receiver)

    for name in ("another:app:1", "another:app:2"):
        house.raw.setrange(name, 86_000_000, "x")
    looks(house)

    assert house.raw.info("memory")["used_memory"] > 0.8 * 200 * 2**20
    assert_unharmed(house)
    memory = house.client().good("GET", "/readyz")["parts"]["memory"]
    assert memory["state"] == "warning"
    assert memory["bytes"]["others"] > 170_000_000 > 1_000_000 > memory["bytes"]["lanes"] > 0
    assert "other keys" in memory["message"]
    assert "Other data than our events fills Redis" in house.output("clock")

    house.raw.setrange("another:app:3", 40_000_000, "x")
    refused = house.client().emit("victim", data={})

    assert refused.status_code == 503
    assert "other keys" in refused.json()["response"]["message"][0]
    assert house.lane("victim").waiting == WAITING + 1


def for_operator(receiver: Receiver) -> list[dict[str, Any]]:
    """Return the operator's events, the oldest first."""
    return [json.loads(each.body) for each in receiver.received() if each.path == "/operator"]


def test_stored_bytes_of_an_outbox_that_was_trimmed_behind_the_books_become_right(
    make_house: MakeHouse,
) -> None:
    """A process of an older release erases entries without counting them."""
    house = make_house(workers=0)
    client = house.client()
    for name in "ab":
        client.create(name, websocket={"events": []})
        client.emit_many(name, [{"event": "CALL", "data": message(n)} for n in range(150)])
    [outbox, _] = sorted(house.raw.keys("evo:{p0}:outbox:*"))

    house.raw.xtrim(outbox, maxlen=40, approximate=False)

    def right() -> bool:
        found = {
            key.rpartition(b":")[2]: sum(int(row[b"w"]) for _, row in house.raw.xrange(key))
            for key in house.raw.keys("evo:{p0}:outbox:*")
        }
        kept = dict(house.raw.zrange("evo:{p0}:stored", 0, -1, withscores=True))
        return kept == found and int(house.raw.get("evo:{p0}:storing") or 0) == sum(found.values())

    wait_for(right, 60, "the clock to recount", 0.1)


@contextlib.contextmanager
def unread(house: House, path: str, key: str, n: int) -> Iterator[list[socket.socket]]:
    """Open `n` sockets that send a request and do not read the answer."""
    request = f"GET {path} HTTP/1.1\r\nHost: a\r\napikey: {key}\r\n\r\n".encode()
    sockets = []
    try:
        for _ in range(n):
            made = socket.create_connection(("127.0.0.1", house.port), timeout=10)
            sockets.append(made)
            made.sendall(request)
        yield sockets
    finally:
        for made in sockets:
            made.close()


@pytest.mark.timeout(180)
def test_sockets_that_ask_for_a_large_event_and_read_nothing_cost_nobody_else_an_event(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(maxmemory="400mb", retry_schedule="3600,3600")
    make_victim(house, receiver)
    client = house.client()
    token = client.create("greedy", websocket={"events": []})["hash"]
    large = client.emit("greedy", data={"media": "x" * LARGE}).json()["id"]

    peak = 0
    with unread(house, f"/event/greedy/{large}", token, SOCKETS) as sockets:
        for _ in range(LOOKS):
            looks(house, 1)
            peak = max(peak, house.raw.info("memory")["used_memory"])
            assert_unharmed(house, house.lane("victim").waiting)
        statuses = Counter(made.recv(12) for made in sockets)
    assert statuses.keys() == {b"HTTP/1.1 200", b"HTTP/1.1 429"}
    assert client.call("GET", f"/event/greedy/{large}").json()["data"]["media"] == "x" * LARGE
    web = house.rss("web", peak=True)
    print(f"{dict(statuses)}; peak {peak >> 20} MB of Redis, {web >> 20} MB of web")
    assert web < WEB


def pour(house: House, name: str, size: int) -> int:
    """Emit until an emit is refused, or `size` bytes were accepted. Return the accepted bytes."""
    client, taken = house.client(), 0
    while taken < size:
        events = [
            {"event": "MESSAGES_UPSERT", "data": message(n, padding="x" * 25_000)}
            for n in range(20)
        ]
        answer = client.emit_many(name, events)
        if answer.status_code == 503:
            break
        taken += 20 * 25_000
    return taken


@pytest.mark.timeout(180)
@pytest.mark.parametrize("foreign", [0, 60_000_000])
def test_a_heavy_lane_gives_way_for_its_own_bytes_also_beside_foreign_keys(
    make_house: MakeHouse, receiver: Receiver, foreign: int
) -> None:
    house = make_house(maxmemory="100mb", retry_schedule="3600,3600")
    make_victim(house, receiver)
    client = house.client()
    client.create("heavy")
    client.set_webhook("heavy", receiver.url("/victim"))
    if foreign:
        house.raw.setrange("another:app", foreign, "x")

    def gave_way() -> bool:
        pour(house, "heavy", 5_000_000)
        return bool(house.query("SELECT 1 FROM dead_letter WHERE instance_name = 'heavy' LIMIT 1"))

    wait_for(gave_way, 90, "the heavy lane to give way", 0.2)

    letters = house.query("SELECT DISTINCT instance_name, reason FROM dead_letter")
    assert letters == [("heavy", "expired")]
    assert house.lane("victim").waiting == WAITING
    assert house.client().emit("victim", data={}).status_code == 202
    assert house.off() == {}
