"""Events that the outbox still has, by id: `GET /event/<instance>/<id>`.

An outbox has no index by event id, and needs none for this: an id of ours says when it was
drawn, and its entry was appended right after; when a caller's own id was accepted is known for
as long as repeats of it are. So the search begins there, beyond the edge of retention too (where
lanes have what waits), and only then goes through what is retained from the newest entry back
(the event was requeued, or its id tells nothing).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from evoflask import ids
from evoflask.formats import Standard
from evoflask.models import Instance
from evoflask.outbox import Outbox, entries, verbs

SKEW_MS: Final = 1_000
"""How far the clocks of a web process and of Redis may differ."""
LATE_MS: Final = 10_000
"""How long after its id was drawn an event may be appended, where it came in a long batch."""


PAGES: Final = 100
"""Pages that are looked through of a range, of some 200 entries and a megabyte at most each."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An entry that the outbox still has."""

    entry: str
    fields: Mapping[bytes, bytes]

    @property
    def size(self) -> int:
        """Bytes of the event."""
        return int(self.fields[b"size"])

    @property
    def at(self) -> float:
        """When it was appended, Unix seconds of Redis' clock."""
        return int(self.entry.partition("-")[0]) / 1000

    @property
    def requeued(self) -> bool:
        """Appended again, for one lane alone."""
        return self.fields.get(b"mode") == b"requeued"

    @property
    def lanes(self) -> dict[str, str]:
        """The lanes it was routed to, each with its member there."""
        ms, seq = self.entry.split("-")
        head = f"{int(ms):013}-{int(seq):010}:{int(self.fields[b'size'])}:"
        routed = (each.partition(":") for each in self.fields[b"to"].decode().split())
        return {lane: head + key for lane, _, key in routed}

    @property
    def meta(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.fields[b"meta"])
        return found


def find(
    outbox: Outbox, partition: int, i: str, event_id: str, known: Iterable[str] = ()
) -> list[Kept]:
    """Every entry of an event that the outbox has, the newest first: retained, or waiting on a
    lane. `known`: entries that it may have, found elsewhere. Raises `OutboxDown`.

    One that left retention and waits is looked for at the time at which its id was drawn or
    accepted; a caller's own id that is not remembered any more may be overlooked there.
    """
    found = set(known)
    for start, floor, deep in _ranges(event_id, entries.accepted(outbox, partition, i, event_id)):
        at = start
        for _ in range(PAGES):
            if not at:
                break
            call = verbs.find(partition, i, event_id, start=at, floor=floor, deep=deep)
            page = outbox.run(call)
            if page.entry:
                found.add(page.entry)
            at = page.more or (f"({page.entry}" if page.entry else "")
    newest = sorted(found, key=_order, reverse=True)
    read = entries.fields(outbox, partition, i, newest)
    return [
        Kept(entry, each)
        for entry, each in zip(newest, read, strict=True)
        if each is not None and each.get(b"id") == event_id.encode()
    ]


def body(
    outbox: Outbox, home: Instance, found: Sequence[Kept], borrow: Callable[[int], None]
) -> bytes | None:
    """Return the event in the standard format, `data` to the byte; None if no entry has it.

    An event that was requeued has several entries with equal bodies, of which one is read.
    `borrow` gets its size in bytes first, and may raise. Raises `OutboxDown`.
    """
    for kept in found:
        data = kept.fields.get(b"data")
        if data is None:
            borrow(kept.size)
            data = entries.body(outbox, home.partition, home.outbox, kept.entry)
        if data is not None:
            return Standard(home.name).body(_event(kept.entry, kept.fields, data))
    return None


def _order(entry: str) -> tuple[int, ...]:
    return tuple(int(part) for part in entry.split("-"))


def _ranges(event_id: str, accepted: float | None) -> Iterator[tuple[str, str, bool]]:
    """Where to look, one after the other: each from its start back to its floor, and whether
    beyond the edge of retention."""
    drawn = ids.time_of(event_id)
    if drawn is not None:
        yield f"{drawn + SKEW_MS}-0", f"{max(0, drawn - SKEW_MS)}-0", True
        yield f"{drawn + LATE_MS}-0", f"{drawn + SKEW_MS}-0", True
    if accepted is not None:
        ms = round(accepted * 1000)
        yield f"{ms + SKEW_MS}-0", f"{ms - SKEW_MS}-0", True
    yield "+", "0-0", False


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
    mark: str


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
        mark="replay" if "replay" in meta else "",
    )
