"""Redis' memory: who gives way when it is short, and what a poison event holds up."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any, Self

import orjson
import pytest

from evoflask import configuration
from evoflask.dev.process import free_port, wait_for
from evoflask.dev.receiver import Receiver
from evoflask.ids import event_id, random_id
from evoflask.models import Instance, Subscription, epoch
from evoflask.outbox import Ended, Limits, NewEntry, Want, verbs
from evoflask.outbox.members import key_hash
from tests.system.bulk import Tenants
from tests.system.conftest import MakeHouse
from tests.system.house import House, Threads, message

DEAD = 20
SIZE = 25_000
BATCH = 20
"""Bodies, and how many of them an emitter sends at once: half a megabyte."""
TOTAL = 1_000_000_000
"""Bytes that the tenants with dead endpoints pour in."""
EACH = TOTAL // DEAD // SIZE
MANY, WARM = 1_000_000, 50_000
"""Events delivered beside one that is not, and how many of them fill what is retained."""
GROWTH = 2 * 1024 * 1024
"""Bytes that Redis may have more at the end: buffers, and the poison event itself."""


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_a_gigabyte_for_dead_endpoints_keeps_nobody_else_from_emitting_and_none_of_it_is_lost(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(maxmemory="200mb", retry_schedule="5,600,3600,7200", hold_seconds=15)
    refused = free_port()
    names = [f"dead{n}" for n in range(DEAD)]
    urls = {name: receiver.url(f"/{name}") for name in names}
    urls |= dict.fromkeys(names[::2], f"http://127.0.0.1:{refused}/")
    for name in names:
        receiver.control(path=f"/{name}", status=500)
    Tenants(house, urls | {"well": receiver.url("/well")})

    began = time.monotonic()
    with Healthy(house) as well:
        pouring = Threads([lambda name=name: pour(house, name) for name in names])
        pouring.join(240)
        print(f"1 GB in {time.monotonic() - began:.0f} s; {len(well.ids)} healthy emits")
    assert well.refused == []
    gave_way = letters(house)
    assert {reason for _, reason in gave_way} == {"expired"}
    assert len(gave_way) * SIZE > TOTAL / 2

    wait_for(lambda: set(well.ids) <= set(receiver.ids()), 30, "the healthy tenant's events", 0.5)
    receiver.clear()
    for name in names:
        receiver.control(path=f"/{name}", status=None)
        house.client().set_webhook(name, receiver.url(f"/{name}"))
    house.wait_quiet(60)
    began = time.monotonic()
    requeue_all(house)
    house.wait_quiet(60)
    print(f"{len(gave_way)} letters in {time.monotonic() - began:.0f} s")
    arrived = [one.id for one in receiver.received()]
    assert set(arrived) >= {event_of(name, n) for name in names for n in range(EACH)}
    for name in names:
        mine = sorted(id for id, _ in gave_way if id.startswith(f"{name}-"))
        again = set(mine)
        assert list(dict.fromkeys(id for id in arrived if id in again)) == mine
    assert house.off() == {}


class Healthy:
    """A tenant that emits all the time, and is told no at no time."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._end = threading.Event()
        self.ids: list[str] = []
        self.refused: list[str] = []

    def __enter__(self) -> Self:
        self._thread = Threads([self._run])
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        client = self._house.client()
        for n in itertools.count():
            if self._end.wait(0.05):
                return
            answer = client.emit("well", data=message(n))
            if answer.status_code == 202:
                self.ids.append(answer.json()["id"])
            else:
                self.refused.append(answer.text)


def event_of(name: str, n: int) -> str:
    return f"{name}-{n:06}"


def pour(house: House, name: str) -> None:
    """A tenant's share, all of one conversation; what is refused is repeated, by its ids."""
    client = house.client()
    padding = "x" * SIZE
    for at in range(0, EACH, BATCH):
        left = range(at, at + BATCH)
        while left:
            events = [
                {
                    "event": "MESSAGES_UPSERT",
                    "id": event_of(name, n),
                    "data": message(n, padding=padding),
                }
                for n in left
            ]
            answer = client.insist(f"/event/emit/{name}", events, timeout=240).json()
            left = left[len(answer["results"]) :] if "stopped" in answer else range(0)


