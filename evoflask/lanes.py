"""Lanes as a person sees them: what waits on each, whether it moves, and why not.

For the routes and the CLI. Rows say which lanes there are, Redis says how they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from evoflask import auditlog, configuration, db, schemas
from evoflask.configuration import Configuration
from evoflask.errors import Conflict, Undecipherable
from evoflask.models import Instance, Subscription
from evoflask.outbox import LaneView, Outbox, verbs
from evoflask.outbox.members import at_of
from evoflask.outbox.verbs import Purged, Skipped
from evoflask.plurals import counted

PIECE = 50
"""Lanes that one script looks at: below a millisecond of Redis."""
QUARANTINE = 3
"""Holds lost in a row, after which a lane runs alone."""
SKIPPED = "skipped"
"""Reason of a dead letter: an operator took it out of the way."""
BOOKS = ("routed", "requeued", "delivered", "dead", "discarded")
_REFUSED = {
    "unknown": "Redis was not told of the lane yet; try again.",
    "off": "The subscription is disabled: enable it.",
    "stopped": "An operator paused the lane: resume it.",
    "empty": "Nothing waits on the lane.",
}


@dataclass(frozen=True, slots=True)
class Lane:
    """One lane at one moment. Dates are Unix seconds of Redis' clock."""

    id: int
    """The subscription's row: the cursor of a page."""
    instance: str
    name: str
    sink: str
    lane: str
    guarantee: str | None
    """Where it depends on the subscription's settings."""
    view: LaneView

    @property
    def state(self) -> str:
        """The first that holds: `unknown` (Redis was not told of it yet), `disabled`, `stopped`
        (by an operator), `quarantined` (its holds were lost three times in a row), `paused`
        (its destination fails), `active` (under way or due), `retrying` (all that waits
        failed, and waits for its next try), `idle` (nothing waits)."""
        facts, now = self.view.facts, self.view.now
        if "sink" not in facts:
            return "unknown"
        checks = {
            "disabled": facts.get("on") != "1",
            "stopped": facts.get("stop") == "1",
            "quarantined": self.view.count("lost") >= QUARANTINE,
            "paused": self.paused_until is not None,
            "active": self.held or (self.view.due is not None and self.view.due <= now),
            "retrying": self.view.waiting > 0,
        }
        return next((state for state, holds in checks.items() if holds), "idle")

    @property
    def held(self) -> bool:
        """A drain works on it."""
        return "token" in self.view.facts and self._date("end", self.view.now) is not None

    @property
    def paused_until(self) -> float | None:
        """When the pause of a failing lane ends."""
        return self._date("until", self.view.now)

    @property
    def next_attempt(self) -> float | None:
        """When it is looked at next; None while a drain works on it, or when nobody will."""
        return None if self.held else self.view.due

    @property
    def age(self) -> float | None:
        """How long its oldest event waits, seconds."""
        oldest = self.view.oldest
        return None if oldest is None else max(0.0, self.view.now - oldest)

    @property
    def head_at(self) -> float | None:
        """When what holds the lane up was accepted."""
        return at_of(self.view.head) if self.view.head else None

    @property
    def has_recovered(self) -> bool:
        """Return True if a delivery succeeded after the last failure, and no retry waits."""
        failed = self.view.count("fails") or self.view.retrying
        return not failed and (self.last_delivered_at or 0.0) >= (self._date("errat") or 0.0)

    @property
    def last_error(self) -> str | None:
        """The last failure; None once the lane has recovered from it."""
        return None if self.has_recovered else self.view.facts.get("error")

    @property
    def last_error_at(self) -> float | None:
        """The date of `last_error`."""
        return None if self.has_recovered else self._date("errat")

    @property
    def last_delivered_at(self) -> float | None:
        return self._date("okat")

    @property
    def books(self) -> dict[str, int]:
        return {book: self.view.count(book) for book in BOOKS}

    def _date(self, fact: str, after: float = 0.0) -> float | None:
        at = int(self.view.facts.get(fact) or 0) / 1000
        return at if at > after else None


@dataclass(frozen=True, slots=True)
class Page:
    """Some lanes. `after`: where the next page begins; None: there is none."""

    lanes: Sequence[Lane]
    after: int | None


def page(
    outbox: Outbox, instances: Sequence[int] | None, *, after: int = 0, limit: int = 100
) -> Page:
    """Lanes in the order in which their subscriptions were made. `instances`: of these rows
    only. Raises `DatabaseDown`, `OutboxDown`."""
    rows = _rows(instances, Subscription.id > after, limit + 1)
    more = len(rows) > limit
    rows = rows[:limit]
    return Page(_lanes(outbox, rows), rows[-1].id if more else None)


def every(outbox: Outbox, instances: Sequence[int] | None, *, limit: int = 200) -> Iterator[Lane]:
    """All of them, a page at a time."""
    after: int | None = 0
    while after is not None:
        found = page(outbox, instances, after=after, limit=limit)
        yield from found.lanes
        after = found.after


# -- by hand --------------------------------------------------------------------------------


