"""The delivery log: every attempt, as rows that can be asked for. For the routes, the CLI, the
clock.

Drains hand batches of attempts to Redis (`outbox/attempts.py`); the clock writes their rows and
then takes them off. The names of the last batches are kept in the transaction that writes their
rows, so that a crash between the two writes nothing twice. It is a log and no book: under
pressure attempts are dropped, and how many is counted.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import peewee

from evoflask import db
from evoflask.models import DeliveryLog, Meta
from evoflask.outbox import Outbox, attempts
from evoflask.outbox.attempts import Batch

MOVE = 8
"""Batches whose rows are written in one transaction: some 2,000 rows, 50 ms."""
FORGET = 2_000
"""Rows that are deleted in one transaction."""


# -- the clock's ----------------------------------------------------------------------------


def move(outbox: Outbox, partition: int, until: float) -> int:
    """Write the rows of what drains handed over, till `until` of the monotonic clock at least a
    piece of it. Answers how many rows. Raises `DatabaseDown`, `OutboxDown`."""
    written = 0
    while batches := attempts.read(outbox, partition, MOVE):
        written += _write(partition, batches)
        attempts.remove(outbox, partition, batches)
        if len(batches) < MOVE or time.monotonic() > until:
            break
    return written


def _write(partition: int, batches: Sequence[Batch]) -> int:
    """The rows of batches that were not written before."""
    key = f"attempts:{partition}"
    with db.writing():
        db.alone(key)  # a clock whose lease lapsed may still be at it
        kept = Meta.get_or_none(Meta.key == key)
        known = set() if kept is None else set(orjson.loads(kept.value))
        rows: list[tuple[Any, ...]] = []
        for batch in batches:
            if batch.name not in known:
                known.add(batch.name)
                rows += _rows(batch)
        rows.sort(key=_began)
        if rows:
            db.insert_rows(DeliveryLog._meta.table_name, _COLUMNS, rows)
        names = orjson.dumps([batch.name for batch in batches]).decode()
        note = Meta.insert(key=key, value=names)
        note.on_conflict(conflict_target=[Meta.key], update={Meta.value: names}).execute()
    return len(rows)


_COLUMNS = (
    "instance_id", "instance_name", "subscription_name", "sink", "lane", "entry", "event_id",
    "event", "number", "at", "seconds", "outcome", "code", "detail", "host", "answer",
)  # fmt: skip
_AT = _COLUMNS.index("at")


def _rows(batch: Batch) -> list[tuple[Any, ...]]:
    return [(*batch.places[row.lane], *row) for row in batch.rows if row.lane in batch.places]


def _began(row: tuple[Any, ...]) -> Any:
    return row[_AT]


def forget(seconds: float, entries: int, until: float) -> int:
    """Delete what is older than that or beyond so many, the oldest first, in pieces, till
    `until` of the monotonic clock. Answers how many rows."""
    return _forget_old(time.time() - seconds, until) + _forget_beyond(entries, until)


def _forget_old(before: float, until: float) -> int:
    return _delete(DeliveryLog.at < before, DeliveryLog.at, until)


def _forget_beyond(entries: int, until: float) -> int:
    """Ids have no gaps to speak of, and counting a million rows takes a tenth of a second."""
    with db.translate():
        last = DeliveryLog.select(peewee.fn.MAX(DeliveryLog.id)).scalar()
    return _delete(DeliveryLog.id <= (last or 0) - entries, DeliveryLog.id, until)


def forget_instance(instance_id: int, until: float) -> bool:
    """Delete the log of a deleted instance, in pieces; whether nothing is left of it."""
    _delete(DeliveryLog.instance_id == instance_id, DeliveryLog.id, until)
    with db.translate():
        return not DeliveryLog.select().where(DeliveryLog.instance_id == instance_id).exists()


def _delete(where: Any, order: Any, until: float) -> int:
    """By a query inside the statement, not by a list of ids: lists of many lengths are as many
    statements, of which the driver keeps 128 prepared, some 30 MB in all."""
    gone = 0
    piece: Any = DeliveryLog.select(DeliveryLog.id).where(where).order_by(order).limit(FORGET)
    while True:
        with db.translate():
            if not piece.limit(1).exists():
                return gone  # nobody waits for a write that there is not
        with db.writing():
            n = int(DeliveryLog.delete().where(DeliveryLog.id.in_(piece)).execute())
        gone += n
        if n < FORGET or time.monotonic() > until:
            return gone


# -- reading --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Filter:
    """Which attempts. None: any. `since` and `until` are Unix seconds of their beginning."""

    instances: Sequence[int] | None = None
    """Ids of rows: a name may have been another tenant's."""
    subscription: str | None = None
    event: str | None = None
    event_id: str | None = None
    outcome: str | None = None
    since: float | None = None
    until: float | None = None


def find(wanted: Filter, *, before: int | None = None, limit: int = 100) -> list[DeliveryLog]:
    """Attempts, the last written first. `before`: the id of the last one of the page before,
    which stays a good cursor while attempts come and go. Raises `DatabaseDown`."""
    where = _where(wanted)
    if before is not None:
        where &= DeliveryLog.id < before
    with db.translate():
        query = DeliveryLog.select().where(where)
        return list(query.order_by(DeliveryLog.id.desc()).limit(limit))


def of_event(instance_id: int, event_id: str, limit: int = 1000) -> list[DeliveryLog]:
    """An event's attempts, the last `limit` of them, the first one first."""
    wanted = Filter(instances=[instance_id], event_id=event_id)
    return sorted(find(wanted, limit=limit), key=lambda row: (row.at, row.id))


def oldest() -> float | None:
    """Since when attempts are kept, Unix seconds; None: there are none."""
    with db.translate():
        found = DeliveryLog.select(peewee.fn.MIN(DeliveryLog.at)).scalar()
    return None if found is None else float(found)


def _one_of(column: Any, values: Sequence[Any]) -> Any:
    """With one value as an equation: then an index answers in the order of ids."""
    return column == values[0] if len(values) == 1 else column.in_(list(values))


def _where(wanted: Filter) -> Any:
    where = DeliveryLog.id > 0
    if wanted.instances is not None:
        where &= _one_of(DeliveryLog.instance_id, wanted.instances)
    columns = {
        DeliveryLog.subscription_name: wanted.subscription,
        DeliveryLog.event: wanted.event,
        DeliveryLog.event_id: wanted.event_id,
        DeliveryLog.outcome: wanted.outcome,
    }
    for column, value in columns.items():
        if value is not None:
            where &= column == value
    if wanted.since is not None:
        where &= DeliveryLog.at >= wanted.since
    if wanted.until is not None:
        where &= DeliveryLog.at < wanted.until
    return where
