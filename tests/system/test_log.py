"""What the processes write, read as whoever collects it would."""

from __future__ import annotations

import json

from evoflask.dev.receiver import Receiver
from tests.system.conftest import MakeHouse
from tests.system.house import message


def test_with_json_every_line_is_an_object_and_a_letter_can_be_followed_by_its_ids(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(log_format="json", log_level="debug", retry_schedule="0.1")
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/status/500"))
    id = client.emit("a", data=message(1, secret_of_the_tenant="xyzzy")).json()["id"]
    house.wait_quiet()

    for kind in ("web", "worker", "clock"):
        house.stop(kind)
    said = house.output("web") + house.output("worker") + house.output("clock")
    lines = [json.loads(line) for line in said.splitlines()]
    of_event = [line for line in lines if line.get("event_id") == id]

    attempts = [line for line in of_event if line["msg"] == "an attempt failed"]
    assert [(line["attempt"], line["code"]) for line in attempts] == [(1, "500"), (2, "500")]
    assert attempts[-1]["next"] == "dead"
    (letter,) = [line for line in of_event if line["msg"] == "a dead letter was written"]
    assert (letter["instance"], letter["subscription"], letter["sink"]) == (
        "a",
        "webhook",
        "webhook",
    )
    assert (letter["reason"], letter["tries"]) == ("exhausted", 2)
    assert "xyzzy" not in said
