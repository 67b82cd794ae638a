"""Letters go: those that were dealt with, once nothing can bring them back; and the oldest of
those that nobody dealt with, past a limit of age or number.

All of it in transactions of a bounded number of rows, and for a bounded time a tick.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Any

from evoflask import db
from evoflask.deadletters.reading import CLAIM, Filter, count, is_open
from evoflask.models import DeadLetter
from evoflask.outbox.timetable import Persisted

log = logging.getLogger(__name__)

PERSIST_SECONDS = 3.0
"""A requeue counts as written to disk so long after it, when Redis says that it keeps up:
`appendfsync everysec` takes at most two."""
CLAIM_SECONDS = 15.0
"""A claim ends so long after it was made: an append that waits for Redis, for the configuration
and for Redis again takes less."""
PIECE = 500
"""Letters of one transaction."""
SECONDS = 0.3
"""How long one of these works a tick."""
DAY = 86_400.0


def confirm(persisted: Persisted, now: float) -> None:
    """Requeued letters: let go of the bodies once Redis has the events on disk under the run
    id that took them; another run id may have lost them, so those letters are open again, as
    are those that somebody claimed and did not come back to."""
    marked = DeadLetter.requeued_at.is_null(False) & DeadLetter.requeued_run.is_null(False)
    other = DeadLetter.requeued_run != persisted.run_id
    claimed = DeadLetter.requeued_run.startswith(CLAIM)
    again = {"requeued_at": None, "requeued_run": None}
    if reopened := _each(marked & other & ~claimed, **again):
        log.warning("Redis restarted: requeued letters are open again", extra={"n": reopened})
    old = claimed & (DeadLetter.requeued_at < now - CLAIM_SECONDS)
    if reopened := _each(marked & old, **again):
        log.warning("a requeue broke off: its letters are open again", extra={"n": reopened})
    if persisted.settled:
        kept = DeadLetter.requeued_at < now - PERSIST_SECONDS
        _each(marked & ~other & kept, data=None, requeued_run=None)


def _each(which: Any, **change: Any) -> int:
    """Change letters a piece at a time; how many."""
    end, done = time.monotonic() + SECONDS, 0
    while time.monotonic() < end and (ids := _ids(which)):
        with db.writing():
            again = DeadLetter.id.in_(ids) & which
            done += int(DeadLetter.update(**change).where(again).execute())
    return done


def _ids(which: Any, limit: int = PIECE) -> list[int]:
    query: Any = DeadLetter.select(DeadLetter.id).where(which).limit(limit)
    with db.translate():
        return [id for (id,) in query.tuples()]


def forget(before: float) -> None:
    """Delete keys of letters that were requeued or discarded before that."""
    end = time.monotonic() + SECONDS
    requeued = DeadLetter.requeued_run.is_null() & (DeadLetter.requeued_at < before)
    for old in (requeued, DeadLetter.discarded_at < before):
        while ids := _ids(old):
            with db.writing():
                DeadLetter.delete().where(DeadLetter.id.in_(ids)).execute()
            if time.monotonic() > end:
                return


# -- limits -------------------------------------------------------------------------------------


def retire(before: float, entries: int, now: float) -> dict[str, int]:
    """Give the oldest up for good: those given up before a date, and those beyond a number.
    How many went, by sink. Their keys stay as those of any discarded letter."""
    gone: Counter[str] = Counter()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and (rows := _oldest(DeadLetter.created_at < before, PIECE)):
        gone.update(_retire(rows, now))
    excess = count(Filter()) - entries
    while excess > 0 and time.monotonic() < end:
        rows = _oldest(DeadLetter.created_at >= 0, min(PIECE, excess))
        gone.update(_retire(rows, now))
        excess -= len(rows)
    return dict(gone)


def _oldest(which: Any, limit: int) -> list[tuple[int, str]]:
    query: Any = DeadLetter.select(DeadLetter.id, DeadLetter.sink).where(is_open() & which)
    with db.translate():
        return list(query.order_by(DeadLetter.created_at).limit(limit).tuples())


def _retire(rows: list[tuple[int, str]], now: float) -> Counter[str]:
    with db.writing():
        change = DeadLetter.update(discarded_at=now, data=None)
        change.where(DeadLetter.id.in_([id for id, _ in rows]) & is_open()).execute()
    return Counter(sink for _, sink in rows)


def expiring(seconds: float, entries: int, now: float) -> int:
    """How many letters go within a day if nobody deals with them: those that will be too old,
    or those beyond the number if as many come as came in the last day."""
    old = count(Filter(until=now - seconds + DAY))
    excess = count(Filter()) + count(Filter(since=now - DAY)) - entries
    return max(old, excess, 0)
