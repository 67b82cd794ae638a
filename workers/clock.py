"""`python -m workers.clock`: the chores, once a second, and operations in a thread beside them.

The chores are idempotent and done under a lease, so several clocks do no harm and a killed one
leaves nothing. SIGTERM or SIGINT ends it with status 0 within two seconds.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Protocol

import redis

import evoflask.log
from evoflask import vault
from evoflask.errors import Misconfigured
from evoflask.log import Repeats
from evoflask.settings import Settings
from workers import heartbeat

log = logging.getLogger("evoflask.clock")

EVERY = 1.0
PATIENCE = 60.0
"""Seconds that one round of chores may take before the clock counts as hanging."""
LOOK = 0.5
"""Seconds between looks for an operation that may go on."""
STEP = 0.25
"""Seconds that a sleep takes at most, and so the end of one after a signal."""
REST = 0.5
"""Of the time that a piece took: workers on the same machine have more to do than we."""


class Chores(Protocol):
    """What the clock asks of the chores."""

    def tick(self) -> None:
        """Does what is due. May fail, and is asked again."""


class Operating(Protocol):
    """What the clock asks of the one who goes on with operations."""

    def turn(self) -> bool:
        """One piece of one; whether there was one. May fail, and is asked again."""


class Beside:
    """A thread that goes on with operations. It never delays a chore, and the end of the
    process may leave it at any point.

    `make`: builds who does it; called again until it works.
    """

    def __init__(self, make: Callable[[], Operating]) -> None:
        self._make = make
        self._operator: Operating | None = None
        self._failures = Repeats(log, expected=(redis.RedisError,))

    def start(self) -> None:
        """At once, and until the process ends."""
        threading.Thread(target=self._run, name="operations", daemon=True).start()

    def _run(self) -> None:
        while True:
            began = time.monotonic()
            worked = self._turn()
            time.sleep(REST * (time.monotonic() - began) if worked else LOOK)

    def _turn(self) -> bool:
        try:
            self._operator = self._operator or self._make()
            worked = self._operator.turn()
        except Exception as error:
            self._failures.tell("operations cannot go on", error)
            return False
        self._failures.over("operations go on again")
        return worked


class Clock:
    """The loop. A chore that fails is told of and done again a second later.

    `make`: builds the chores; called again until it works.
    """

    def __init__(self, make: Callable[[], Chores]) -> None:
        self._make = make
        self._chores: Chores | None = None
        self._failures = Repeats(log, expected=(redis.RedisError,))
        self._stopping = False
        self._turned = time.monotonic()

    def responds(self) -> bool:
        """Whether it turned lately. Chores may wait for a Redis and a database that hang."""
        return time.monotonic() - self._turned < PATIENCE

    def run(self) -> int:
        """Ticks until a signal; the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        log.info("clock started")
        while not self._stopping:
            began = self._turned = time.monotonic()
            self._tick()
            while not self._stopping and time.monotonic() - began < EVERY:
                time.sleep(STEP)
        log.info("clock ended")
        return 0

    def _tick(self) -> None:
        try:
            self._chores = self._chores or self._make()
            self._chores.tick()
        except Exception as error:
            self._failures.tell("the chores failed", error)
        else:
            self._failures.over("the chores are done again")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """A chore under way may be left at any point: it is idempotent."""
        self._stopping = True
        signal.alarm(2)


def main() -> int:
    """The command; the exit status."""
    try:
        settings = Settings.from_env(os.environ)
        vault.unlock(settings)
    except Misconfigured as error:
        return evoflask.log.refuse(error)
    evoflask.log.configure(settings.log_level, settings.secrets(), settings.log_format)
    from evoflask.delivery import chores, operator

    Beside(lambda: operator.Operator(settings)).start()
    clock = Clock(lambda: chores.Chores(settings))
    heartbeat.beat(settings.heartbeat_file, clock.responds)
    return clock.run()


if __name__ == "__main__":
    sys.exit(main())
