"""A subscription is changed while its lane is held: what is emitted after the answer obeys it."""

from __future__ import annotations

import threading

from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from evoflask.outbox import keys
from tests.system.conftest import MakeHouse
from tests.system.house import Threads, message

CHANGES = 300


def test_what_is_emitted_after_a_new_url_goes_there(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house()
    client = house.client()
    client.create("a")
    client.set_webhook("a", receiver.url("/at/0"))
    after: dict[str, int] = {}
    over = threading.Event()

    def others() -> None:
        """So that a drain holds the lane all the time."""
        sender, n = house.client(), 0
        while not over.is_set():
            n += 1
            sender.emit("a", data=message(n, f"chat{n % 5}"))

    background = Threads([others])
    try:
        for n in range(1, CHANGES + 1):
            client.set_webhook("a", receiver.url(f"/at/{n}"))
            after[client.emit("a", data=message(n, "mine")).json()["id"]] = n
    finally:
        over.set()
        background.join(30)
    house.wait_quiet()

    came = {each.id: int(each.path.rpartition("/")[2]) for each in receiver.received()}
    early = {id: (n, came[id]) for id, n in after.items() if came[id] < n}
    assert early == {}


def test_what_waits_behind_hanging_requests_is_not_sent_once_the_lane_is_paused(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    house = make_house(quick_slots=8, slow_slots=1)
    client = house.client()
    with Receiver() as black_hole:
        for n in range(12):
            client.create(f"dead{n}")
            client.set_webhook(f"dead{n}", black_hole.url("/hang"), timeout=6)
            client.emit(f"dead{n}", data=message(n))
        black_hole.wait_for(9, 20)
        client.create("a")
        client.set_webhook("a", receiver.url("/ok"))
        for n in range(5):  # more than a drain takes at once of a lane without a success
            client.emit("a", data=message(n))
        own = "SELECT s.lane FROM subscription s JOIN instance i ON i.id = s.instance_id"
        ((lane,),) = house.query(own + " WHERE i.name = 'a'")
        held = keys.of(0, f"lane:{lane}"), "token"
        wait_for(lambda: house.raw.hexists(*held), 20, "a drain that holds it")
        assert receiver.count() == 0  # nobody has a slot for it

        client.good("POST", "/lane/a/webhook/pause")

        wait_for(lambda: not house.raw.hexists(*held), 30, "the drain to let go of it")
        assert receiver.count() == 0
        client.good("POST", "/lane/a/webhook/resume")
        receiver.wait_for(5, 30)
