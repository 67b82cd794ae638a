"""Renewing holds, from a thread that the loop's work cannot delay.

The loop tells which holds there are; the thread renews them a third of the way through and
notes until when each is good, reckoned from before the request was sent. A process that was
stopped and wakes finds its holds past their end by its own monotonic clock, and starts
nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from evoflask.log import Repeats
from evoflask.outbox import Outbox, connect, verbs

log = logging.getLogger(__name__)

PIECE = 200
"""Holds that one call renews."""
STALLED = 60.0
"""A loop that has not turned for so many seconds is broken: its holds are left to end."""


class Hold:
    """One lane's hold, shared by loop and thread. `end`: monotonic seconds."""

    __slots__ = ("end", "lane", "partition", "token")

    def __init__(self, partition: int, lane: str, token: str, end: float) -> None:
        self.partition, self.lane, self.token = partition, lane, token
        self.end = end


class Renewer:
    """The thread. `add` and `drop` are for the loop."""

    def __init__(self, redis_url: str, seconds: float, on_lost: Callable[[Hold], None]) -> None:
        self._outbox = Outbox(connect(redis_url, timeout=min(2.0, seconds / 4), connections=2))
        self._seconds = seconds
        self._on_lost = on_lost
        self._holds: dict[str, Hold] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._failures = Repeats(log)
        self._thread = threading.Thread(target=self._run, name="holds", daemon=True)
        self.beat = time.monotonic()
        """The loop's last turn."""

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join(5)
        self._outbox.redis.close()

    def add(self, hold: Hold) -> None:
        with self._lock:
            self._holds[hold.token] = hold

    def drop(self, hold: Hold) -> None:
        with self._lock:
            self._holds.pop(hold.token, None)

    def _run(self) -> None:
        while not self._closed.wait(self._seconds / 6):
            if time.monotonic() - self.beat > STALLED:
                continue
            try:
                self._renew(time.monotonic())
            except Exception as error:
                self._failures.tell("holds could not be renewed", error)
            else:
                self._failures.over("holds are renewed again")

    def _renew(self, now: float) -> None:
        with self._lock:
            soon = [h for h in self._holds.values() if h.end - now < self._seconds * 2 / 3]
        by_partition: dict[int, list[Hold]] = {}
        for hold in soon:
            by_partition.setdefault(hold.partition, []).append(hold)
        for partition, holds in by_partition.items():
            for n in range(0, len(holds), PIECE):
                self._renew_piece(partition, holds[n : n + PIECE])

    def _renew_piece(self, partition: int, holds: list[Hold]) -> None:
        before = time.monotonic()
        pairs = [(h.lane, h.token) for h in holds]
        lost: list[str] = self._outbox.run(verbs.renew(partition, pairs, hold=self._seconds))
        for hold in holds:
            if hold.lane in lost:
                self.drop(hold)
                hold.end = 0.0
                self._on_lost(hold)
            else:
                hold.end = before + self._seconds
