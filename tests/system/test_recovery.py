"""Destinations that recover: no event is given up, and retries need not wait for their dates."""

from __future__ import annotations

from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from tests.sinks.harness import closed_port
from tests.system.conftest import MakeHouse
from tests.system.house import House, message

SCHEDULE = "600,600,600"
"""Three waits of ten minutes, so no test here sees a scheduled retry."""


def failed_once(house: House, url: str, events: int) -> None:
    """Create an instance `a` whose events failed once each, and wait for their next try."""
    client = house.client()
    client.create("a")
    client.set_webhook("a", url)
    body = [{"event": "CALL", "data": message(n), "id": f"e{n}"} for n in range(events)]
    client.emit_many("a", body)
    wait_for(lambda: house.lane("a").retrying == events, 60, "each to fail once")


def attempts(house: House) -> int:
    """Return the number of rows of the delivery log. The clock writes them a moment later."""
    ((count,),) = house.query("SELECT COUNT(*) FROM delivery_log")
    return int(count)


def tries(house: House) -> set[int]:
    """Return the scheduled tries of the waiting events, without repeats."""
    lane = house.lane("a").lane
    return {int(n) for n in house.raw.hvals(f"evo:{{p0}}:tries:{lane}")}


def test_twelve_changes_of_settings_cost_no_scheduled_try(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(retry_schedule=SCHEDULE)
    client = house.client()
    failed_once(house, f"http://127.0.0.1:{closed_port()}/0", 3)

    for n in range(12):
        seen = attempts(house)
        client.set_webhook("a", f"http://127.0.0.1:{closed_port()}/{n + 1}")
        wait_for(lambda seen=seen: attempts(house) >= seen + 3, 30, "each to be tried by hand")

    letters = client.good("GET", "/deadletter")["letters"]
    assert letters == []
    assert house.lane("a").waiting == 3
    assert tries(house) == {1}
    client.set_webhook("a", receiver.url("/a"))
    house.wait_quiet()
    assert sorted(set(receiver.ids())) == ["e0", "e1", "e2"]
    assert house.off() == {}


def test_twelve_probes_cost_no_scheduled_try_and_no_pause(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(retry_schedule=SCHEDULE)
    client = house.client()
    failed_once(house, f"http://127.0.0.1:{closed_port()}/0", 5)
    wait_for(lambda: house.lane("a").count("pauses") == 1, 30, "the lane to pause")
    until = house.lane("a").count("until")

    for _ in range(12):
        seen = attempts(house)
        client.good("POST", "/lane/a/webhook/probe")
        wait_for(lambda seen=seen: attempts(house) >= seen + 1, 30, "it to be tried by hand")
    wait_for(lambda: "token" not in house.lane("a").facts, 30, "the lane to be given up")

    assert client.good("GET", "/deadletter")["letters"] == []
    lane = house.lane("a")
    assert (lane.waiting, lane.count("pauses"), lane.count("until")) == (5, 1, until)
    assert tries(house) == {1}


def test_retries_of_a_lane_that_recovers_do_not_wait_for_their_dates(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(retry_schedule=SCHEDULE)
    client = house.client()
    receiver.control(path="/a", status=503)
    failed_once(house, receiver.url("/a"), 4)
    receiver.control(path="/a", status=None)

    client.emit("a", data=message(9), id="new")

    house.wait_quiet(30)
    assert sorted(set(receiver.ids())) == ["e0", "e1", "e2", "e3", "new"]
    assert house.lane("a").count("delivered") == 5
    assert house.off() == {}


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
