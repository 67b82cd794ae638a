"""Reading entries back, on the synchronous side: for letters, views and the audit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from evoflask.outbox import keys
from evoflask.outbox.client import Outbox
from evoflask.outbox.members import at_of, entry_of, size_of

UNWANTED_PAGE = 200
"""Unwanted events that are read at a time."""


@dataclass(frozen=True, slots=True)
class Dying:
    """A delivery that was given up, with its event. `data` None: the entry is missing."""

    member: str
    tries: int
    reason: str
    code: str
    detail: str
    event_id: str
    event: str
    at: float
    meta: bytes
    data: bytes | None


def dying(outbox: Outbox, partition: int, lane: str, n: int, size: int) -> list[Dying]:
    """Some of what was given up on the lane, at most `n` and `size` bytes, but one at least."""
    key = keys.of(partition, f"dying:{lane}")
    # Not HSCAN, which may find nothing in a part of a hash that had more in it.
    flat: Any = outbox.ask(lambda r: r.hrandfield(key, n, withvalues=True))
    if not flat:
        return []
    rows = dict(zip(flat[::2], flat[1::2], strict=True))
    members = _bounded(sorted(member.decode() for member in rows), size)
    i: Any = outbox.ask(lambda r: r.hget(keys.of(partition, f"lane:{lane}"), "i"))
    found = read(outbox, partition, i.decode() if i else "", members)
    return [
        _dying(m, rows[m.encode()].decode(), entry) for m, entry in zip(members, found, strict=True)
    ]


def edge(outbox: Outbox, partition: int, i: str) -> float | None:
    """When the newest entry was accepted that left retention, Unix seconds; None: none did."""
    found: Any = outbox.ask(lambda r: r.hget(keys.of(partition, f"config:{i}"), "edge"))
    ms = int(found.decode().partition("-")[0]) if found else 0
    return ms / 1000 if ms else None


def accepted(outbox: Outbox, partition: int, i: str, event_id: str) -> float | None:
    """When a caller's own id was accepted, Unix seconds; None: no repeat of it would be told."""
    found: Any = outbox.ask(lambda r: r.zscore(keys.of(partition, f"seen:{i}"), event_id))
    return None if found is None else float(found) / 1000


def unwanted(
    outbox: Outbox, partition: int, i: str, event_id: str
) -> tuple[float, dict[bytes, bytes]] | None:
    """Return when the newest unwanted event with that id was accepted, Unix seconds, and its
    fields `event` and `why`; None: none is kept."""
    key, wanted, until = keys.unwanted(partition, i), event_id.encode(), "+"

    def fetch(r: Any) -> Any:
        return r.xrevrange(key, until, count=UNWANTED_PAGE)

    while True:
        page = outbox.ask(fetch)
        for entry, fields in page:
            if fields[b"id"] == wanted:
                return int(entry.partition(b"-")[0]) / 1000, fields
        if len(page) < UNWANTED_PAGE:
            return None
        until = f"({page[-1][0].decode()}"


def _bounded(members: list[str], size: int) -> list[str]:
    """The first of them, as long as they weigh no more."""
    for n, total in enumerate(accumulate(size_of(member) for member in members)):
        if n and total > size:
            return members[:n]
    return members


def _dying(member: str, kept: str, entry: tuple[dict[bytes, bytes], bytes | None] | None) -> Dying:
    tries, _, why = kept.partition(" ")
    words = json.loads(why)
    fields, data = entry if entry is not None else ({}, None)
    return Dying(
        member=member,
        tries=int(tries),
        reason=words["reason"],
        code=words["code"],
        detail=words["detail"],
        event_id=fields.get(b"id", b"").decode(),
        event=fields.get(b"event", b"").decode(),
        at=at_of(member),
        meta=fields.get(b"meta", b"{}"),
        data=data,
    )


def fields(
    outbox: Outbox, partition: int, i: str, members: Sequence[str]
) -> list[dict[bytes, bytes] | None]:
    """Return the fields of entries by members of a lane, or None for each that is gone.

    A large `data` is kept beside its entry and is not among the fields.
    """
    stream = keys.outbox(partition, i)

    def fetch(r: Any) -> list[Any]:
        pipe = r.pipeline(transaction=False)
        for member in members:
            entry = entry_of(member)
            pipe.xrange(stream, entry, entry)
        found: list[Any] = pipe.execute()
        return found

    return [row[0][1] if row else None for row in outbox.ask(fetch)]


def body(outbox: Outbox, partition: int, i: str, entry: str) -> bytes | None:
    """Return the data that is kept beside an entry, or None if it is gone."""
    found: Any = outbox.ask(lambda r: r.get(keys.body(partition, i, entry)))
    return None if found is None else bytes(found)


def read(
    outbox: Outbox, partition: int, i: str, members: Sequence[str]
) -> list[tuple[dict[bytes, bytes], bytes | None] | None]:
    """Fields and body of entries, by members of a lane; None: the entry is gone."""
    stream = keys.outbox(partition, i)
    ids = [entry_of(member) for member in members]

    def fetch(r: Any) -> tuple[list[Any], list[Any]]:
        pipe = r.pipeline(transaction=False)
        for entry in ids:
            pipe.xrange(stream, entry, entry)
        bodies = r.mget([keys.body(partition, i, entry) for entry in ids]) if ids else []
        return pipe.execute(), bodies

    rows, bodies = outbox.ask(fetch)
    return [
        (row[0][1], row[0][1].get(b"data", body)) if row else None
        for row, body in zip(rows, bodies, strict=True)
    ]


def newest(outbox: Outbox, partition: int, i: str) -> str:
    """The last entry of an outbox; `0-0`: there is none."""
    rows: Any = outbox.ask(lambda r: r.xrevrange(keys.outbox(partition, i), count=1))
    return rows[0][0].decode() if rows else "0-0"


def in_order(entry: str) -> tuple[int, int]:
    """An entry's id as it sorts."""
    ms, _, seq = entry.partition("-")
    return int(ms), int(seq)
