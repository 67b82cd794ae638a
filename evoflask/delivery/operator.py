"""Goes on with operations, beside the chores and never in their way: the clock's second thread.

One process does it at a time, under a lease of its own. Operations take turns of half a second,
so that a long one keeps nobody waiting.
"""

from __future__ import annotations

import logging
import random
import time

from evoflask import bell, db, deadletters, operations, replay
from evoflask.errors import DatabaseDown, EvoflaskError, Unavailable
from evoflask.ids import random_id
from evoflask.log import Repeats
from evoflask.manager import EventManager
from evoflask.operations import Turn
from evoflask.outbox import Outbox, connect, keys
from evoflask.outbox.timetable import Lease
from evoflask.settings import Settings

log = logging.getLogger(__name__)

LEASE = 10.0
"""Seconds after which another process goes on: longer than SQLite lets a writer wait."""
PIECE = 0.5
"""Seconds that one works before the next one has its turn."""
BACKOFF = 30.0
"""Longest wait after a failure, seconds; jitter comes on top of it."""
GIVE_UP = 3_600.0
"""An operation that could do nothing for so long has failed, seconds."""
CREDIT = 2.0
"""An operation with a rate makes up for so many seconds at most."""
TIDY = 600.0
"""Seconds between looks for operations that ended long ago."""

KINDS_OF = (deadletters, replay)
"""Modules that register kinds; importing them is all that it takes."""


class Operator:
    """Built by the clock, in the thread that calls `turn`."""

    def __init__(self, settings: Settings) -> None:
        db.connect(settings)
        outbox = Outbox(connect(settings.redis_url, connections=4))
        self._manager = EventManager(outbox, settings, bell.connect(settings.rq_redis_url))
        self._lease = Lease(outbox, random_id(), LEASE, key=keys.OPERATOR)
        self._worked: dict[int, float] = {}
        self._failing: dict[int, _Failing] = {}
        self._repeats = Repeats(log)
        self._tidied = 0.0

    def turn(self) -> bool:
        """One piece of the operation that waits longest; whether there was one. Raises what
        Redis and the database raise for the lease and the list."""
        if not self._lease.take():
            return False
        self._tidy()
        waiting = operations.waiting()
        self._forget({turn.id for turn in waiting})
        for turn in waiting:
            if (most := self._may(turn)) > 0:
                self._go_on(turn, most)
                return True
        return False

    def _may(self, turn: Turn) -> int:
        """Deliveries that it may make now; 0 where it rests."""
        now = time.monotonic()
        failing = self._failing.get(turn.id)
        if failing and now < failing.next:
            return 0
        since = now - self._worked.setdefault(turn.id, now - PIECE)
        return operations.allowance(turn.rate, min(since, self._credit(turn)))

    def _credit(self, turn: Turn) -> float:
        """A slow one must be able to save for a whole delivery."""
        return max(CREDIT, 1.01 / turn.rate) if turn.rate else CREDIT

    def _go_on(self, turn: Turn, most: int) -> None:
        self._worked[turn.id] = time.monotonic()
        try:
            operations.go_on(self._manager, turn, most, time.monotonic() + PIECE)
        except Unavailable as error:
            self._hindered(turn, error)
        except EvoflaskError as error:
            operations.fail(turn.id, " ".join(error.messages))
        except Exception as error:
            # A defect of its kind: the others go on.
            log.exception("operation failed", extra={"operation": turn.id})
            operations.fail(turn.id, f"A defect ({type(error).__name__}); the log says more.")
        else:
            self._failing.pop(turn.id, None)

    def _hindered(self, turn: Turn, error: Unavailable) -> None:
        failing = self._failing.setdefault(turn.id, _Failing())
        self._repeats.tell(f"operation {turn.id} cannot go on", error)
        if failing.again() > GIVE_UP:
            operations.fail(turn.id, " ".join(error.messages))
        elif not isinstance(error, DatabaseDown):
            operations.hinder(turn.id, " ".join(error.messages))

    def _forget(self, running: set[int]) -> None:
        for kept in (self._worked, self._failing):
            for gone in kept.keys() - running:
                del kept[gone]

    def _tidy(self) -> None:
        if time.monotonic() - self._tidied > TIDY or not self._tidied:
            self._tidied = time.monotonic()
            operations.forget(time.time() - operations.KEEP_SECONDS)


class _Failing:
    """One that could not go on: since when, and when it is asked again."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._wait = 0.5
        self.next = 0.0

    def again(self) -> float:
        """One more failure; seconds since the first."""
        now = time.monotonic()
        self.next = now + self._wait * random.uniform(1.0, 1.5)
        self._wait = min(BACKOFF, self._wait * 2)
        return now - self._since
