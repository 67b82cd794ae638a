"""Which bodies a drain reads next. No I/O."""

from __future__ import annotations

from collections import deque

from evoflask.delivery.held import Lane
from evoflask.delivery.lanes import Item
from evoflask.delivery.slots import Slot
from evoflask.outbox.members import size_of

MANY = 128
BYTES = 4 * 1024 * 1024
"""Bounds of one read; a single larger body is read alone."""
FEW = 16
"""Unproven lanes of a sink that wait to be started, above which no more of them are read: they
start a few at a time, and what is read long before keeps waiting what could start at once."""

Wanted = tuple[Lane, Item, Slot]
"""A body to read, and the room that it has."""


class Reads:
    """Lanes that want bodies, the proven and the others apart: a thousand lanes that wait for
    room must not stand before one that has it. Proven lanes with nothing in hand go before those
    that read ahead, by themselves: what a short read brings can start while a long one is on its
    way."""

    def __init__(self) -> None:
        self._idle: deque[Lane] = deque()
        self._proven: deque[Lane] = deque()
        self._unproven: deque[Lane] = deque()
        self._first = True

    def __bool__(self) -> bool:
        return bool(self._idle or self._proven or self._unproven)

    def waiting(self, *, proven: bool) -> int:
        """How many lanes of that kind want bodies."""
        return len(self._idle) + len(self._proven) if proven else len(self._unproven)

    def add(self, lane: Lane) -> bool:
        """The lane wants bodies; False: that was known. One that proved itself since does not
        go on waiting among the others."""
        if lane.gone or (lane.reading and (lane.reading != "unproven" or not lane.quick)):
            return False
        if not lane.quick:
            lane.reading = "unproven"
            self._unproven.append(lane)
        elif lane.loaded or lane.work.flying:
            lane.reading = "proven"
            self._proven.append(lane)
        else:
            lane.reading = "idle"
            self._idle.append(lane)
        return True

    def collect(self) -> tuple[list[Wanted], list[Lane]]:
        """What to read in the next round trip, a few items a lane, lanes in turn; and lanes
        whose room is taken by bodies that cannot start (a retry came before them)."""
        batch: list[Wanted] = []
        crowded: list[Lane] = []
        self._empty("idle", self._idle, 0, batch, crowded)
        if batch:
            return batch, crowded
        self._first = not self._first
        size = 0
        queues = [("proven", self._proven), ("unproven", self._unproven)]
        for name, queue in queues if self._first else reversed(queues):
            size = self._empty(name, queue, size, batch, crowded)
        return batch, crowded

    def _empty(
        self, name: str, queue: deque[Lane], size: int, batch: list[Wanted], crowded: list[Lane]
    ) -> int:
        """Each lane of the queue once, within the bounds; the bytes of all that is read."""
        new = 0
        for _ in range(len(queue)):
            lane = queue[0]
            if lane.reading == name and not lane.gone:
                if size > BYTES or len(batch) >= MANY:
                    break
                if name == "unproven":
                    new += 1
                    if new + len(lane.station.turns[False]) > FEW:
                        break
            queue.popleft()
            if lane.reading != name:
                continue
            lane.reading = ""
            if not lane.gone and not lane.work.stopping:
                size += self._take(lane, batch, crowded)
        return size

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