def letters(house: House) -> list[tuple[str, str]]:
    """(event id, reason) of all open ones."""
    rows = house.query("SELECT event_id, reason FROM dead_letter WHERE requeued_at IS NULL")
    return [(id, reason) for id, reason in rows]


def requeue_all(house: House) -> None:
    """As an operator does: by filter, again when an operation is over, until none is left."""
    client = house.client()

    def left() -> bool:
        if client.good("GET", "/operation?state=running")["operations"]:
            return False
        answer = client.call("POST", "/deadletter/requeue", {"reason": "expired"})
        return answer.ok and not answer.json()["left"]

    wait_for(left, 200, "all letters to be requeued", 0.5)


@pytest.mark.slow
@pytest.mark.beside
@pytest.mark.timeout(300)
def test_a_poison_event_under_retry_holds_up_no_memory_of_a_million_delivered_beside_it(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    # One outbox, two lanes: the poison event is on the one that the worker drains; a million
    # webhooks would take minutes, so the test itself drains the other one, by the same verbs.
    # It is retried for as long as the test may take.
    house = make_house(retry_schedule=",".join(["3"] * 100))
    tenants = Tenants(house, {"a": receiver.url("/a")})
    lane = another_lane("a")
    configuration.push_all(house.outbox)
    receiver.control(fail_ids=tenants.fill("a", [("chat", orjson.dumps(message(0)))]))
    mass = Mass(house, tenants.outboxes["a"], lane)

    mass.deliver(WARM)
    before = house.raw.info("memory")["used_memory"]
    began = time.monotonic()
    mass.deliver(MANY - WARM)
    seconds = time.monotonic() - began

    wait_for(lambda: house.raw.info("memory")["used_memory"] - before < GROWTH, 10)
    after = house.raw.info("memory")["used_memory"]
    print(f"{before / 1e6:.1f} MB, after {MANY} events {after / 1e6:.1f} MB; {seconds:.0f} s")
    poison = house.lane("a")
    assert (poison.waiting, poison.retrying) == (1, 1)
    assert receiver.count() > 5
    assert house.lane("a", "mass").count("delivered") == MANY
    assert house.raw.xlen(f"evo:{{p0}}:outbox:{tenants.outboxes['a']}") < 1_500
    assert house.off() == {}


def another_lane(instance: str) -> str:
    """A lane of a sink that no worker serves."""
    row = Instance.get(Instance.name == instance)
    lane = random_id()
    Subscription.create(
        instance=row,
        name="mass",
        sink="nobodys",
        lane=lane,
        enabled=True,
        format="standard",
        concurrency=8,
        on_failure="pass",
        timeout=30.0,
    )
    row.revision += 1
    row.save()
    return lane


class Mass:
    """Appends to a lane and empties it, as web process and drain do."""

    def __init__(self, house: House, outbox: str, lane: str) -> None:
        self._run: Callable[..., Any] = house.outbox.run
        self._outbox = outbox
        self._revision = Instance.get(Instance.outbox == outbox).revision
        self._to = [((lane, key_hash(b'"%d"' % n)),) for n in range(40)]
        self._data = orjson.dumps(message(0, text="x" * 200))

    def deliver(self, events: int) -> None:
        for _ in range(events // 500):
            for _ in range(5):
                self._append()
            self._drain()

    def _append(self) -> None:
        entries = [
            NewEntry(event_id(), False, "MESSAGES_UPSERT", b"{}", self._data, to)
            for to in itertools.islice(itertools.cycle(self._to), 100)
        ]
        call = verbs.append(0, self._outbox, self._revision, epoch(), entries, Limits())
        assert self._run(call).status == "ok"

    def _drain(self) -> None:
        (held,) = self._run(verbs.take(0, "nobodys", random_id(), hold=10, lanes=1, ids=256)).lanes
        ids = held.ids
        while ids:
            ended = [Ended("d", member, tries + 1) for member, tries in ids]
            want = Want(256)
            call = verbs.settle(0, held.lane, held.token, ended, hold=10, want=want)
            ids = self._run(call).ids
        assert self._run(verbs.settle(0, held.lane, held.token, [], hold=0)).held
