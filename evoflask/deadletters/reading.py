"""Letters are read: listed, counted, shown. Writes nothing."""

from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import peewee

from evoflask import db
from evoflask.errors import Conflict, NotFound
from evoflask.models import DeadLetter, Subscription

_SMALL = [field for field in DeadLetter._meta.sorted_fields if field is not DeadLetter.data]
"""All columns but the body."""


RECENT = 5_000
"""Rows that are looked through before an index of the open ones is."""
CLAIM = "claim:"
"""How `requeued_run` begins while somebody is about to requeue the letter."""
_ANY = peewee.SQL("1 = 1")


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
    text: str | None = None
    """Somewhere in the detail; the case of ASCII letters counts for nothing."""
    upto: int | None = None
    """Id of the newest letter: none that came later."""
    ids: Sequence[int] | None = None
    """Letters themselves, ten thousand at most."""


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


def is_open() -> Any:
    """Nobody requeued or discarded it. The words of the partial indexes."""
    return DeadLetter.requeued_at.is_null() & DeadLetter.discarded_at.is_null()


def of(instances: Sequence[int] | None) -> Any:
    """Open, and of these instances; None: of any."""
    return is_open() if instances is None else is_open() & _of(instances)


def _of(instances: Sequence[int]) -> Any:
    return DeadLetter.instance_id.in_(list(instances))


def where(wanted: Filter) -> Any:
    """Open letters of the filter."""
    return is_open() & matches(wanted)


def matches(wanted: Filter) -> Any:
    """The filter alone."""
    terms = []
    if wanted.instances is not None:
        # With a text, all letters are looked through in the one index that has it: the sum
        # keeps SQLite from the index by instance and a look at each of its rows.
        column = DeadLetter.instance_id if wanted.text is None else DeadLetter.instance_id + 0
        terms.append(column.in_(list(wanted.instances)))
    columns = {
        DeadLetter.subscription_name: wanted.subscription,
        DeadLetter.sink: wanted.sink,
        DeadLetter.event: wanted.event,
        DeadLetter.reason: wanted.reason,
        DeadLetter.code: wanted.code,
    }
    terms += [column == value for column, value in columns.items() if value is not None]
    if wanted.since is not None:
        terms.append(DeadLetter.created_at >= wanted.since)
    if wanted.until is not None:
        terms.append(DeadLetter.created_at < wanted.until)
    if wanted.upto is not None:
        terms.append(DeadLetter.id + 0 <= wanted.upto)
    if wanted.ids is not None:
        terms.append(DeadLetter.id.in_(list(wanted.ids)))
    if wanted.text is not None:
        terms.append(DeadLetter.detail.contains(wanted.text))
    return functools.reduce(operator.and_, terms) if terms else _ANY


def find(wanted: Filter, *, before: int | None = None, limit: int = 100) -> list[DeadLetter]:
    """Letters, newest first, without their bodies. `before`: the id of the last one of the page
    before, which stays a good cursor while letters come and go.

    Most often the newest rows hold a page. Where they do not, the ids come out of an index that
    has all that a filter may name: `id + 0` keeps SQLite from walking back through all rows.
    """
    found = where(wanted)
    top = (newest() + 1) if before is None else before
    recent = found & (DeadLetter.id < top) & (DeadLetter.id >= top - RECENT)
    ids = _page(recent, DeadLetter.id, limit)
    if len(ids) < limit and top > RECENT:
        ids = _page(found & (DeadLetter.id + 0 < top), DeadLetter.id + 0, limit)
    with db.translate():
        page = DeadLetter.select(*_SMALL).where(DeadLetter.id.in_(ids))
        return list(page.order_by(DeadLetter.id.desc()))


def _page(found: Any, order: Any, limit: int) -> list[int]:
    query: Any = DeadLetter.select(DeadLetter.id).where(found).order_by(order.desc()).limit(limit)
    with db.translate():
        return [id for (id,) in query.tuples()]


def newest() -> int:
    """Id of the newest row, open or not; 0 where there is none."""
    with db.translate():
        newest: int | None = DeadLetter.select(peewee.fn.MAX(DeadLetter.id)).scalar()
    return newest or 0


def count(wanted: Filter) -> int:
    """How many letters."""
    with db.translate():
        return int(DeadLetter.select(DeadLetter.id).where(where(wanted)).count())


def reasons(wanted: Filter) -> dict[str, int]:
    """How many letters by reason."""
    by_instance = wanted.instances is not None and wanted.text is None
    inner = (DeadLetter.lane,) if by_instance else ()
    return _counted(DeadLetter.reason, where(wanted), *inner)


def by_sink() -> dict[str, int]:
    """How many letters there are, by sink."""
    return _counted(DeadLetter.sink, is_open(), DeadLetter.reason)


def by_lane(wanted: Filter) -> dict[str, int]:
    """How many letters with a body, by lane."""
    found = where(wanted) & (DeadLetter.size > 0)
    if wanted.text is None:
        return _counted(DeadLetter.lane, found, DeadLetter.instance_id)
    # Not the bare column: an index in its order would be walked, with a look at each row.
    return _counted(peewee.fn.COALESCE(DeadLetter.lane, ""), found)


def _counted(column: Any, found: Any, *inner: Any) -> dict[str, int]:
    """`inner`: columns that stand before it in the index, by which the rows need no sorting."""
    n = peewee.fn.COUNT(DeadLetter.id)
    with db.translate():
        rows: Any = DeadLetter.select(column, n).where(found).group_by(*inner, column)
        counts: Counter[str] = Counter()
        for name, each in rows.tuples():
            counts[str(name)] += int(each)
    return dict(sorted(counts.items()))


def head(letter: int, instances: Sequence[int] | None = None) -> DeadLetter:
    """Return an open letter without its body, as `get` does. Raises `NotFound`."""
    with db.translate():
        found = DeadLetter.select(*_SMALL).where(of(instances) & (DeadLetter.id == letter))
        row: DeadLetter | None = found.first()
    if row is None:
        raise no_letter(letter)
    return row


def get(letter: int, instances: Sequence[int] | None = None) -> DeadLetter:
    """An open letter with its body, of these instances (None: of any). Raises `NotFound`."""
    with db.translate():
        row: DeadLetter | None = DeadLetter.get_or_none(of(instances) & (DeadLetter.id == letter))
    if row is None:
        raise no_letter(letter)
    return row


def of_event(instance: int, event_id: str) -> list[DeadLetter]:
    """An event's letters, also those that were requeued or discarded in the last day, the first
    one first, without their bodies."""
    same = (DeadLetter.instance_id == instance) & (DeadLetter.event_id == event_id)
    with db.translate():
        return list(DeadLetter.select(*_SMALL).where(same).order_by(DeadLetter.id))


def newest_of(lane: str) -> DeadLetter | None:
    """Of a lane's letters the one whose event was accepted last, without its body."""
    with db.translate():
        query = DeadLetter.select(*_SMALL).where(DeadLetter.lane == lane)
        found: DeadLetter | None = query.order_by(DeadLetter.entry.desc()).first()
    return found


def no_letter(letter: int) -> NotFound:
    """The one 404."""
    return NotFound(f"There is no dead letter {letter}.")