def stop(
    changes: Configuration,
    outbox: Outbox,
    instance: str,
    subscription: str,
    stopped: bool,
    *,
    by: str,
) -> Lane:
    """Pause a lane or let it go on; how it is then. `by`, here and below: who does it, for the
    audit log. Raises `NotFound`, `Conflict`, `Unavailable`."""
    row = changes.stop(instance, subscription, stopped, by=by)
    return _lanes(outbox, [row])[0]


def probe(outbox: Outbox, instance: str, subscription: str, *, by: str) -> Lane:
    """Have a lane looked at now, though it pauses or waits for the date of a retry: one try,
    and its failure is the next pause. How the lane is then.

    Raises `NotFound`, `Conflict` where nothing can be tried, `Unavailable`.
    """
    row = _row(instance, subscription)
    status = outbox.run(verbs.probe(row.instance.partition, row.lane))
    if status != "ok":
        raise Conflict(_REFUSED[status])
    auditlog.note_done(by, "lane.probe", row.instance, subscription)
    return _lanes(outbox, [row])[0]


def skip(
    outbox: Outbox, instance: str, subscription: str, *, event_id: str | None = None, by: str
) -> Skipped:
    """Give the head of a lane up, whatever the lane's state: it becomes a dead letter, `skipped`,
    and what stood behind it goes on. `event_id`: only where the head is that event.

    Raises `NotFound`, `Conflict`, `Unavailable`.
    """
    row = _row(instance, subscription)
    why = {"reason": SKIPPED, "code": "", "detail": f"an operator skipped it ({by})"}
    call = verbs.skip(
        row.instance.partition, row.lane, event_id=event_id or "", why=orjson.dumps(why).decode()
    )
    skipped = outbox.run(call)
    if skipped.status == "other":
        raise Conflict(f'The head of the lane is "{skipped.event_id}" now; nothing was skipped.')
    if skipped.status != "ok":
        raise Conflict(_REFUSED[skipped.status])
    facts = {"event_id": skipped.event_id, "event": skipped.event, "tries": skipped.tries}
    auditlog.note_done(by, "lane.skip", row.instance, subscription, **facts)
    return skipped


def purge(outbox: Outbox, instance: str, subscription: str, backlog: int, *, by: str) -> Purged:
    """Discard all that waits on a lane, if that is as many as `backlog` says. No letters are
    written; what was given up before gets its own.

    Raises `NotFound`, `Conflict` with the backlog that there is, `Unavailable`.
    """
    row = _row(instance, subscription)
    purged = outbox.run(verbs.purge(row.instance.partition, row.lane, backlog))
    if purged.status == "other":
        raise Conflict(
            f"{counted(purged.count, 'event waits', 'events wait')} on the lane, not {backlog}; "
            "nothing was discarded."
        )
    if purged.status != "ok":
        raise Conflict(_REFUSED[purged.status])
    facts = {"discarded": purged.count, "bytes": purged.bytes}
    auditlog.note_done(by, "lane.purge", row.instance, subscription, **facts)
    return purged


def _row(instance: str, subscription: str) -> Subscription:
    """Of a lane, with its instance. Raises `NotFound`, `Conflict`."""
    found = configuration.get_subscription(instance, subscription)
    if found.sink == "websocket":
        raise Conflict("A websocket subscription has no lane.")
    return found


# -- reading --------------------------------------------------------------------------------


def one(outbox: Outbox, instance: str, subscription: str) -> Lane:
    """Raises `NotFound`, `Conflict` for a websocket, `Unavailable`."""
    return _lanes(outbox, [_row(instance, subscription)])[0]


def _rows(instances: Sequence[int] | None, where: Any, limit: int) -> list[Subscription]:
    where &= (Subscription.sink != "websocket") & Instance.deleted_at.is_null()
    if instances is not None:
        where &= Instance.id.in_(list(instances))
    query = Subscription.select(Subscription, Instance).join(Instance).where(where)
    with db.translate():
        return list(query.order_by(Subscription.id).limit(limit))


def _lanes(outbox: Outbox, rows: Sequence[Subscription]) -> list[Lane]:
    views = look(outbox, [(row.instance.partition, row.lane) for row in rows])
    return [
        Lane(
            id=row.id,
            instance=row.instance.name,
            name=row.name,
            sink=row.sink,
            lane=row.lane,
            guarantee=_guarantee(row),
            view=views[row.lane],
        )
        for row in rows
    ]


def _guarantee(row: Subscription) -> str | None:
    """None too where its settings do not open: a list of lanes is what one looks at then."""
    if row.sink != "nats":
        return None
    try:
        return schemas.guarantee(row.sink, row.open_settings())
    except Undecipherable:
        return None


def look(outbox: Outbox, lanes: Sequence[tuple[int, str]]) -> dict[str, LaneView]:
    """What Redis knows of lanes (partition, lane), each at one moment."""
    by_partition: dict[int, list[str]] = defaultdict(list)
    for partition, lane in lanes:
        by_partition[partition].append(lane)
    return {
        view.lane: view
        for partition, names in by_partition.items()
        for at in range(0, len(names), PIECE)
        for view in outbox.run(verbs.look(partition, names[at : at + PIECE]))
    }
