"""A drain's attempts on their way to the delivery log: a bounded buffer that nobody waits for.

An attempt costs the hot path a tuple. A few times a second what came together is handed to
Redis in one small piece; what there is no room for is dropped and counted, here and there.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from evoflask.delivery.held import Lane
from evoflask.delivery.lanes import Item
from evoflask.errors import OutboxFull
from evoflask.ids import random_id
from evoflask.outbox import AsyncOutbox, attempts, verbs
from evoflask.outbox.attempts import PIECE, Place
from evoflask.sinks.base import Attempt, Outcome

EVERY = 0.5
"""Seconds between two flushes."""
BUFFER = 4 * 1024 * 1024
"""Bytes that wait in a drain at most, by the same rough measure as `PIECE`."""
OVERHEAD = 200
"""What an attempt takes beside its answer and its reason, about."""

Row = tuple[Any, ...]
"""The fields of `outbox.attempts.Tried`."""


@dataclass(slots=True)
class _Batch:
    """What is handed over under one name, however often that takes."""

    name: str
    n: int
    packed: bytes
    size: int


@dataclass(slots=True)
class _Buffer:
    """What waits for one partition."""

    rows: list[Row] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=dict)
    sending: _Batch | None = None

    def cut(self, most: int) -> _Batch:
        """The oldest `most` rows at most, as many as a piece may have."""
        n = size = 0
        while n < min(most, len(self.rows)) and (not n or size + self.sizes[n] <= PIECE):
            size += self.sizes[n]
            n += 1
        rows, self.rows, self.sizes = self.rows[:n], self.rows[n:], self.sizes[n:]
        places = {row[0]: self.places[row[0]] for row in rows}
        if not self.rows:
            self.places = {}
        return _Batch(random_id(), n, attempts.pack(places, rows), size)


class Attempts:
    """All methods are for one loop. `keep`: the setting `ATTEMPTS_LOG`."""

    def __init__(self, keep: str) -> None:
        self._off = keep == "off"
        self._all = keep == "all"
        self._buffers: dict[int, _Buffer] = {}
        self._size = 0
        self._dropped = 0
        """Attempts that nobody was told of yet."""
        self._flushing = asyncio.Lock()
        self._noted = asyncio.Event()

    def note(self, lane: Lane, item: Item, attempt: Attempt, at: float, seconds: float) -> None:
        """Remember one that began `at` (Unix seconds of Redis' clock) and took `seconds`."""
        if self._off or not (self._all or attempt.outcome is not Outcome.DELIVERED):
            return
        size = OVERHEAD + len(attempt.detail) + len(attempt.answer)
        if self._size + size > BUFFER:
            self._dropped += 1
            return
        held, delivery = lane.held, item.load.delivery  # type: ignore[attr-defined]
        buffer = self._buffers.get(held.partition)
        if buffer is None:
            buffer = self._buffers[held.partition] = _Buffer()
        if held.lane not in buffer.places:
            buffer.places[held.lane] = _place(lane)
        self._size += size
        self._noted.set()
        buffer.sizes.append(size)
        buffer.rows.append(
            (
                held.lane,
                item.entry,
                delivery.event_id,
                delivery.event,
                item.tries + 1,
                at,
                seconds,
                attempt.outcome.value,
                attempt.code,
                attempt.detail,
                attempt.host,
                attempt.answer,
            )
        )

    async def wait(self) -> None:
        """Until there is something to hand over."""
        if not self._size:
            self._noted.clear()
            await self._noted.wait()

    async def flush(self, outbox: AsyncOutbox) -> None:
        """Hand over what has come so far. Raises what Redis raises; nothing is forgotten then,
        and what may have arrived is handed over again under the same name."""
        async with self._flushing:
            await self._flush(outbox)

    async def _flush(self, outbox: AsyncOutbox) -> None:
        for partition, buffer in list(self._buffers.items()):
            left = len(buffer.rows)  # not what comes meanwhile: that would be many small pieces
            while buffer.sending or left > 0:
                if buffer.sending is None:
                    buffer.sending = buffer.cut(left)
                    left -= buffer.sending.n
                await self._send(outbox, partition, buffer.sending)
                self._size -= buffer.sending.size
                buffer.sending = None

    async def _send(self, outbox: AsyncOutbox, partition: int, batch: _Batch) -> None:
        dropped = self._dropped
        try:
            await outbox.run(verbs.log(partition, batch.name, batch.n, batch.packed, dropped))
        except OutboxFull:
            self._dropped += batch.n
        else:
            self._dropped -= dropped


def _place(lane: Lane) -> Place:
    settings = lane.settings
    return Place(
        settings.instance_id,
        settings.instance_name,
        settings.subscription_name,
        settings.target.sink,
    )
