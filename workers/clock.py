"""`python -m workers.clock`: the chores, once a second.

They are idempotent and done under a lease, so several clocks do no harm and a killed one
leaves nothing. SIGTERM or SIGINT ends it with status 0 within two seconds.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Protocol

import redis

import evoflask.log
from evoflask.errors import Misconfigured
from evoflask.log import Repeats
from evoflask.settings import Settings

log = logging.getLogger("evoflask.clock")

EVERY = 1.0


class Chores(Protocol):
    """What the clock asks of the chores."""

    def tick(self) -> None:
        """Does what is due. May fail, and is asked again."""


class Clock:
    """The loop. A chore that fails is told of and done again a second later.

    `make`: builds the chores; called again until it works.
    """

    def __init__(self, make: Callable[[], Chores]) -> None:
        self._make = make
        self._chores: Chores | None = None
        self._failures = Repeats(log, expected=(redis.RedisError,))
        self._stopping = False

    def run(self) -> int:
        """Ticks until a signal; the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        log.info("clock started")
        while not self._stopping:
            began = time.monotonic()
            self._tick()
            while not self._stopping and time.monotonic() - began < EVERY:
                time.sleep(0.05)
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
    except Misconfigured as error:
        return evoflask.log.refuse(error)
    evoflask.log.configure(settings.log_level, settings.secrets())
    from evoflask.delivery import chores

    return Clock(lambda: chores.Chores(settings)).run()


if __name__ == "__main__":
    sys.exit(main())
