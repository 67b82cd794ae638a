"""Replay: events that are still on the outbox are delivered once more, onto one subscription.

An operation of the kind `replay`. Each event is appended again for that lane alone, by its own
id and in the order of acceptance, and its books count it as requeued. `replay` in its meta says
which replay it belongs to: receivers see that it is one, and brokers that drop repeats by id do
not take it for one. A kill between an append and its note repeats a piece under the same mark.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from evoflask import configuration, formats, operations
from evoflask.envelope import Event
from evoflask.errors import Conflict, Unavailable
from evoflask.ids import random_id
from evoflask.manager import EventManager
from evoflask.models import Instance, Operation
from evoflask.operations import Context, Piece
from evoflask.outbox import Outbox, entries, verbs
from evoflask.outbox.verbs import Scanned

KIND = "replay"
A_PAGE = 100
"""Events of one append."""
READ_WAIT_SECONDS = 2.0
"""Time that a page waits for bytes that other reads hold."""
COUNT_SECONDS = 2.0
"""How long events are counted before a replay begins."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be replayed. `ids` are these events; else those accepted since and until, Unix
    seconds of Redis' clock, None: from the first or to the last. `events`: of these names; empty:
    of any."""

    ids: Sequence[str] = ()
    since: float | None = None
    until: float | None = None
    events: Sequence[str] = ()

    @property
    def words(self) -> dict[str, Any]:
        """Return what was asked, for the audit log: ids as their number."""
        given = {"since": self.since, "until": self.until, "events": list(self.events)}
        said = {name: value for name, value in given.items() if value not in (None, [])}
        if self.ids:
            return said | {"ids": len(self.ids)}
        return said if said.keys() & {"since", "until"} else said | {"all": True}


def plan(
    outbox: Outbox,
    instance: str,
    wanted: Wanted,
    onto: str,
    *,
    by: str,
    rate: float | None = None,
) -> Operation:
    """A replay that did nothing yet; `total` is how many events it found, within `COUNT_SECONDS`
    of looking. Raises `NotFound`, `Conflict` for a websocket, `Unavailable`."""
    row = configuration.get_subscription(instance, onto)
    if row.sink == "websocket":
        raise Conflict("A websocket subscription has no lane; its clients resume by their cursor.")
    home = row.instance
    newest = entries.newest(outbox, home.partition, home.outbox)
    asked: dict[str, Any] = {"run": random_id(), "upto": _upto(wanted.until, newest)}
    if wanted.ids:
        asked["ids"] = list(wanted.ids)
    if wanted.since is not None:
        asked["since"] = wanted.since
    if wanted.until is not None:
        asked["until"] = wanted.until
    if wanted.events:
        asked["events"] = list(wanted.events)
    target = {"subscription": onto, "lane": row.lane}
    planned = operations.plan(KIND, scope=home.id, by=by, wanted=asked, onto=target, rate=rate)
    planned.total = planned.wanted["found"] = _count(outbox, home, planned)
    return planned


def _upto(until: float | None, newest: str) -> str:
    """The last entry that counts: copies that the replay makes itself do not."""
    if until is None:
        return newest
    before = (max(0, round(until * 1000) - 1), 2**63)
    return "{}-{}".format(*min(before, entries.in_order(newest)))


def _count(outbox: Outbox, home: Instance, planned: Operation) -> int:
    end = time.monotonic() + COUNT_SECONDS
    found = 0
    place = _Place.of(planned)
    for page in _pages(outbox, home, planned, place):
        found += len(page.rows)
        place.move(page)
        if time.monotonic() > end:
            break
    return found


class _Place:
    """How far a replay is: the last entry it looked at, and the ids it still looks for."""

    def __init__(self, at: str, left: list[str] | None) -> None:
        self.at = at
        self.left = left

    @classmethod
    def of(cls, operation: Operation) -> _Place:
        """Where it goes on."""
        if operation.cursor is not None:
            return cls(operation.cursor["at"], operation.cursor["left"])
        since = operation.wanted.get("since")
        at = "0-0" if since is None else f"{max(0, round(since * 1000) - 1)}-{2**63}"
        return cls(at, operation.wanted.get("ids"))

    @property
    def cursor(self) -> dict[str, Any]:
        return {"at": self.at, "left": self.left}

    @property
    def over(self) -> bool:
        """All ids were found."""
        return self.left == []

    def move(self, page: Scanned) -> None:
        """Behind this page."""
        self.at = page.more or self.at
        if self.left is not None:
            got = {row.event_id for row in page.rows}
            self.left = [each for each in self.left if each not in got]


def _pages(
    outbox: Outbox, home: Instance, operation: Operation, place: _Place, most: int = A_PAGE
) -> Iterator[Scanned]:
    """Page after page behind a place, which the caller moves."""
    while not place.over:
        page = outbox.run(
            verbs.scan(
                home.partition,
                home.outbox,
                after=place.at,
                last=operation.wanted["upto"],
                events=operation.wanted.get("events", ()),
                ids=place.left or (),
                n=most,
            )
        )
        yield page
        if not page.more:
            return


class Replay:
    """Events of an outbox, in the order of their acceptance."""

    def count(self, operation: Operation) -> int:
        """As `plan` found it."""
        return int(operation.wanted["found"])

    def piece(self, context: Context, operation: Operation, until: float) -> Piece:
        """See `Kind`. An append for a hundred events or a megabyte. Events that left the outbox
        before their turn are `failed`."""
        home = configuration.by_id(operation.scope_instance_id or 0)
        if home is None:
            raise Conflict("The instance was deleted.")
        place, done, failed = _Place.of(operation), 0, 0
        while not place.over and done < context.most:
            most = min(A_PAGE, context.most - done)
            try:
                page = next(_pages(context.manager.outbox, home, operation, place, most))
                n = _append(context.manager, home, operation, page)
            except Unavailable:
                if not done:
                    raise
                return Piece(done, failed, place.cursor)
            done, failed = done + n, failed + len(page.rows) - n
            place.move(page)
            if not page.more:
                return _last(operation, done, failed, place)
            if time.monotonic() > until:
                break
        if place.over:
            return _last(operation, done, failed, place)
        return Piece(done, failed, place.cursor)


def _last(operation: Operation, done: int, failed: int, place: _Place) -> Piece:
    """The end: what was counted and not met has left the outbox meanwhile."""
    met = operation.done + operation.failed + done + failed
    return Piece(done, failed + max(0, operation.total - met), place.cursor, True)


def _append(manager: EventManager, home: Instance, operation: Operation, page: Scanned) -> int:
    """A page of events, in one append; how many were still there."""
    if not page.rows:
        return 0
    with manager.reads.lent(home.name, sum(row.size for row in page.rows), READ_WAIT_SECONDS):
        return _append_now(manager, home, operation, page)


def _append_now(manager: EventManager, home: Instance, operation: Operation, page: Scanned) -> int:
    read = entries.read(
        manager.outbox, home.partition, home.outbox, [row.entry for row in page.rows]
    )
    run = operation.wanted["run"]
    events = [
        _event(row.entry, found[0], found[1], run)
        for row, found in zip(page.rows, read, strict=True)
        if found is not None and found[1] is not None
    ]
    if events:
        assert operation.onto is not None
        manager.requeue(home.name, operation.onto["lane"], events)
    return len(events)


def _event(entry: str, fields: dict[bytes, bytes], data: bytes | None, run: str) -> Event:
    # The receiver gets what it would have got, with the mark.
    at = int(entry.partition("-")[0]) / 1000
    meta = {"dateTime": formats.utc(at)} | orjson.loads(fields[b"meta"]) | {"replay": run}
    name = fields[b"event"].decode()
    return Event(fields[b"id"].decode(), False, name, data or b"", orjson.dumps(meta), True, None)


operations.KINDS[KIND] = Replay()
