"""Dead letters: written, listed, requeued, discarded. For the routes, the CLI and the clock.

A row is the truth. It is written before its entry leaves `dying` (`bury`), so a crash between
the two repeats the row harmlessly: (lane, entry) is unique. A requeue appends first and marks
the rows after, so a crash between the two delivers twice and loses nothing. The row's key stays
for a day without a body: a stalled bury must not write a ghost of what was requeued.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import peewee

from evoflask import db, formats
from evoflask.envelope import Event
from evoflask.errors import Conflict, NotFound, Unavailable
from evoflask.manager import EventManager
from evoflask.models import DeadLetter, Instance, Subscription
from evoflask.outbox import Outbox, entries, verbs
from evoflask.outbox.entries import Dying
from evoflask.outbox.timetable import Persisted

log = logging.getLogger(__name__)

BURY = 100
BURY_BYTES = 4 * 1024 * 1024
"""Bounds of the letters written in one transaction; one larger body goes alone."""
MANY = 10_000
"""Letters that one call for many handles, unless it is told otherwise."""
SECONDS = 20.0
"""How long one call for many works; what is left is told."""
PAGE = 1000
"""Keys of letters that are read at once."""
PERSIST_SECONDS = 3.0
"""A requeue counts as written to disk so long after it, when Redis says that it keeps up:
`appendfsync everysec` takes at most two."""


# -- writing --------------------------------------------------------------------------------


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
    home = _home(lane)
    if home is None:
        # Deleted, and Redis is told in a moment, which discards them; or lost with an older
        # database, and then the audit tells of the lane.
        return False
    rows = [_row(home, lane, d) for d in dying]
    with db.writing():
        DeadLetter.insert_many(rows).on_conflict_ignore().execute()
    return True


def _home(lane: str) -> Subscription | None:
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


# -- reading --------------------------------------------------------------------------------

_SMALL = [field for field in DeadLetter._meta.sorted_fields if field is not DeadLetter.data]
"""All columns but the body."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters. None: any. `since` and `until` are Unix seconds of the giving up."""

    instances: Sequence[int] | None = None
    """Ids of rows: a name may have been another tenant's."""
    subscription: str | None = None
    sink: str | None = None
    event: str | None = None
    reason: str | None = None
    code: str | None = None
    since: float | None = None
    until: float | None = None


def refuse_websocket(wanted: Filter) -> None:
    """Raises `Conflict` where letters of a websocket are asked for: it has none."""
    if wanted.sink == "websocket" or (wanted.subscription and _is_websocket(wanted)):
        raise Conflict("A websocket subscription has no dead letters.")


def _is_websocket(wanted: Filter) -> bool:
    named = Subscription.name == wanted.subscription
    if wanted.instances is not None:
        named &= Subscription.instance.in_(list(wanted.instances))
    with db.translate():
        sinks = {row.sink for row in Subscription.select(Subscription.sink).where(named).distinct()}
    return sinks == {"websocket"}


def _open() -> Any:
    return DeadLetter.requeued_at.is_null() & DeadLetter.discarded_at.is_null()


def _where(wanted: Filter) -> Any:
    where = _open()
    if wanted.instances is not None:
        where &= DeadLetter.instance_id.in_(list(wanted.instances))
    columns = {
        DeadLetter.subscription_name: wanted.subscription,
        DeadLetter.sink: wanted.sink,
        DeadLetter.event: wanted.event,
        DeadLetter.reason: wanted.reason,
        DeadLetter.code: wanted.code,
    }
    for column, value in columns.items():
        if value is not None:
            where &= column == value
    if wanted.since is not None:
        where &= DeadLetter.created_at >= wanted.since
    if wanted.until is not None:
        where &= DeadLetter.created_at < wanted.until
    return where


def find(wanted: Filter, *, before: int | None = None, limit: int = 100) -> list[DeadLetter]:
    """Letters, newest first, without their bodies. `before`: the id of the last one of the page
    before, which stays a good cursor while letters come and go."""
    where = _where(wanted)
    if before is not None:
        where &= DeadLetter.id < before
    with db.translate():
        query = DeadLetter.select(*_SMALL).where(where)
        return list(query.order_by(DeadLetter.id.desc()).limit(limit))


