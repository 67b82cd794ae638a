"""Letters are delivered again: their events are accepted once more, for one lane alone.

Whoever requeues a letter claims it first, so that two who do it at once deliver it once. Then
comes the append, and the mark of the rows after it: a crash between the two leaves the claim,
which the clock ends after a while, so the event may be delivered twice and is never lost. The
row's key stays for a day without a body: a stalled bury must not write a ghost of what was
requeued.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from evoflask import db, formats, operations
from evoflask.deadletters import walk
from evoflask.deadletters.reading import (
    CLAIM,
    Filter,
    by_lane,
    count,
    head,
    is_open,
    matches,
    no_letter,
)
from evoflask.deadletters.walk import Found, Key
from evoflask.deadletters.writing import home_of
from evoflask.envelope import Event
from evoflask.errors import Conflict, EvoflaskError, Unavailable
from evoflask.ids import random_id
from evoflask.manager import EventManager
from evoflask.models import DeadLetter, Instance, Operation, Subscription
from evoflask.operations import Context, Piece

READ_WAIT_SECONDS = 2.0
"""Time that a requeue waits for bytes that other reads hold."""
LANES = 500
"""Lanes that one query names."""


def requeue(
    manager: EventManager,
    letter: int,
    instances: Sequence[int] | None = None,
    *,
    onto: str | None = None,
) -> DeadLetter:
    """Append a letter's event again for its lane, then mark the letter, which is answered.
    `onto`: the name of another subscription of the same instance.

    Raises `NotFound`, `Conflict` where the subscription or the body is gone, and what
    `EventManager.requeue` raises. After a `DatabaseDown` the event may be on its way again
    though the letter is open.
    """
    row = head(letter, instances)
    lane = row.lane if onto is None else target([row.instance_id], onto)["lane"]
    home = home_of(lane)
    if home is None:
        raise Conflict(f"The subscription of dead letter {letter} was deleted.")
    if not row.size:
        raise Conflict(f"Dead letter {letter} has no body: its entry was missing.")
    if not _append(manager, home.instance.name, lane, [letter], row.size):
        raise no_letter(letter)  # somebody else was faster
    return row


def target(instances: Sequence[int] | None, name: str) -> dict[str, str]:
    """Where letters are requeued to instead, as `plan` takes it. Raises `Conflict`."""
    if instances is None or len(instances) != 1:
        raise Conflict("Name the instance whose subscription the letters are requeued onto.")
    query = Subscription.select(Subscription, Instance).join(Instance)
    with db.translate():
        row = query.where(
            (Subscription.name == name)
            & (Subscription.instance == instances[0])
            & Instance.deleted_at.is_null()
        ).first()
    if row is None:
        raise Conflict(f'The instance has no subscription "{name}" to requeue onto.')
    if row.sink == "websocket":
        raise Conflict("A websocket subscription has no lane to requeue onto.")
    return {"subscription": name, "lane": row.lane}


@dataclass(frozen=True, slots=True)
class Requeued:
    """What became of a filter."""

    requeued: int
    left: int
    """Letters of the filter that are still open: not reached, or not to be requeued because
    their subscription or their body is gone."""
    stopped: Unavailable | None = None
    """What ended it early, after some were requeued."""


def requeue_many(
    manager: EventManager,
    wanted: Filter,
    *,
    limit: int | None = None,
    onto: Mapping[str, str] | None = None,
    tell: Callable[[int], object] = int,
) -> Requeued:
    """Requeue letters to the end, while the caller waits: for a command. `tell`: is told how
    many are done. Raises what `EventManager.requeue` does if nothing was requeued."""
    operation = walk.plan("requeue", wanted, "", limit=limit, onto=onto)
    kind, context = Requeue(patient=False), Context(manager, sys.maxsize)
    stopped: Unavailable | None = None
    finished = False
    while not finished:
        try:
            piece = kind.piece(context, operation, time.monotonic() + 1)
        except Unavailable as error:
            if not operation.done:
                raise
            stopped = error
            break
        operation.done += piece.done
        tell(operation.done)
        operation.cursor, finished = piece.cursor, piece.finished
    return Requeued(operation.done, count(wanted), stopped)


# -- many, as an operation ----------------------------------------------------------------------


@dataclass(slots=True)
class _Work:
    """One piece as it goes."""

    manager: EventManager
    onto: str | None
    room: int
    place: list[str] | None
    done: int = 0
    failed: int = 0
    homes: dict[str, str | None] = field(default_factory=dict)
    """The live instance of a lane, by lane; None: its subscription is gone."""

    def piece(self, finished: bool) -> Piece:
        return Piece(self.done, self.failed, self.place, finished)

    def home(self, lane: str) -> str | None:
        if lane not in self.homes:
            row = home_of(lane)
            self.homes[lane] = None if row is None else row.instance.name
        return self.homes[lane]


class Requeue:
    """Letters of a filter, those of a lane in the order in which they were accepted.

    `patient`: not over while somebody has claimed one of them, who may have been killed.
    """

    def __init__(self, *, patient: bool = True) -> None:
        self._patient = patient

    def count(self, operation: Operation) -> int:
        """Letters with a body and a lane that they can be requeued to."""
        lanes = by_lane(walk.wanted_of(operation))
        live = lanes if operation.onto else _live(list(lanes))
        return walk.total(operation, sum(lanes[lane] for lane in live))

    def piece(self, context: Context, operation: Operation, until: float) -> Piece:
        """See `Kind`. An append and a transaction for a hundred letters or a megabyte."""
        wanted = walk.wanted_of(operation)
        onto = None if operation.onto is None else operation.onto["lane"]
        work = _Work(context.manager, onto, walk.room(operation, context.most), operation.cursor)
        while work.done < work.room:
            found = walk.look(wanted, work.place)
            if found is None:
                claimed = _before_claims(wanted) if self._patient else None
                work.place = claimed or work.place
                return work.piece(finished=claimed is None)
            try:
                self._do(work, found, until)
            except Unavailable:
                if not work.done and not work.failed:
                    raise
                return work.piece(finished=False)
            if time.monotonic() > until:
                break
        return work.piece(finished=walk.limited(operation, work.done))

    def _do(self, work: _Work, found: Found, until: float) -> None:
        """What one look found, as far as time and share go."""
        instance = work.home(work.onto or found.lane)
        if instance is None:
            if work.onto:
                raise Conflict("The subscription that letters were requeued onto was deleted.")
            work.place = found.skip
            return
        keys = found.keys
        while keys and work.done < work.room:
            part = _fitting(work.manager, keys[: work.room - work.done])
            try:
                ids = [key.id for key in part if key.size]
                size = sum(key.size for key in part)
                done = _append(work.manager, instance, work.onto or found.lane, ids, size)
            except Conflict:
                if work.onto:
                    raise
                work.place = found.skip  # the subscription was deleted meanwhile
                return
            work.done += done
            work.failed += sum(not key.size for key in part)
            work.place = [found.lane, part[-1].entry]
            keys = keys[len(part) :]
            if keys and time.monotonic() > until:
                return
        if not keys:
            work.place = found.end


operations.KINDS["requeue"] = Requeue()


def _before_claims(wanted: Filter) -> list[str] | None:
    """The place before the first letter of the filter that is claimed; None: none is."""
    claimed = DeadLetter.requeued_run.is_null(False) & DeadLetter.requeued_run.startswith(CLAIM)
    query: Any = DeadLetter.select(DeadLetter.lane, DeadLetter.entry)
    query = query.where(claimed & matches(wanted)).order_by(DeadLetter.lane, DeadLetter.entry)
    with db.translate():
        first = query.limit(1).tuples().first()
    return None if first is None else [first[0], first[1][:-1]]


def _live(lanes: Sequence[str]) -> set[str]:
    """Those whose subscription is there."""
    found: set[str] = set()
    query: Any = Subscription.select(Subscription.lane).join(Instance)
    for at in range(0, len(lanes), LANES):
        some = Subscription.lane.in_(lanes[at : at + LANES]) & Instance.deleted_at.is_null()
        with db.translate():
            found.update(lane for (lane,) in query.where(some).tuples())
    return found


def _fitting(manager: EventManager, keys: Sequence[Key]) -> Sequence[Key]:
    """As many as one append may carry, one at least."""
    size = 0
    for n, key in enumerate(keys):
        size += key.size
        if n and manager.full(n, size):
            return keys[:n]
    return keys


def _append(manager: EventManager, instance: str, lane: str, ids: Sequence[int], size: int) -> int:
    """Claim letters, append their events, mark the rows. Return how many were appended.

    `size`: bytes of their bodies. Raises `Unavailable` if other reads hold too many bytes.
    """
    with manager.reads.lent(instance, size, READ_WAIT_SECONDS):
        return _append_now(manager, instance, lane, ids)


def _append_now(manager: EventManager, instance: str, lane: str, ids: Sequence[int]) -> int:
    run_id = manager.run_id()
    claim = f"{CLAIM}{random_id()}"
    mine = DeadLetter.requeued_run == claim
    with db.writing():
        take = DeadLetter.update(requeued_at=time.time(), requeued_run=claim)
        if not take.where(DeadLetter.id.in_(ids) & is_open()).execute():
            return 0
    with db.translate():
        rows = list(DeadLetter.select().where(mine).order_by(DeadLetter.entry))
    try:
        manager.requeue(instance, lane, [_event(row) for row in rows])
    except EvoflaskError:
        with db.writing():
            DeadLetter.update(requeued_at=None, requeued_run=None).where(mine).execute()
        raise
    with db.writing():
        DeadLetter.update(requeued_at=time.time(), requeued_run=run_id).where(mine).execute()
    return len(rows)


def _event(row: DeadLetter) -> Event:
    # The receiver gets what it would have got: the time of the first acceptance.
    assert row.data is not None  # those without were left out
    meta: dict[str, Any] = {"dateTime": formats.utc(row.at)} | row.meta
    data = bytes(row.data)
    return Event(row.event_id, False, row.event, data, orjson.dumps(meta), True, None)
