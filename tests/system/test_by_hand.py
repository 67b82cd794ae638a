"""What an operator does to a lane while a worker has it, and a lane that waits for what failed."""

from __future__ import annotations

from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from tests.system.conftest import MakeHouse
from tests.system.house import Client, House, message

SLOW = "/slow/1500"
"""Long enough for an operator to come between one delivery and the next."""


def emit(client: Client, count: int) -> list[str]:
    body = [{"event": "MESSAGES_UPSERT", "data": message(n)} for n in range(count)]
    return [row["id"] for row in client.emit_many("a", body).json()["results"]]


def slow_lane(house: House, receiver: Receiver) -> Client:
    """A lane of concurrency 1 with one success, whose next events take a while each."""
    client = house.client()
    client.create("a")
    client.subscribe("a", "crm", receiver.url("/a"), concurrency=1)
    emit(client, 1)
    receiver.wait_for(1)
    house.wait_quiet()
    receiver.clear()
    receiver.control(path="/a", **{"as": SLOW})
    return client


def test_what_a_worker_had_in_hand_of_a_purged_lane_is_not_started(
    house: House, receiver: Receiver
) -> None:
    client = slow_lane(house, receiver)
    old = emit(client, 20)
    receiver.wait_for(1)

    purged = client.good("POST", "/lane/a/crm/purge", {"confirm": 20})
    new = emit(client, 1)

    house.wait_quiet()
    wait_for(lambda: set(new) <= set(receiver.ids()))
    assert purged["discarded"] == 20
    assert receiver.ids() == [old[0], *new]
    lane = house.lane("a", "crm")
    assert (lane.count("discarded"), lane.count("delivered")) == (20, 2)
    assert house.off() == {}


def test_what_a_worker_had_in_hand_and_was_skipped_is_not_started(
    house: House, receiver: Receiver
) -> None:
    client = slow_lane(house, receiver)
    ids = emit(client, 4)
    receiver.wait_for(1)

    # The first one is under way: it arrives, and is a letter all the same.
    skipped = [client.good("POST", "/lane/a/crm/skip")["eventId"] for _ in range(2)]

    house.wait_quiet()
    wait_for(lambda: len(client.good("GET", "/deadletter")["letters"]) == 2)
    letters = client.good("GET", "/deadletter")["letters"]
    assert skipped == ids[:2]
    assert receiver.ids() == [ids[0], *ids[2:]]
    assert {(each["eventId"], each["reason"]) for each in letters} == {
        (ids[0], "skipped"),
        (ids[1], "skipped"),
    }
    assert house.off() == {}


def test_a_lane_that_waits_for_what_failed_keeps_total_order_until_it_is_delivered(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(retry_schedule="0.3,0.3,0.3,0.3,0.3,0.3,0.3,600", breaker_threshold=100)
    client = house.client()
    client.create("a")
    client.subscribe("a", "crm", receiver.url("/a"), concurrency=1, onFailure="wait")
    receiver.control(fail_ids=["bad"])
    emit(client, 2)
    client.emit("a", data=message(2, "another chat"), id="bad")
    after = emit(client, 30)

    wait_for(lambda: receiver.ids().count("bad") >= 3)
    before = [id for id in receiver.ids() if id in after]
    receiver.control(fail_ids=[])

    house.wait_quiet(30)
    assert before == []
    arrived = [id for id in receiver.ids() if id != "bad"]
    assert arrived[2:] == after
    last = len(receiver.ids()) - 1 - receiver.ids()[::-1].index("bad")
    assert receiver.ids()[last + 1 :] == after
    assert house.lane("a", "crm").count("dead") == 0
    assert house.off() == {}


def test_a_lane_that_waits_goes_on_in_order_when_its_head_is_skipped(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(retry_schedule="600,600")
    client = house.client()
    client.create("a")
    client.subscribe("a", "crm", receiver.url("/a"), concurrency=4, onFailure="wait")
    receiver.control(fail_ids=["bad"])
    client.emit("a", data=message(0), id="bad")
    wait_for(lambda: house.lane("a", "crm").retrying == 1)
    after = emit(client, 10)
    (seen,) = client.good("GET", "/lane?instance=a")["lanes"]

    client.good("POST", "/lane/a/crm/skip", {"eventId": "bad"})

    house.wait_quiet()
    assert (seen["headTries"], seen["state"], seen["backlog"]) == (1, "retrying", 11)
    assert receiver.ids() == ["bad", *after]
    wait_for(lambda: client.good("GET", "/deadletter")["reasons"] == {"skipped": 1})
    assert house.off() == {}


def test_a_probe_finds_out_at_once_that_a_paused_lane_may_go_on(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(retry_schedule="600", breaker_threshold=2)
    client = house.client()
    client.create("a")
    client.subscribe("a", "crm", receiver.url("/a"))
    receiver.control(path="/a", status=500)
    ids = emit(client, 10)
    wait_for(lambda: client.good("GET", "/lane?instance=a")["lanes"][0]["state"] == "paused")

    client.good("POST", "/lane/a/crm/probe")  # still broken: one try, and the pause goes on
    wait_for(lambda: receiver.count() == 3)
    wait_for(lambda: client.good("GET", "/lane?instance=a")["lanes"][0]["state"] == "paused")
    receiver.control(path="/a", status=None)
    receiver.clear()
    client.good("POST", "/lane/a/crm/probe")

    house.wait_quiet(60)
    assert receiver.ids()[0] == ids[2]  # what the first probe tried is still the oldest new one
    assert sorted(receiver.ids()) == sorted(ids)  # what failed before need not wait for its date
    lane = client.good("GET", "/lane?instance=a")["lanes"][0]
    assert (lane["backlog"], lane["retrying"]) == (0, 0)
    assert house.off() == {}
