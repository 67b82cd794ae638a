"""Hundreds of tenants at once that never had a success, and hang: they are let in a few at a
time, and nothing of anybody is lost by their waiting."""

from __future__ import annotations

import threading

import orjson

from evoflask.delivery.reads import FEW
from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from evoflask.outbox import keys
from tests.system.bulk import Tenants
from tests.system.conftest import MakeHouse
from tests.system.house import House, message

MANY = 600
"""At 125 a second, so five seconds until the last one is tried."""


def newcomers(house: House, black_hole: Receiver) -> Tenants:
    """With an event each; disabled."""
    urls = {f"new{n}": black_hole.url(f"/hang/{n}") for n in range(MANY)}
    made = Tenants(house, urls, enabled=False)
    for name in urls:
        made.fill(name, [("chat", orjson.dumps(message(1)))])
    return made


def of_lanes(house: House, tenants: Tenants, field: str) -> int:
    """How many of their lanes have that field."""
    pipe = house.raw.pipeline(transaction=False)
    for lane in tenants.lanes.values():
        pipe.hexists(keys.of(0, f"lane:{lane}"), field)
    return sum(pipe.execute())


def test_they_are_held_until_their_turn_however_short_a_hold_is(make_house: MakeHouse) -> None:
    house = make_house(hold_seconds=2)
    with Receiver() as black_hole:
        tenants = newcomers(house, black_hole)

        tenants.enable()

        wait_for(lambda: black_hole.count() >= MANY, 60, "all of them were tried")
        assert of_lanes(house, tenants, "lost") == 0
        assert black_hole.count() == MANY  # nobody was taken, and tried, twice


def test_who_still_waits_when_the_worker_ends_is_free_for_another_one(
    make_house: MakeHouse,
) -> None:
    house = make_house(hold_seconds=30)
    with Receiver() as black_hole:
        tenants = newcomers(house, black_hole)
        tenants.enable()
        wait_for(lambda: of_lanes(house, tenants, "token") == MANY, 30, "all are held")
        assert black_hole.count() < MANY

        ends = threading.Thread(target=house.stop, args=("worker",))
        ends.start()
        try:
            # Those that hang may take until the end of the grace, and keep their lanes.
            wait_for(
                lambda: of_lanes(house, tenants, "token") <= black_hole.count(),
                10,
                "nothing is held but what is under way",
            )
            assert house.process("worker").alive
            assert black_hole.count() < MANY
        finally:
            ends.join()
    assert house.off() == {}


def done_while_they_wait(house: House, black_hole: Receiver, what: str) -> int:
    """By hand, to the lane of each that was not tried yet, of which it answers how many; the worker
    hears of it at its next step only. Holds afterwards that none of them is tried."""
    client = house.client()
    tenants = newcomers(house, black_hole)
    tenants.enable()
    wait_for(lambda: of_lanes(house, tenants, "token") == MANY, 30, "all are held")
    house.freeze("worker")
    paths = black_hole.counts()["paths"]
    untried = [n for n in range(MANY) if f"/hang/{n}" not in paths]

    for n in untried:
        client.good("POST", f"/lane/new{n}/webhook/{what}")
    tried = black_hole.count()
    house.thaw("worker")

    wait_for(lambda: of_lanes(house, tenants, "token") <= black_hole.count(), 60, "the rest")
    # A busy machine freezes the worker late. Fewer would not differ from those that may start.
    assert len(untried) > 4 * FEW
    # What was about to start when the worker woke may go before it hears of it.
    assert black_hole.count() <= tried + FEW
    return len(untried)


def test_what_is_skipped_while_they_wait_is_not_sent(make_house: MakeHouse) -> None:
    house = make_house(hold_seconds=60)
    with Receiver() as black_hole:
        skipped = done_while_they_wait(house, black_hole, "skip")

        reasons = {"skipped": skipped}
        wait_for(lambda: house.client().good("GET", "/deadletter")["reasons"] == reasons)


def test_who_is_paused_while_it_waits_is_not_tried(make_house: MakeHouse) -> None:
    house = make_house(hold_seconds=60)
    with Receiver() as black_hole:
        done_while_they_wait(house, black_hole, "pause")


def test_a_tenant_that_works_does_not_wait_for_them_in_a_worker_that_knows_nobody(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house()
    client = house.client()
    client.create("well")
    client.set_webhook("well", receiver.url())
    client.emit("well", data=message(1))
    receiver.wait_for(1)
    house.wait_quiet()
    house.stop("worker")
    with Receiver() as black_hole:
        newcomers(house, black_hole).enable()
        assert client.emit("well", data=message(2)).status_code == 202  # the last in the line

        house.start("worker")

        receiver.wait_for(2, 30)
        assert black_hole.count() < MANY / 2
        wait_for(lambda: black_hole.count() >= MANY, 60, "their turn comes all the same")


def test_a_tenant_without_a_success_does_not_wait_for_slow_ones_with_a_backlog(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    slow, each = 100, 40
    house = make_house()
    urls = {f"slow{n}": receiver.url("/slow/1500") for n in range(slow)}
    tenants = Tenants(house, urls)
    Tenants(house, {"new": receiver.url("/new")})
    for name in urls:
        tenants.fill(name, [(f"chat{n}", orjson.dumps(message(n))) for n in range(each)])
    receiver.wait_for(5 * slow, 60)  # each has as much under way as it may

    assert house.client().emit("new", data=message(1)).status_code == 202

    wait_for(lambda: "/new" in receiver.counts()["paths"], 60, "it was tried")
    assert receiver.count() < slow * each / 2
    receiver.wait_for(slow * each + 1, 120)
