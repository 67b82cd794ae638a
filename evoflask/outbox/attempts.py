"""Attempts on their way to the delivery log: packed by a drain, read by the clock.

A batch is a piece of a capped stream, one a partition. A drain adds a batch a few times a
second and waits for nobody: where the stream is full or memory is short, the batch is dropped
and counted. The clock takes batches off once their rows are written, and a batch has a name, so
that what was written is not written again after a crash between the two.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from evoflask.outbox import keys, verbs
from evoflask.outbox.client import Outbox

PIECE = 64 * 1024
"""Bytes of a batch before it is packed: half a millisecond of a drain's loop."""
LEVEL = 1


class Tried(NamedTuple):
    """One attempt. Names are of the moment at which it was made."""

    lane: str
    entry: str
    event_id: str
    event: str
    number: int
    """1 for the first try."""
    at: float
    """When it began, Unix seconds of Redis' clock."""
    seconds: float
    outcome: str
    code: str
    detail: str
    host: str
    answer: str


class Place(NamedTuple):
    """Whose lane it was."""

    instance_id: int
    instance: str
    subscription: str
    sink: str


@dataclass(frozen=True, slots=True)
class Batch:
    """What a drain packed."""

    id: str
    """Of the stream; changes when it is added again."""
    name: str
    places: Mapping[str, Place]
    """By lane."""
    rows: Sequence[Tried]


def pack(places: Mapping[str, Place], rows: Sequence[tuple[Any, ...]]) -> bytes:
    """Attempts as they are kept; rows have the fields of `Tried`. Pure."""
    named = {lane: tuple(place) for lane, place in places.items()}
    return zlib.compress(orjson.dumps([named, rows]), LEVEL)


def unpack(packed: bytes) -> tuple[dict[str, Place], list[Tried]]:
    """The reverse. Raises `ValueError` for what is none. Pure."""
    try:
        places, rows = orjson.loads(zlib.decompress(packed))
        return {lane: Place(*each) for lane, each in places.items()}, [Tried(*r) for r in rows]
    except (zlib.error, TypeError, AttributeError) as error:
        raise ValueError("not a batch of attempts") from error


def read(outbox: Outbox, partition: int, n: int) -> list[Batch]:
    """The oldest batches. One that cannot be read has no rows. Raises `OutboxDown`."""
    key = keys.of(partition, "attempts")
    found: Any = outbox.ask(lambda r: r.xrange(key, count=n))
    return [_batch(id_.decode(), fields) for id_, fields in found]


def _batch(id_: str, fields: Mapping[bytes, bytes]) -> Batch:
    try:
        places, rows = unpack(fields.get(b"rows", b""))
    except ValueError:
        places, rows = {}, []
    return Batch(id_, fields.get(b"name", b"").decode(), places, rows)


def remove(outbox: Outbox, partition: int, batches: Sequence[Batch]) -> None:
    """Their rows are written. Raises `OutboxDown`."""
    if batches:
        outbox.run(verbs.unlog(partition, [batch.id for batch in batches]))
