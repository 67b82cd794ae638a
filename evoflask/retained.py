"""Events that are kept after their delivery, by id: `GET /event/<instance>/<id>`.

An outbox has no index by event id, and needs none for this: an id of ours says when it was
drawn, and its entry was appended right after. So the search begins there and goes back, and
only then looks at what is newer (the event was requeued). A caller's own id is looked for
from the newest entry back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import orjson

from evoflask import configuration, ids
from evoflask.errors import NotFound
from evoflask.formats import Standard
from evoflask.outbox import Outbox, entries, verbs

SKEW_MS: Final = 1_000
"""How far the clocks of a web process and of Redis may differ before a search takes longer."""


def body(outbox: Outbox, name: str, event_id: str) -> bytes:
    """The event in the standard format, `data` to the byte.

    Raises `NotFound` for an instance that does not exist and an event that is not retained,
    `OutboxDown`, `DatabaseDown`.
    """
    instance = configuration.get(name).instance
    entry = _search(outbox, instance.partition, instance.outbox, event_id)
    if entry:
        [found] = entries.read(outbox, instance.partition, instance.outbox, [entry])
        fields, data = found or ({}, None)
        if data is not None:
            return Standard(name).body(_event(entry, fields, data))
    raise NotFound(f'The "{name}" instance has no event "{event_id}" any more')


def _search(outbox: Outbox, partition: int, i: str, event_id: str) -> str:
    """The entry; "": it is not retained."""
    for start, floor in _ranges(event_id):
        while start:
            page = outbox.run(verbs.find(partition, i, event_id, start=start, floor=floor))
            if page.entry:
                return page.entry
            start = page.more
    return ""


def _ranges(event_id: str) -> Iterator[tuple[str, str]]:
    """Where to look, one after the other: each from its start back to its floor."""
    drawn = ids.time_of(event_id)
    if drawn is None:
        yield "+", "0-0"
    else:
        yield f"{drawn + SKEW_MS}-0", "0-0"
        yield "+", f"{drawn + SKEW_MS}-0"


@dataclass(frozen=True, slots=True)
class _Event:
    """What a format reads."""

    event_id: str
    event: str
    data: bytes
    at: float
    sender: str | None
    date_time: str | None
    server_url: str | None


def _event(entry: str, fields: Mapping[bytes, bytes], data: bytes) -> _Event:
    meta = orjson.loads(fields[b"meta"])
    return _Event(
        event_id=fields[b"id"].decode(),
        event=fields[b"event"].decode(),
        data=data,
        at=int(entry.partition("-")[0]) / 1000,
        sender=meta.get("sender"),
        date_time=meta.get("dateTime"),
        server_url=meta.get("serverUrl"),
    )
