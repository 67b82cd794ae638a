"""kill -9 of anything, at any moment and at exact places; and processes that stand still."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import psutil
import pytest
import requests

from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from tests.system.conftest import MakeHouse
from tests.system.house import Client, House, Threads, message
from tests.system.ledger import Faults, Ledger
from tests.system.reliability import Row, Table

pytestmark = [pytest.mark.slow, pytest.mark.beside, pytest.mark.timeout(300)]

TENANTS, CHATS, EVENTS, BATCH = 20, 4, 20_000, 10


def pour(client: Client, ledger: Ledger, tenants: range, each: int) -> None:
    """Emits with ids of its own, again and again with the same ones until it is answered."""
    for at in range(0, each, BATCH):
        for tenant in tenants:
            events = [
                {
                    "event": "MESSAGES_UPSERT",
                    "id": f"t{tenant}-{n}",
                    "data": message(n, f"chat{n % CHATS}"),
                }
                for n in range(at, at + BATCH)
            ]
            # One alone, the others as an array: both ways in are repeated.
            client.insist(f"/event/emit/t{tenant}", events[0])
            rest: list[dict[str, object]] = events[1:]
            while rest:
                answer = client.insist(f"/event/emit/t{tenant}", rest).json()
                rest = rest[len(answer["results"]) :]
            for n, event in enumerate(events, at):
                ledger.promise(str(event["id"]), f"/t{tenant}", f"chat{n % CHATS}", n)


def prepare(house: House, receiver: Receiver, path: str = "") -> None:
    client = house.client()
    for tenant in range(TENANTS):
        client.create(f"t{tenant}")
        client.set_webhook(f"t{tenant}", receiver.url(f"{path}/t{tenant}"))


def test_a_random_kill_each_second_loses_nothing_that_was_accepted(
    make_house: MakeHouse, receiver: Receiver, table: Table
) -> None:
    house = make_house(web=2, workers=2, hold_seconds=2)
    ledger = Ledger()
    prepare(house, receiver)
    each = EVENTS // TENANTS
    shares = [range(first, TENANTS, 4) for first in range(4)]
    emitters = Threads([lambda s=s: pour(house.client(), ledger, s, each) for s in shares])
    victims = [("web", 0), ("web", 1), ("worker", 0), ("worker", 1), ("clock", 0)]
    luck, kills, faults = random.Random(1), 0, Faults()

    while emitters.running or kills < 15:
        time.sleep(1)  # the schedule of the faults
        with faults.during("a kill"):
            house.kill9(*luck.choice(victims))
        kills += 1
        house.revive()
    emitters.join()

    house.wait_quiet(60)
    assert len(ledger) == EVENTS
    done = f"{kills} times SIGKILL, one a second, of web, workers or clock"
    received = table.check("Anything killed at any moment", done, ledger, receiver, faults)
    repeats = len(received) - len({one.id for one in received})
    print(f"{kills} kills, {len(received)} arrived, {repeats} repeats")
    assert {one.id for one in received} == set(ledger_ids(ledger))
    assert repeats < EVENTS // 4
    assert house.off() == {}


def ledger_ids(ledger: Ledger) -> list[str]:
    return [f"t{t}-{n}" for t in range(TENANTS) for n in range(len(ledger) // TENANTS)]


@pytest.mark.parametrize(
    "place", ["take-admit", "read-send", "take-send", "send-settle", "settle-note"]
)
def test_a_worker_killed_around_a_send_costs_a_repeat_and_no_event(
    make_house: MakeHouse, receiver: Receiver, place: str, table: Table
) -> None:
    house = make_house(faults=True, hold_seconds=2)
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/a"))
    house.arm(place)

    ids = [client.emit("a", data=message(n)).json()["id"] for n in range(10)]
    wait_for(lambda: not house.process("worker").alive, 20)
    house.start("worker")

    house.wait_quiet(30)
    arrived = receiver.ids()
    assert list(dict.fromkeys(arrived)) == ids
    # The first settle may be one that only asks for more: what was sent meanwhile is repeated.
    repeats = {"send-settle": {1}, "settle-note": set(range(10))}.get(place, {0})
    assert len(arrived) - 10 in repeats
    assert house.lane("a").count("delivered") == 10
    assert house.off() == {}
    before, after = place.split("-")
    done = f"SIGKILL between {before} and {after}"
    why = "sent, and not settled" if len(arrived) > 10 else ""
    table.write(Row("Worker killed at a step", done, 10, 0, len(arrived) - 10, why))


def test_a_clock_killed_between_a_letter_and_its_burial_writes_one_letter(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(faults=True)
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/status/410"))
    house.arm("letter-bury")

    ids = [client.emit("a", data=message(n)).json()["id"] for n in range(10)]
    wait_for(lambda: not house.process("clock").alive, 20)
    dying = house.lane("a").dying
    house.start("clock")

    house.wait_quiet(30)
    assert dying > 0
    letters = [row[0] for row in house.query("SELECT event_id FROM dead_letter ORDER BY entry")]
    assert letters == ids
    assert house.lane("a").count("dead") == 10
    assert house.off() == {}


@pytest.mark.parametrize("place", ["commit-configure", "configure-note"])
def test_a_web_process_killed_between_commit_and_redis_is_caught_up_with(
    make_house: MakeHouse, receiver: Receiver, place: str
) -> None:
    house = make_house(faults=True)
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/old"))
    assert client.emit("a", data=message(0)).status_code == 202
    receiver.wait_for(1)
    house.arm(place)

    with pytest.raises(requests.RequestException):
        client.set_webhook("a", receiver.url("/new"))
    wait_for(house.answers, 20)
    rows = [house.client().insist("/event/emit/a", event(n)).json() for n in range(1, 5)]

    house.wait_quiet(30)
    assert {row["subscriptions"][0] for row in rows} == {"webhook"}
    arrived = [one.id for one in receiver.received() if one.path == "/new"]
    assert arrived == [row["id"] for row in rows]
    wait_for(lambda: house.query("SELECT pushed = revision FROM instance") == [(1,)], 10)


def event(n: int) -> dict[str, object]:
    return {"event": "MESSAGES_UPSERT", "data": message(n)}


def test_a_web_process_killed_after_an_append_is_asked_again_and_appends_once(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(faults=True)
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/a"))
    house.arm("append-answer")
    lost: list[object] = []

    answer = client.insist("/event/emit/a", {**event(1), "id": "once"}, note=lost.append)

    assert lost
    assert answer.status_code == 200
    assert answer.json()["duplicate"] is True
    house.wait_quiet(30)
    assert receiver.ids() == ["once"]


def test_a_requeue_killed_before_its_mark_delivers_and_leaves_the_letter(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(faults=True)
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/a"))
    receiver.control(path="/a", status=410)
    id = client.emit("a", data=message(1)).json()["id"]
    wait_for(lambda: house.lane("a").count("dead") == 1)
    ((letter,),) = house.query("SELECT id FROM dead_letter")
    receiver.control(path="/a", status=None)
    house.arm("requeue-mark")

    with pytest.raises(requests.RequestException):
        client.good("POST", f"/deadletter/{letter}/requeue")
    wait_for(lambda: house.lane("a").count("delivered") == 1, 20)
    wait_for(house.answers, 20)
    again = house.client()
    wait_for(lambda: again.good("GET", "/deadletter")["total"] == 1, 40, "the claim's end", 0.5)
    again.good("POST", f"/deadletter/{letter}/requeue")

    # Twice, and with its id; never not at all.
    wait_for(lambda: house.lane("a").count("delivered") == 2, 20)
    assert receiver.ids() == [id] * 3
    assert house.off() == {}


def test_a_worker_that_stood_still_past_its_hold_loses_nothing_and_keeps_the_order(
    make_house: MakeHouse, receiver: Receiver, table: Table
) -> None:
    house = make_house(workers=2, hold_seconds=2)
    client = house.client()
    ledger = Ledger()
    client.create("a")
    client.set_webhook("a", receiver.url("/slow/50"))
    take = pour_one(client, ledger, "/slow/50")
    take(range(200))
    holder = wait_for(lambda: holding(house), 20)
    faults = Faults()
    with faults.during("a worker stands still"):
        house.freeze(*holder)
        before = receiver.count()

        # The other one takes over when the hold has ended.
        receiver.wait_for(before + 50, 20)
        take(range(200, 300))
        house.thaw(*holder)

    house.wait_quiet(60)
    done = "SIGSTOP for longer than its hold, then SIGCONT, while another one takes over"
    table.check("Worker stands still", done, ledger, receiver, faults)
    assert house.lane("a").count("delivered") == 300
    assert house.off() == {}
    assert house.process(*holder).alive


def pour_one(client: Client, ledger: Ledger, path: str) -> Callable[[range], None]:
    def take(numbers: range) -> None:
        events = [
            {"event": "MESSAGES_UPSERT", "data": message(n, f"chat{n % CHATS}")} for n in numbers
        ]
        results = client.emit_many("a", events).json()["results"]
        for n, row in zip(numbers, results, strict=True):
            ledger.promise(row["id"], path, f"chat{n % CHATS}", n)

    return take


def holding(house: House) -> tuple[str, int] | None:
    """The worker that delivers now: it has connections that are not Redis'."""
    for n in (0, 1):
        found = psutil.Process(house.process("worker", n).pid).net_connections("tcp")
        if any(c.raddr and c.raddr.port != house.redis.port for c in found):
            return "worker", n
    return None
