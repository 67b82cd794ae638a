"""Who is let in when, of the lanes whose settings are not known."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from evoflask.configuration import LaneSettings
from evoflask.delivery.admission import Admission, Taken
from evoflask.delivery.held import Station
from evoflask.delivery.holds import Renewer
from evoflask.delivery.reads import FEW
from evoflask.errors import DatabaseDown
from evoflask.log import Repeats
from evoflask.outbox import AsyncOutbox, Held
from evoflask.sinks.base import Target

STATION = cast(Station, object())


class Holds:
    """What is renewed."""

    def __init__(self) -> None:
        self.kept: set[str] = set()

    def add(self, hold: Any) -> None:
        self.kept.add(hold.lane)

    def drop(self, hold: Any) -> None:
        self.kept.discard(hold.lane)


class GivenBack:
    """The outbox: how many lanes were given back."""

    def __init__(self) -> None:
        self.count = 0

    async def run_many(self, calls: Any) -> list[Any]:
        self.count += len(calls)
        return [None] * len(calls)


class Known(Admission):
    """Every lane has a row, while there is a database."""

    down = False

    async def read(self, lanes: list[str]) -> dict[str, LaneSettings | None]:
        if self.down:
            raise DatabaseDown("it is away")
        return {lane: settings(lane) for lane in reversed(lanes)}


class Door:
    """An admission, and who came in."""

    def __init__(self, *, room: bool) -> None:
        self.room = room
        self.begun: list[str] = []
        self.told: dict[str, bool] = {}
        self.outbox = GivenBack()
        self.holds = Holds()
        self.tasks: set[asyncio.Task[None]] = set()
        self.admission = Known(
            cast(AsyncOutbox, self.outbox),
            cast(ThreadPoolExecutor, None),
            cast(Renewer, self.holds),
            Repeats(logging.getLogger(), expected=(DatabaseDown,)),
            begin=self._begin,
            has_room=lambda station: self.room,
            background=lambda work: self.tasks.add(asyncio.ensure_future(work)),
            now=lambda: 0.0,
        )

    def _begin(self, taken: Taken, settings: LaneSettings) -> None:
        assert taken.held.lane == settings.target.sid
        self.begun.append(taken.held.lane)
        if taken.told:
            self.told[taken.held.lane] = taken.anew

    async def turn(self) -> None:
        """Newcomers are looked at once."""
        self.admission.more()
        work = asyncio.ensure_future(self.admission.let_newcomers_in())
        await asyncio.wait([work], timeout=0.05)
        work.cancel()


def settings(lane: str) -> LaneSettings:
    target = Target(lane, 1, "i", "webhook", "standard", 30.0, {})
    return LaneSettings(target, 8, False, None, 1, "i", "webhook")


def held(n: int, *, proven: bool) -> Held:
    return Held(0, f"s{n}", "token", "outbox", ("1", "e"), False, proven, {}, [])


def test_newcomers_come_in_a_few_at_a_time_also_where_the_lines_never_become_short() -> None:
    async def run() -> None:
        door = Door(room=False)
        door.admission.admit(STATION, [held(n, proven=False) for n in range(50)], 1e9)

        await door.turn()

        assert door.begun == [f"s{n}" for n in range(FEW)]
        assert door.admission.waiting == 50 - FEW
        assert len(door.holds.kept) == 50  # those who wait are held
        async with asyncio.timeout(30):
            while door.admission.waiting:
                await door.turn()
        assert door.begun == [f"s{n}" for n in range(50)]

    asyncio.run(run())


def test_those_who_work_do_not_wait_for_newcomers() -> None:
    async def run() -> None:
        door = Door(room=False)
        await door.turn()
        many = [held(n, proven=False) for n in range(1000)]
        door.admission.admit(STATION, [*many, held(1000, proven=True)], 1e9)

        await asyncio.gather(*door.tasks)

        assert door.begun == ["s1000"]

    asyncio.run(run())


def test_who_is_known_begins_at_once_unless_it_was_changed() -> None:
    async def run() -> None:
        door = Door(room=False)
        door.admission.keep("s1", ("1", "e"), settings("s1"))
        door.admission.keep("s2", ("0", "e"), settings("s2"))

        door.admission.admit(STATION, [held(2, proven=False), held(1, proven=False)], 1e9)

        assert door.begun == ["s1"]

    asyncio.run(run())


def test_a_newcomer_whose_hold_was_lost_is_not_let_in() -> None:
    async def run() -> None:
        door = Door(room=True)
        door.admission.admit(STATION, [held(1, proven=False)], 0.0)
        door.admission.admit(STATION, [held(2, proven=False)], 1e9)

        await door.turn()

        assert door.begun == ["s2"]
        assert door.holds.kept == {"s2"}

    asyncio.run(run())


def test_without_a_database_everybody_is_given_back_at_once() -> None:
    async def run() -> None:
        door = Door(room=False)
        door.admission.down = True
        door.admission.admit(STATION, [held(n, proven=False) for n in range(50)], 1e9)

        await door.turn()

        assert door.outbox.count == 50
        assert door.admission.waiting == 0
        assert door.holds.kept == set()
        assert door.begun == []

    asyncio.run(run())


def test_what_was_told_of_a_lane_that_waits_is_known_when_it_begins() -> None:
    async def run() -> None:
        door = Door(room=True)
        door.admission.admit(STATION, [held(n, proven=False) for n in range(3)], 1e9)

        assert door.admission.tell("s1", anew=True)
        assert door.admission.tell("s1", anew=False)  # the first one still holds
        assert door.admission.tell("s2", anew=False)
        assert not door.admission.tell("s3", anew=True)
        await door.turn()

        assert door.begun == ["s0", "s1", "s2"]
        assert door.told == {"s1": True, "s2": False}
        assert not door.admission.tell("s1", anew=True)

    asyncio.run(run())
