"""The wall clock moved by an hour, forth and back: of web, worker and clock, and of Redis."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from evoflask.dev.process import wait_for
from evoflask.dev.receiver import Receiver
from tests.conftest import missing
from tests.system.conftest import MakeHouse
from tests.system.house import House
from tests.system.ledger import Faults
from tests.system.moved_clock import LIBRARY, MovedClock, MovedRedis
from tests.system.reliability import Table
from tests.system.test_store_faults import Producers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.beside,
    pytest.mark.timeout(600),
]

HOUR = 3600
MOVES = (HOUR, 0, -HOUR, 0)
"""Seconds from the machine's time: forth, back, back, forth."""
LATE = 30.0
"""Seconds within which failed events must arrive once their destination is mended. A date that
moved with the clock would cost an hour."""


@pytest.fixture
def clock(tmp_path: Path) -> MovedClock:
    return MovedClock(tmp_path / "moved")


def move(
    house: House, receiver: Receiver, clock: MovedClock, producers: Producers, faults: Faults
) -> float:
    """Each move while events are under way and one tenant's destination fails; the longest
    time that the failing one took to be empty after it was mended."""
    client, longest = house.client(), 0.0
    client.create("ill")
    client.set_webhook("ill", receiver.url("/ill"))
    for n, seconds in enumerate(MOVES):
        producers.wait_for(50)
        with faults.during(f"moved to {seconds:+d} s"):
            receiver.control(path="/ill", status=500)
            for k in range(10):
                id = f"ill-{n * 10 + k}"
                producers.emit(client, id, producers.refusals.append)
                producers.ledger.promise(id, "/ill", "1", n * 10 + k)
            wait_for(lambda: house.lane("ill").waiting == 10, 20, "failures")
            wait_for(lambda: house.lane("ill").facts.get("error"), 20, "a failure that is settled")
            clock.move(seconds)
            producers.wait_for(100)
            receiver.control(path="/ill", status=None)
            began = time.monotonic()
            wait_for(lambda: not house.lane("ill").waiting, 60, "the failing lane to be empty", 0.1)
            longest = max(longest, time.monotonic() - began)
    return longest


def test_processes_whose_clock_moves_by_an_hour_lose_and_repeat_nothing(
    make_house: MakeHouse, receiver: Receiver, clock: MovedClock, table: Table
) -> None:
    house = make_house(web=0, workers=0, clock=False, retry_schedule=",".join(["1"] * 100))
    house.env.update(clock.of_python)
    for kind in ("web", "worker", "clock"):
        house.start(kind)
    wait_for(house.answers, 30, "the web process to answer")
    producers, faults = Producers(house, receiver, 0.02), Faults()

    longest = move(house, receiver, clock, producers, faults)
    producers.stop()

    house.wait_quiet(60)
    done = "web, worker and clock: an hour forth, back, back, forth, under load"
    why = "tries that were told 500"
    table.check("The system clock moves", done, producers.ledger, receiver, faults, why)
    print(f"the failing lane took {longest:.1f} s")
    assert longest < LATE
    assert house.audit()[0] == 0


def test_a_redis_whose_clock_moves_by_an_hour_loses_and_repeats_nothing(
    make_house: MakeHouse, receiver: Receiver, clock: MovedClock, table: Table, tmp_path: Path
) -> None:
    if LIBRARY is None:
        missing("There is no libfaketime; Debian's faketime brings it.")
    server = MovedRedis(tmp_path / "redis", clock)
    house = make_house(redis_server=server, retry_schedule=",".join(["1"] * 100))
    producers, faults = Producers(house, receiver, 0.02), Faults()

    longest = move(house, receiver, clock, producers, faults)
    producers.stop()

    house.wait_quiet(60)
    done = "Redis: an hour forth, back, back, forth, under load"
    why = "tries that were told 500"
    table.check("Redis' clock moves", done, producers.ledger, receiver, faults, why)
    print(f"the failing lane took {longest:.1f} s")
    assert longest < LATE
    assert house.audit()[0] == 0
