"""From a lane that Redis handed out to one that can begin: its settings, and its turn to have
them read.

What is known begins at once. The others wait for their rows, and nobody waits for them: proven
lanes are read together, and newcomers (no success yet, or failing) a few at a time, as those
before them come to start. A thousand of them at once, all read before the first could start,
kept healthy lanes waiting for a tenth of a second (measured).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from evoflask import vault
from evoflask.configuration import LaneSettings, read_lane_settings
from evoflask.delivery.held import Station
from evoflask.delivery.holds import Hold, Renewer
from evoflask.delivery.reads import FEW
from evoflask.errors import DatabaseDown
from evoflask.log import Bounded, Repeats
from evoflask.outbox import AsyncOutbox, Held, verbs

log = logging.getLogger(__name__)

CACHE = 20_000
"""Lanes whose settings are kept."""
EVERY = 0.2
"""Seconds after which a few newcomers are let in even where the lines are long: those that stand
there may have much to do, and fail at each of it."""
CLOSED_SECONDS = 10
"""After so many seconds, and up to twice as many, a lane whose secrets do not open is looked at
again."""


@dataclass(slots=True, eq=False)
class Taken:
    """A lane that waits for its row. Its hold is renewed meanwhile."""

    station: Station
    held: Held
    hold: Hold
    told: bool = False
    """Append or an operator said something of it."""
    anew: bool = False
    """What Redis handed out of it is void."""


class Admission:
    """All methods are for the drain's loop.

    `begin` puts a lane to work. `has_room` says whether a sink could start more newcomers soon;
    `more` is to be called when that may have become so, and now and then. `now` is Redis' clock,
    seconds.
    """

    def __init__(
        self,
        outbox: AsyncOutbox,
        threads: Executor,
        renewer: Renewer,
        failures: Repeats,
        *,
        begin: Callable[[Taken, LaneSettings], None],
        has_room: Callable[[Station], bool],
        background: Callable[[Coroutine[Any, Any, None]], None],
        now: Callable[[], float],
    ) -> None:
        self._outbox = outbox
        self._threads = threads
        self._renewer = renewer
        self._failures = failures
        self._begin = begin
        self._has_room = has_room
        self._background = background
        self._now = now
        self._kept: OrderedDict[str, tuple[tuple[str, str], LaneSettings]] = OrderedDict()
        self._newcomers: deque[Taken] = deque()
        self._waiting: dict[str, Taken] = {}
        """Newcomers and those whose rows are being read, by lane."""
        self._more = asyncio.Event()
        self._last = 0.0
        """When newcomers were let in."""
        self._closed = Bounded(log, logging.ERROR, vault.CLOSED, most=1)

    @property
    def waiting(self) -> int:
        """Lanes that did not begin yet."""
        return len(self._waiting)

    def admit(self, station: Station, lanes: Sequence[Held], end: float) -> None:
        """`end`: of their holds, by the monotonic clock."""
        missing: list[Taken] = []
        for held in lanes:
            taken = Taken(station, held, Hold(held.partition, held.lane, held.token, end))
            self._renewer.add(taken.hold)
            kept = self._kept.get(held.lane)
            if kept and kept[0] == held.revision:
                self._kept.move_to_end(held.lane)
                self._begin(taken, kept[1])
            else:
                self._waiting[held.lane] = taken
                (missing if held.proven else self._newcomers).append(taken)
        if missing:
            self._background(self._let_in(missing))
        if self._newcomers:
            self._more.set()

    def tell(self, lane: str, *, anew: bool) -> bool:
        """What append or an operator told of a lane, for when it begins; whether it waits here."""
        taken = self._waiting.get(lane)
        if taken is None:
            return False
        taken.told, taken.anew = True, taken.anew or anew
        return True

    def more(self) -> None:
        """There may be room for newcomers."""
        if self._newcomers:
            self._more.set()

    async def let_newcomers_in(self) -> None:
        """As many as there is room for; to be run again and again."""
        await self._more.wait()
        self._more.clear()
        while piece := self._next_newcomers():
            await self._let_in(piece)

    def keep(self, lane: str, revision: tuple[str, str], settings: LaneSettings) -> None:
        """What was read of a lane, for when it is taken again at the same revision."""
        self._kept[lane] = (revision, settings)
        self._kept.move_to_end(lane)
        while len(self._kept) > CACHE:
            self._kept.popitem(last=False)

    async def read(self, lanes: list[str]) -> dict[str, LaneSettings | None]:
        """See `read_lane_settings`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, read_lane_settings, lanes)

    def _next_newcomers(self) -> list[Taken]:
        now, piece = time.monotonic(), list[Taken]()
        anyway = now - self._last >= EVERY
        # In a drain of several sinks the first one's wait is everybody's; workers' serve one.
        while self._newcomers and len(piece) < FEW:
            if not anyway and not self._has_room(self._newcomers[0].station):
                break
            taken = self._newcomers.popleft()
            if taken.hold.end < now:
                log.info("a hold was lost", extra={"lane": taken.held.lane})
                self._let_go(taken)
            else:
                piece.append(taken)
        if piece:
            self._last = now
        return piece

    async def _let_in(self, lanes: Sequence[Taken]) -> None:
        """Read their rows, and begin. A failure leaves the holds of all that did not begin to
        end by themselves."""
        try:
            try:
                read = await self.read([taken.held.lane for taken in lanes])
            except DatabaseDown as error:
                self._failures.tell("settings cannot be read", error)
                # Another worker may reach it: nobody is kept for when this one does again.
                lanes = [*lanes, *self._newcomers]
                self._newcomers.clear()
                await self._turn_away(lanes, {"until": self._later(1)})
                return
            gone = [taken for taken in lanes if taken.held.lane not in read]
            await self._turn_away(gone, {"on": 0, "orphan": 1})
            closed = [taken for taken in lanes if read.get(taken.held.lane, 0) is None]
            await self._turn_away_closed(closed)
            for taken in lanes:  # as they were due
                held = taken.held
                settings = read.get(held.lane)
                if settings is not None:
                    self._leave(taken)
                    self.keep(held.lane, held.revision, settings)
                    self._begin(taken, settings)
        finally:
            for taken in lanes:
                if self._waiting.get(taken.held.lane) is taken:
                    self._let_go(taken)

    async def _turn_away_closed(self, lanes: Sequence[Taken]) -> None:
        """Their secrets open with no key that we have: nothing is tried or charged, they wait for
        a worker that has it."""
        if not lanes:
            return
        self._closed.tell(lambda: {"lanes": len(lanes), "lane": lanes[0].held.lane})
        facts: dict[str, str | int] = {
            "until": self._later(CLOSED_SECONDS),
            "error": vault.CLOSED,
            "errat": round(self._now() * 1000),
        }
        await self._turn_away(lanes, facts)

    async def _turn_away(self, lanes: Sequence[Taken], facts: dict[str, str | int]) -> None:
        """Give lanes back that cannot begin: without a row they come off `due` and are kept
        (the audit reports them), without a database they are looked at again soon."""
        for taken in lanes:
            self._let_go(taken)
        await self._outbox.run_many(
            [
                verbs.settle(held.partition, held.lane, held.token, [], hold=0, facts=facts)
                for held in (taken.held for taken in lanes)
            ]
        )

    def _let_go(self, taken: Taken) -> None:
        """It does not begin here; unless it is given back, its hold is left to end."""
        self._renewer.drop(taken.hold)
        self._leave(taken)

    def _leave(self, taken: Taken) -> None:
        if self._waiting.get(taken.held.lane) is taken:  # else it was lost, and taken again
            del self._waiting[taken.held.lane]

    def _later(self, seconds: float) -> int:
        """From now until twice as long, milliseconds by Redis' clock."""
        return round((self._now() + seconds * (1 + random.random())) * 1000)
