"""A worker with a drain for each sink ends in order, whatever its drains are at."""

from __future__ import annotations

import random
import time

from evoflask.dev.process import free_port
from tests.system.conftest import MakeHouse
from tests.system.house import House, Threads

WORKERS, ROUNDS = 3, 4


def test_a_worker_ends_in_order_at_any_moment(make_house: MakeHouse) -> None:
    house = make_house(workers=WORKERS)
    client = house.client()
    client.create("a")
    client.set_webhook("a", f"http://127.0.0.1:{free_port()}/", retry=[3600])
    endings: list[tuple[int | None, bool]] = []

    for _ in range(ROUNDS):
        client.emit("a")
        Threads([lambda n=n: endings.append(end(house, n)) for n in range(WORKERS)]).join()
        house.revive()
        for n in range(WORKERS):
            house.wait_started("worker", n)

    assert endings == [(0, True)] * (WORKERS * ROUNDS)


def end(house: House, n: int) -> tuple[int | None, bool]:
    """Its exit status, and whether it came in time."""
    time.sleep(random.uniform(0, 1.5))  # any moment, which is what is tested
    began = time.monotonic()
    status = house.stop("worker", n)
    return status, time.monotonic() - began < 15
