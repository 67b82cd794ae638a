"""A lane: what fails beside what does not, changes of its configuration, its concurrency."""

from __future__ import annotations

import time

import pytest

from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from tests.system.conftest import MakeHouse
from tests.system.house import House, message
from tests.system.ledger import Ledger


def test_one_poison_event_delays_no_other_of_its_quiet_lane(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(retry_schedule="0.3,0.3,0.3,0.3,0.3,0.3,0.3,0.3,0.3,600")
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/a"))
    receiver.control(fail_ids=["poison"])

    assert client.emit("a", data=message(0), id="poison").status_code == 202
    took = []
    for n in range(1, 11):
        began = time.time()
        id = client.emit("a", data=message(n)).json()["id"]
        arrived = wait_for(lambda id=id: [r for r in receiver.received() if r.id == id])
        took.append(arrived[0].at - began)

    assert max(took) < 2, took
    wait_for(lambda: receiver.ids().count("poison") >= 8)
    assert house.lane("a").waiting == 1
    assert house.lane("a").facts.get("until", "0") == "0"


def test_a_mended_url_empties_the_lane_of_the_instance(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(retry_schedule="0.5,600", breaker_threshold=2)
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/status/500"))
    ids = [client.emit("a", data=message(n)).json()["id"] for n in range(20)]
    wait_for(lambda: house.lane("a").facts.get("until", "0") not in ("0", "0.0"))

    client.set_webhook("a", receiver.url("/mended"))

    house.wait_quiet(30)
    arrived = [one.id for one in receiver.received() if one.path == "/mended"]
    assert sorted(arrived) == sorted(ids)
    assert house.off() == {}


def test_a_disabled_subscription_keeps_its_backlog_and_delivers_it_in_order_when_enabled(
    house: House, receiver: Receiver
) -> None:
    client = house.client()
    ledger = Ledger()
    client.create("a")
    client.set_webhook("a", receiver.url("/a"))
    for n in range(50):
        ledger.promise(client.emit("a", data=message(n)).json()["id"], "/a", "1", n)
    client.change("a", "webhook", enabled=False)
    before = house.lane("a")
    dropped = client.emit("a", data=message(50)).json()

    client.change("a", "webhook", enabled=True)
    for n in range(51, 60):
        ledger.promise(client.emit("a", data=message(n)).json()["id"], "/a", "1", n)

    house.wait_quiet()
    ledger.check(receiver)
    assert dropped["subscriptions"] == []
    assert dropped["id"] not in receiver.ids()
    assert before.count("delivered") + before.waiting == 50


def test_a_deleted_subscription_says_how_much_it_discarded_and_a_new_one_gets_nothing_old(
    house: House, receiver: Receiver
) -> None:
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/hang"))
    for n in range(30):
        assert client.emit("a", data=message(n)).status_code == 202

    discarded = client.good("DELETE", "/subscription/a/webhook")["discarded"]
    client.set_webhook("a", receiver.url("/new"))
    id = client.emit("a", data=message(99)).json()["id"]

    house.wait_quiet()
    assert discarded == 30
    assert [one.id for one in receiver.received() if one.path == "/new"] == [id]


def test_an_instance_whose_name_is_given_again_gets_nothing_old(
    house: House, receiver: Receiver
) -> None:
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/hang"))
    for n in range(30):
        assert client.emit("a", data=message(n), id=f"old{n}").status_code == 202

    client.good("DELETE", "/instance/delete/a")
    client.create("a")
    client.set_webhook("a", receiver.url("/new"))
    answer = client.emit("a", data=message(0), id="old0")

    assert answer.status_code == 202
    assert answer.json()["duplicate"] is False
    house.wait_quiet()
    wait_for(lambda: [r.id for r in receiver.received() if r.path == "/new"] == ["old0"])


def test_a_slow_receiver_keeps_up_with_forty_conversations_in_order_per_conversation(
    house: House, receiver: Receiver
) -> None:
    client = house.client()
    ledger = Ledger()
    client.create("a")
    client.set_webhook("a", receiver.url("/slow/300"))
    events = [{"event": "MESSAGES_UPSERT", "data": message(n, f"chat{n % 40}")} for n in range(200)]

    results = client.emit_many("a", events).json()["results"]
    for n, row in enumerate(results):
        ledger.promise(row["id"], "/slow/300", f"chat{n % 40}", n)

    house.wait_quiet()
    received = ledger.check(receiver)
    # The first one goes alone: whether the destination works is not known yet.
    rate = (len(received) - 20) / (received[-1].at - received[20].at)
    print(f"{rate:.1f} events/s")
    assert rate >= 20


@pytest.mark.parametrize("shape", ["all at once", "one by one"])
def test_a_concurrency_of_one_keeps_total_order(
    house: House, receiver: Receiver, shape: str
) -> None:
    client = house.client()
    client.create("a")
    client.subscribe("a", "one", receiver.url("/slow/5"), concurrency=1)
    events = [{"event": "MESSAGES_UPSERT", "data": message(n, f"chat{n % 40}")} for n in range(200)]

    if shape == "all at once":
        ids = [row["id"] for row in client.emit_many("a", events).json()["results"]]
    else:
        ids = [client.call("POST", "/event/emit/a", event).json()["id"] for event in events]

    house.wait_quiet()
    assert receiver.ids() == ids


def test_a_url_that_is_mended_while_an_event_hangs_is_used_for_that_one_too(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(retry_schedule="600")
    client = house.client()
    client.create("a")
    client.subscribe("a", "crm", receiver.url("/hang"), timeout=4)
    ids = [client.emit("a", data=message(n)).json()["id"] for n in range(20)]
    receiver.wait_for(1)

    client.change("a", "crm", url=receiver.url("/mended"))

    house.wait_quiet(30)
    arrived = [(one.path, one.id) for one in receiver.received()]
    assert arrived[0] == ("/hang", ids[0])
    assert sorted(arrived[1:]) == sorted(("/mended", id) for id in ids)
