"""Letters are written: `bury`, the clock's.

A row is written before its entry leaves `dying`, so a crash between the two repeats the row
harmlessly: (lane, entry) is unique.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import orjson

from evoflask import db
from evoflask.log import Bounded
from evoflask.models import DeadLetter, Instance, Subscription
from evoflask.outbox import Outbox, entries, verbs
from evoflask.outbox.entries import Dying

_written = Bounded(logging.getLogger(__name__), logging.INFO, "a dead letter was written")

BURY = 100
BURY_BYTES = 4 * 1024 * 1024
"""Bounds of the letters written in one transaction; one larger body goes alone."""


def bury(outbox: Outbox, partition: int, lane: str) -> int:
    """Write the letters of some entries that were given up on the lane, then take them out of
    `dying`. Answers how many; 0 when none is left, or when no row knows the lane: then they
    stay where they are."""
    dying = entries.dying(outbox, partition, lane, BURY, BURY_BYTES)
    if not dying:
        outbox.run(verbs.bury(partition, lane, []))
        return 0
    if not _write(lane, dying):
        return 0
    return outbox.run(verbs.bury(partition, lane, [d.member for d in dying]))


def _write(lane: str, dying: list[Dying]) -> bool:
    home = home_of(lane)
    if home is None:
        # Deleted, and Redis is told in a moment, which discards them; or lost with an older
        # database, and then the audit tells of the lane.
        return False
    rows = [_row(home, lane, d) for d in dying]
    with db.writing():
        DeadLetter.insert_many(rows).on_conflict_ignore().execute()
    for row in rows:
        _written.tell(lambda row=row: _log_facts(row))  # type: ignore[misc]
    return True


def _log_facts(row: dict[str, Any]) -> dict[str, object]:
    named = ("event_id", "event", "sink", "reason", "code", "tries")
    return {
        "instance": row["instance_name"],
        "subscription": row["subscription_name"],
        **{name: row[name] for name in named},
    }


def home_of(lane: str) -> Subscription | None:
    """The subscription of a lane, with its instance."""
    query = Subscription.select(Subscription, Instance).join(Instance)
    with db.translate():
        found: Subscription | None = query.where(
            (Subscription.lane == lane) & Instance.deleted_at.is_null()
        ).first()
    return found


def _row(subscription: Subscription, lane: str, d: Dying) -> dict[str, Any]:
    return {
        "instance_id": subscription.instance.id,
        "instance_name": subscription.instance.name,
        "subscription_id": subscription.id,
        "subscription_name": subscription.name,
        "lane": lane,
        "sink": subscription.sink,
        "entry": d.member,
        "event_id": d.event_id,
        "event": d.event,
        "at": d.at,
        "size": len(d.data or b""),
        "reason": d.reason,
        "code": d.code[:40],
        "detail": d.detail,
        "tries": d.tries,
        "data": d.data,
        "meta": orjson.loads(d.meta),
        "created_at": time.time(),
    }
