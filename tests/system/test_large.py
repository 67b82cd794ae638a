"""Bodies as large as media: the worker's memory is bounded by its settings, not by them."""

from __future__ import annotations

import time

import orjson
import pytest

from evoflask.dev.receiver import Receiver
from tests.system.bulk import Tenants
from tests.system.conftest import MakeHouse
from tests.system.house import message

LANES, EACH = 50, 20
SIZE = 3_700_000
"""Bytes of a body: a photograph in base64."""
MAX_RSS = 400 * 1024 * 1024
"""Bytes that the worker has at its peak, with the default of 64 MB of bodies in hand."""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_fifty_lanes_of_large_bodies_are_delivered_in_bounded_memory(
    make_house: MakeHouse, receiver: Receiver
) -> None:
    # All of it waits at once, which is 3.7 GB of bodies and 4 GB of Redis: the oldest of the
    # heaviest lanes leave at 78 %. Writing that to disk too is not the point.
    house = make_house(maxmemory="6gb", fsync="no", hold_seconds=15)
    house.raw.config_set("appendonly", "no")
    names = [f"t{n}" for n in range(LANES)]
    tenants = Tenants(house, {name: receiver.url(f"/{name}") for name in names}, enabled=False)
    padding = "x" * (SIZE - 100)
    ids = {
        name: tenants.fill(
            name,
            (
                (f"chat{n % 4}", orjson.dumps(message(n, f"chat{n % 4}", media=padding)))
                for n in range(EACH)
            ),
        )
        for name in names
    }
    before = house.rss("worker")

    began = time.monotonic()
    tenants.enable()
    house.wait_quiet(180)

    seconds = time.monotonic() - began
    peak = house.rss("worker", peak=True)
    print(
        f"{LANES * EACH * SIZE / 1e6 / seconds:.0f} MB/s; worker {before >> 20} MB,"
        f" peak {peak >> 20} MB"
    )
    received = receiver.received()
    assert len(received) == LANES * EACH
    for name in names:
        arrived = [one.id for one in received if one.path == f"/{name}"]
        assert sorted(arrived) == sorted(ids[name])
        for chat in range(4):
            mine = ids[name][chat::4]
            assert [id for id in arrived if id in mine] == mine
    assert house.off() == {}
    assert peak <= MAX_RSS
