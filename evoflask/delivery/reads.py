"""Which bodies a drain reads next. No I/O."""

from __future__ import annotations

from collections import deque

from evoflask.delivery.held import Lane, Standing
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
    """Lanes that want bodies, by their standing: a thousand lanes that wait for room must not
    stand before one that has it. Quick ones with nothing in hand go before those that read
    ahead, by themselves: what a short read brings can start while a long one is on its way."""

    def __init__(self) -> None:
        self._idle: deque[Lane] = deque()
        self._others: dict[Standing, deque[Lane]] = {each: deque() for each in Standing}
        self._order = deque(Standing)

    def __bool__(self) -> bool:
        return bool(self._idle) or any(self._others.values())

    def waiting(self, standing: Standing) -> int:
        """How many lanes of that standing want bodies."""
        idle = len(self._idle) if standing is Standing.QUICK else 0
        return len(self._others[standing]) + idle

    def add(self, lane: Lane) -> bool:
        """The lane wants bodies; False: that was known. One that is better by now does not go
        on waiting among those that are not."""
        now = lane.standing
        if lane.gone or (lane.reading is not None and lane.reading <= now):
            return False
        lane.reading = now
        idle = now is Standing.QUICK and not lane.loaded and not lane.work.flying
        (self._idle if idle else self._others[now]).append(lane)
        return True

    def collect(self) -> tuple[list[Wanted], list[Lane]]:
        """What to read in the next round trip, a few items a lane, lanes in turn; and lanes
        whose room is taken by bodies that cannot start (a retry came before them)."""
        batch: list[Wanted] = []
        crowded: list[Lane] = []
        self._empty(Standing.QUICK, self._idle, 0, batch, crowded)
        if batch:
            return batch, crowded
        self._order.rotate()
        size = 0
        for each in self._order:
            size = self._empty(each, self._others[each], size, batch, crowded)
        return batch, crowded

    def _empty(
        self,
        standing: Standing,
        queue: deque[Lane],
        size: int,
        batch: list[Wanted],
        crowded: list[Lane],
    ) -> int:
        """Each lane of the queue once, within the bounds; the bytes of all that is read."""
        new = 0
        for _ in range(len(queue)):
            lane = queue[0]
            if lane.reading is standing and not lane.gone:
                if size > BYTES or len(batch) >= MANY:
                    break
                if standing is Standing.UNPROVEN:
                    new += 1
                    if new + len(lane.station.turns[standing]) > FEW:
                        break
            queue.popleft()
            if lane.reading is not standing:
                continue  # it is better by now, and waits elsewhere or was read
            lane.reading = None
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
