"""A worker with a drain for each sink ends in order, whatever its drains are at."""

from __future__ import annotations

import random
import time

from evoflask.dev.process import free_port
from tests.system.house import House


def test_a_worker_ends_in_order_at_any_moment(house: House) -> None:
    client = house.client()
    client.create("a")
    client.set_webhook("a", f"http://127.0.0.1:{free_port()}/", retry=[3600])
    endings = []

    for _ in range(10):
        client.emit("a")
        time.sleep(random.uniform(0, 1.5))  # any moment, which is what is tested
        began = time.monotonic()
        status = house.stop("worker")
        endings.append((status, time.monotonic() - began < 15))
        house.start("worker")

    assert endings == [(0, True)] * 10
