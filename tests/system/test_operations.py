"""What an operator sees and does, with every process at work."""

from __future__ import annotations

import json

from prometheus_client.parser import text_string_to_metric_families

from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from tests.system.conftest import MakeHouse
from tests.system.house import Client, House, message


def total(client: Client) -> int:
    return int(client.call("GET", "/deadletter").json()["total"])


def number(client: Client, name: str) -> float:
    text = client.call("GET", "/metrics").text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and sample.labels.get("sink", "webhook") == "webhook"
    )


def test_what_a_destination_rejects_is_requeued_once_it_is_mended(
    house: House, receiver: Receiver
) -> None:
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/status/410"))
    client.call("POST", "/event/emit/a", [{"event": "CALL", "data": message(n)} for n in range(50)])
    wait_for(lambda: total(client) == 50, 20, "the letters")
    ids = [letter["eventId"] for letter in client.call("GET", "/deadletter").json()["letters"]]
    receiver.clear()

    client.set_webhook("a", receiver.url("/ok"))
    answer = client.call("POST", "/deadletter/requeue", {"reason": "rejected"})

    assert answer.json() == {"requeued": 50, "left": 0, "operation": None}
    receiver.wait_for(50)
    assert receiver.ids() == ids[::-1]
    house.wait_quiet()
    assert house.audit() == (0, "1 lane of 1 instance, 0 deliveries: 0 findings.\n")


def test_a_paused_lane_is_quiet_and_resumes(house: House, receiver: Receiver) -> None:
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/ok"))

    assert client.call("POST", "/lane/a/webhook/pause").json()["state"] == "stopped"
    client.call("POST", "/event/emit/a", [{"event": "CALL", "data": message(n)} for n in range(5)])
    (lane,) = client.call("GET", "/lane").json()["lanes"]
    assert (lane["state"], lane["backlog"]) == ("stopped", 5)
    assert receiver.count() == 0

    assert client.call("POST", "/lane/a/webhook/resume").status_code == 200
    receiver.wait_for(5)


def test_a_mended_destination_is_tried_at_once_after_resume(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(breaker_threshold=2, retry_schedule="600,600")
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/status/503"))
    client.call("POST", "/event/emit/a", [{"event": "CALL", "data": message(n)} for n in range(5)])
    wait_for(
        lambda: client.call("GET", "/lane").json()["lanes"][0]["state"] == "paused", 20, "a pause"
    )
    (lane,) = client.call("GET", "/lane").json()["lanes"]
    assert lane["lastError"].startswith("refused 503")
    assert lane["nextAttempt"] == lane["pausedUntil"]

    client.set_webhook("a", receiver.url("/ok"))
    client.call("POST", "/lane/a/webhook/resume")

    house.wait_quiet(20)
    assert client.call("GET", "/lane").json()["lanes"][0]["state"] == "idle"


def test_every_web_process_tells_the_same_and_the_house_is_in_order(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(web=2)
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/ok"))
    client.call("POST", "/event/emit/a", [{"event": "CALL", "data": message(n)} for n in range(20)])
    house.wait_quiet()

    told = set()
    for _ in range(10):  # a new connection each: the kernel picks a process
        each = house.client()
        told.add(number(each, "evoflask_deliveries_delivered_total"))
        told.add(number(each, "evoflask_delivery_latency_seconds_count"))
    ready = client.call("GET", "/readyz")
    status, doctor = house.flask("doctor", "--json")
    parts = {part["name"]: part for part in json.loads(doctor)}

    assert told == {20.0}
    assert ready.status_code == 200
    assert {name: part["state"] for name, part in ready.json()["parts"].items()} == {
        "redis": "ok",
        "durability": "ok",
        "memory": "ok",
        "database": "ok",
        "secrets": "ok",
        "clock": "ok",
    }
    assert status == 0
    assert parts["bells"]["state"] == "ok"
    assert "the last second" in house.output("web")
    assert "the last second" in house.output("clock")
