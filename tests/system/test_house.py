"""The house itself, and the shortest way through it."""

from __future__ import annotations

from evoflask.dev.receiver import Receiver
from tests.system.house import House, message


def test_an_emit_becomes_a_delivered_webhook(house: House, receiver: Receiver) -> None:
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/a"))

    answer = client.emit("a", data=message(1))

    assert answer.status_code == 202
    receiver.wait_for(1)
    house.wait_quiet()
    assert receiver.ids() == [answer.json()["id"]]
    assert house.off() == {}