def count(wanted: Filter) -> int:
    """How many letters."""
    with db.translate():
        return int(DeadLetter.select(DeadLetter.id).where(_where(wanted)).count())


def reasons(wanted: Filter) -> dict[str, int]:
    """How many letters by reason."""
    return _counted(DeadLetter.reason, _where(wanted))


def by_sink() -> dict[str, int]:
    """How many letters there are, by sink."""
    return _counted(DeadLetter.sink, _open())


def _counted(column: Any, where: Any) -> dict[str, int]:
    n = peewee.fn.COUNT(DeadLetter.id)
    with db.translate():
        rows: Any = DeadLetter.select(column, n).where(where).group_by(column).order_by(column)
        return {str(name): int(count) for name, count in rows.tuples()}


def get(letter: int, instances: Sequence[int] | None = None) -> DeadLetter:
    """An open letter with its body, of these instances (None: of any). Raises `NotFound`."""
    where = _where(Filter(instances=instances)) & (DeadLetter.id == letter)
    with db.translate():
        row: DeadLetter | None = DeadLetter.get_or_none(where)
    if row is None:
        raise _none(letter)
    return row


def _none(letter: int) -> NotFound:
    return NotFound(f"There is no dead letter {letter}.")


# -- requeue and discard --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Requeued:
    """What became of a filter."""

    requeued: int
    left: int
    """Letters of the filter that are still open: not reached, or not to be requeued because
    their subscription or their body is gone."""
    stopped: Unavailable | None = None
    """What ended it early, after some were requeued."""


@dataclass(frozen=True, slots=True)
class _Key:
    """A letter that may be requeued, without its body."""

    id: int
    instance: str
    lane: str
    entry: str
    size: int


def requeue(manager: EventManager, letter: int, instances: Sequence[int] | None = None) -> None:
    """Append a letter's event again for its lane, then mark the letter.

    Raises `NotFound`, `Conflict` where the subscription or the body is gone, and what
    `EventManager.requeue` raises. After a `DatabaseDown` the event may be on its way again
    though the letter is open.
    """
    row = get(letter, instances)
    home = _home(row.lane)
    if home is None:
        raise Conflict(f"The subscription of dead letter {letter} was deleted.")
    if row.data is None:
        raise Conflict(f"Dead letter {letter} has no body: its entry was missing.")
    _requeue_rows(manager, home.instance.name, [row])


def requeue_many(
    manager: EventManager, wanted: Filter, *, limit: int = MANY, seconds: float = SECONDS
) -> Requeued:
    """Requeue letters, those of a lane in the order in which their events were accepted.

    An append and a transaction for a hundred letters or a megabyte; memory is bounded by
    that. Letters that cannot be requeued are left. Raises what `EventManager.requeue` does
    if nothing was requeued.
    """
    end = time.monotonic() + seconds
    done = 0
    stopped: Unavailable | None = None
    for piece in _pieces(manager, _keys(wanted, limit)):
        try:
            done += _requeue_piece(manager, piece)
        except Conflict:
            continue  # the subscription was deleted meanwhile
        except Unavailable as error:
            if not done:
                raise
            stopped = error
            break
        if time.monotonic() > end:
            break
    return Requeued(done, count(wanted), stopped)


def _requeue_piece(manager: EventManager, piece: Sequence[_Key]) -> int:
    ids = [key.id for key in piece]
    with db.translate():
        query = DeadLetter.select().where(DeadLetter.id.in_(ids) & _open())
        rows = list(query.order_by(DeadLetter.entry))
    if rows:
        _requeue_rows(manager, piece[0].instance, rows)
    return len(rows)


def _requeue_rows(manager: EventManager, instance: str, rows: Sequence[DeadLetter]) -> None:
    """Rows of one lane, in one append and one transaction: first the append."""
    run_id = manager.run_id()
    manager.requeue(instance, rows[0].lane, [_event(row) for row in rows])
    mark = DeadLetter.update(requeued_at=time.time(), requeued_run=run_id)
    with db.writing():
        mark.where(DeadLetter.id.in_([row.id for row in rows]) & _open()).execute()


def _event(row: DeadLetter) -> Event:
    # The receiver gets what it would have got: the time of the first acceptance.
    assert row.data is not None  # `_keys` leaves those out
    meta = {"dateTime": formats.utc(row.at)} | row.meta
    data = bytes(row.data)
    return Event(row.event_id, False, row.event, data, orjson.dumps(meta), True, None)


