"""Tests of subscriptions in Redis: taken by a drain, and looked at by who asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evoflask.outbox import keys
from evoflask.outbox.client import AsyncOutbox, Outbox, translated


@dataclass(frozen=True, slots=True)
class Asked:
    """A test that a drain took. `at`: when it was asked for, Unix seconds of Redis' clock."""

    partition: int
    sink: str
    id: str
    lane: str
    at: float
    request: bytes


@dataclass(frozen=True, slots=True)
class Kept:
    """A test as it is remembered. `story` None: nobody has answered yet."""

    i: str
    lane: str
    event: str
    at: float
    story: bytes | None


async def take(
    outbox: AsyncOutbox, partitions: Sequence[int], sinks: Sequence[str], n: int
) -> list[Asked]:
    """Tests that wait, at most `n` of each sink and partition. Each is given to one drain, once: a
    test that is lost with its drain is not sent again."""
    places = [(p, sink) for p in partitions for sink in sinks]
    with translated():
        pipe = outbox.redis.pipeline(transaction=False)
        for partition, sink in places:
            pipe.lpop(keys.of(partition, f"asked:{sink}"), n)
        popped = await pipe.execute()
        found = [
            (partition, sink, trial.decode())
            for (partition, sink), ids in zip(places, popped, strict=True)
            for trial in ids or ()
        ]
        if not found:
            return []
        for partition, _, trial in found:
            pipe.hmget(keys.of(partition, f"trial:{trial}"), "s", "at", "request")
        rows = await pipe.execute()
    return [
        Asked(partition, sink, trial, row[0].decode(), int(row[1]) / 1000, row[2])
        for (partition, sink, trial), row in zip(found, rows, strict=True)
        if row[2] is not None
    ]


def read(outbox: Outbox, partition: int, trial: str) -> Kept | None:
    """A test; None: it is not remembered."""
    key = keys.of(partition, f"trial:{trial}")
    row: Any = outbox.ask(lambda r: r.hmget(key, "i", "s", "event", "at", "story"))
    if row[0] is None:
        return None
    i, lane, event = (each.decode() for each in row[:3])
    return Kept(i, lane, event, int(row[3]) / 1000, row[4])
