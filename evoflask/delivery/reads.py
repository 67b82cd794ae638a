"""Which bodies a drain reads next. No I/O."""

from __future__ import annotations

from collections import deque

from evoflask.delivery.held import Lane
from evoflask.delivery.lanes import Item
from evoflask.delivery.slots import Slot
from evoflask.outbox.members import size_of

MANY = 256
BYTES = 4 * 1024 * 1024
"""Bounds of one read; a single larger body is read alone."""

Wanted = tuple[Lane, Item, Slot]
"""A body to read, and the room that it has."""


class Reads:
    """Lanes that want bodies, the proven and the others apart: a thousand lanes that wait for
    room must not stand before one that has it."""

    def __init__(self) -> None:
        self._queues: dict[bool, deque[Lane]] = {True: deque(), False: deque()}
        self._first = True

    def __bool__(self) -> bool:
        return any(self._queues.values())

    def waiting(self, *, proven: bool) -> int:
        """How many lanes of that kind want bodies."""
        return len(self._queues[proven])

    def add(self, lane: Lane) -> bool:
        """The lane wants bodies; False: that was known."""
        if lane.reading or lane.gone:
            return False
        lane.reading = True
        self._queues[lane.quick].append(lane)
        return True

    def collect(self) -> tuple[list[Wanted], list[Lane]]:
        """What to read in the next round trip, a few items a lane, lanes in turn; and lanes
        whose room is taken by bodies that cannot start (a retry came before them)."""
        batch: list[Wanted] = []
        crowded: list[Lane] = []
        size = 0
        self._first = not self._first
        for proven in (self._first, not self._first):
            queue = self._queues[proven]
            for _ in range(len(queue)):
                if size > BYTES or len(batch) >= MANY:
                    return batch, crowded
                lane = queue.popleft()
                lane.reading = False
                if not lane.gone and not lane.work.stopping:
                    size += self._take(lane, batch, crowded)
        return batch, crowded

    def _take(self, lane: Lane, batch: list[Wanted], crowded: list[Lane]) -> int:
        size = 0
        for item in lane.work.upcoming(max(lane.ahead - lane.loaded, lane.work.room)):
            bytes_ = size_of(item.member)
            slot = lane.station.slots.reserve(lane.quick, bytes_)
            if slot is None:
                self.add(lane)  # tried again when room is given back
                if lane.loaded and not lane.work.flying and not lane.work.ready:
                    crowded.append(lane)
                break
            item.reading = True
            lane.loaded += 1
            batch.append((lane, item, slot))
            size += bytes_
            if size > BYTES:
                self.add(lane)
                break
        return size