def _keys(wanted: Filter, limit: int) -> Iterator[_Key]:
    """Letters that may be requeued, by lane and entry, which is the order of acceptance. They
    may be requeued while this goes on: it only looks ahead."""
    where = _where(wanted) & Instance.deleted_at.is_null() & (DeadLetter.size > 0)
    last: _Key | None = None
    while limit > 0:
        ahead = where
        if last is not None:
            ahead &= (DeadLetter.lane > last.lane) | (
                (DeadLetter.lane == last.lane) & (DeadLetter.entry > last.entry)
            )
        columns = (DeadLetter.lane, DeadLetter.entry, DeadLetter.size)
        query: Any = (
            DeadLetter.select(DeadLetter.id, Instance.name, *columns)
            .join(Subscription, on=Subscription.lane == DeadLetter.lane)
            .join(Instance)
            .where(ahead)
            .order_by(DeadLetter.lane, DeadLetter.entry)
        )
        with db.translate():
            page = [_Key(*row) for row in query.limit(min(limit, PAGE)).tuples()]
        if not page:
            return
        yield from page
        limit -= len(page)
        last = page[-1]


def _pieces(manager: EventManager, keys: Iterator[_Key]) -> Iterator[list[_Key]]:
    """Cut where the lane changes, and where one append would be too much."""
    piece: list[_Key] = []
    size = 0
    for key in keys:
        other = piece and piece[0].lane != key.lane
        if piece and (other or manager.full(len(piece), size + key.size)):
            yield piece
            piece, size = [], 0
        piece.append(key)
        size += key.size
    if piece:
        yield piece


def discard(letter: int, instances: Sequence[int] | None = None) -> None:
    """Give a letter up for good. Changes no book: `dead` is cumulative. Raises `NotFound`."""
    where = _where(Filter(instances=instances)) & (DeadLetter.id == letter)
    with db.writing():
        changed = DeadLetter.update(discarded_at=time.time(), data=None).where(where).execute()
    if not changed:
        raise _none(letter)


def discard_many(wanted: Filter, *, limit: int = MANY, seconds: float = SECONDS) -> tuple[int, int]:
    """Give letters up for good, oldest first; (discarded, left)."""
    end = time.monotonic() + seconds
    done = 0
    ids = DeadLetter.select(DeadLetter.id).where(_where(wanted)).order_by(DeadLetter.id)
    while done < limit and time.monotonic() < end:
        piece = ids.limit(min(PAGE, limit - done))
        with db.writing():
            change = DeadLetter.update(discarded_at=time.time(), data=None)
            n = int(change.where(DeadLetter.id.in_(piece)).execute())
        done += n
        if not n:
            break
    return done, count(wanted)


# -- the clock's ----------------------------------------------------------------------------


def confirm(persisted: Persisted, now: float) -> None:
    """Requeued letters: let go of the bodies once Redis has the events on disk under the run
    id that took them; another run id may have lost them, so those letters are open again."""
    marked = DeadLetter.requeued_at.is_null(False) & DeadLetter.requeued_run.is_null(False)
    with db.translate():
        waiting = DeadLetter.select(DeadLetter.id).where(marked).limit(1).exists()
    if not waiting:
        return
    with db.writing():
        reopened = (
            DeadLetter.update(requeued_at=None, requeued_run=None)
            .where(marked & (DeadLetter.requeued_run != persisted.run_id))
            .execute()
        )
        if persisted.settled:
            DeadLetter.update(data=None, requeued_run=None).where(
                marked & (DeadLetter.requeued_at < now - PERSIST_SECONDS)
            ).execute()
    if reopened:
        log.warning("Redis restarted: requeued letters are open again", extra={"n": reopened})


def forget(before: float) -> None:
    """Delete keys of letters that were requeued or discarded before that."""
    old = (DeadLetter.requeued_run.is_null() & (DeadLetter.requeued_at < before)) | (
        DeadLetter.discarded_at < before
    )
    with db.translate():
        ids = [row.id for row in DeadLetter.select(DeadLetter.id).where(old).limit(500)]
    if ids:
        with db.writing():
            DeadLetter.delete().where(DeadLetter.id.in_(ids)).execute()
