"""Destinations that come back: no event is given up, and nothing waits longer than it must."""

from __future__ import annotations

from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from tests.system.conftest import MakeHouse
from tests.system.house import message


def test_a_receiver_that_is_redeployed_makes_no_letters(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(retry_schedule="0.3,0.6,1,2,2,2,2,2,2,2,2")
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/a"))
    receiver.control(path="/a", status=404)

    client.emit_many("a", [{"event": "CALL", "data": message(n), "id": f"e{n}"} for n in range(20)])
    wait_for(lambda: house.lane("a").count("pauses") > 0, 60, "the lane to pause")
    receiver.control(path="/a", status=None)

    house.wait_quiet()
    assert client.good("GET", "/deadletter")["letters"] == []
    assert {each.id for each in receiver.received() if each.path == "/a"} == {
        f"e{n}" for n in range(20)
    }
    assert house.lane("a").count("delivered") == 20
    assert house.off() == {}
