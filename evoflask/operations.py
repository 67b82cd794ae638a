"""Long actions by hand: done in bounded pieces, visible while they run, resumable, cancellable.

Whoever starts one gets its first piece at once, which is all of it for a few hundred letters.
What is left becomes a row, and the clock goes on with it: after a kill it resumes behind its
cursor. A kill between a piece and its note repeats that piece, which each kind must bear.

A kind is an action. It registers in `KINDS` where it is written, above this module.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from evoflask import auditlog, db
from evoflask.errors import Conflict, NotFound
from evoflask.manager import EventManager
from evoflask.models import Instance, Operation
from evoflask.plurals import counted

log = logging.getLogger(__name__)

INLINE_SECONDS = 0.5
"""How long the first piece works while its caller waits."""
RUNNING = 8
"""Operations of one instance that run at a time; of the global key ten times as many."""
KEEP_SECONDS = 30 * 86_400.0
"""How long an operation that ended is shown."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a piece works with."""

    manager: EventManager
    most: int
    """Deliveries that the piece may make at most: the operation's rate."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What a piece did."""

    done: int
    failed: int = 0
    """Met, and impossible: no body, for example."""
    cursor: Any = None
    """Where the next one begins, in JSON; the first is given None."""
    finished: bool = False


class Kind(Protocol):
    """An action on many. It holds no state: everything is in the operation."""

    def count(self, operation: Operation) -> int:
        """How many it would handle. Changes nothing."""

    def piece(self, context: Context, operation: Operation, until: float) -> Piece:
        """Go on behind `operation.cursor` until about then (`time.monotonic`).

        Raises `Unavailable` if nothing could be done, and then is asked again; anything else
        ends the operation.
        """


KINDS: dict[str, Kind] = {}
"""By name. A clock leaves operations alone whose kind it does not know."""


def plan(
    kind: str,
    *,
    scope: int | None,
    by: str,
    wanted: Mapping[str, Any],
    onto: Mapping[str, Any] | None = None,
    rate: float | None = None,
) -> Operation:
    """An operation that did nothing yet and has no row. `scope`: the instance that it concerns,
    None for several. `rate`: deliveries a second at most."""
    return Operation(
        kind=kind, scope_instance_id=scope, by=by, wanted=dict(wanted), onto=onto, rate=rate
    )


def count(operation: Operation) -> int:
    """How many it would handle."""
    return KINDS[operation.kind].count(operation)


def start(manager: EventManager, operation: Operation) -> Operation:
    """Do the first piece. It is `done` then, and has no row; or it has one, runs, and the clock
    goes on with it.

    The row comes after the piece, or the clock would do the same piece beside us. Raises
    `Conflict` where too many run, and what the kind raises; then nothing was done.
    """
    until = time.monotonic() + INLINE_SECONDS
    _check_room(operation.scope_instance_id)
    operation.total = count(operation)
    context = Context(manager, allowance(operation.rate, INLINE_SECONDS))
    piece = KINDS[operation.kind].piece(context, operation, until)
    _count(operation, piece)
    if piece.finished or operation.done >= operation.total:
        operation.state = "done"
        operation.ended_at = time.time()
    else:
        with db.writing():
            operation.save(force_insert=True)
        log.info("operation goes on", extra={"operation": operation.id, "kind": operation.kind})
    return operation


def _check_room(scope: int | None) -> None:
    same = Operation.scope_instance_id == scope if scope else Operation.scope_instance_id.is_null()
    with db.translate():
        n = Operation.select().where((Operation.state == "running") & same).count()
    if n >= (RUNNING if scope else RUNNING * 10):
        running = counted(n, "operation runs", "operations run")
        raise Conflict(f"{running} already; wait for one to end, or cancel one.")


def allowance(rate: float | None, seconds: float) -> int:
    """Deliveries that so many seconds are worth."""
    return 10**9 if rate is None else math.floor(rate * seconds)


def _count(operation: Operation, piece: Piece) -> None:
    operation.done += piece.done
    operation.failed += piece.failed
    operation.cursor = piece.cursor
    operation.total = max(operation.total, operation.done + operation.failed)


# -- going on: the clock's ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Turn:
    """An operation that waits for its next piece."""

    id: int
    rate: float | None


def waiting(limit: int = 1000) -> list[Turn]:
    """Those that run, the one first whose last piece is longest ago."""
    query: Any = Operation.select(Operation.id, Operation.rate).where(
        (Operation.state == "running") & Operation.kind.in_(list(KINDS))
    )
    with db.translate():
        rows = query.order_by(Operation.updated_at, Operation.id).limit(limit).tuples()
        return [Turn(*row) for row in rows]


def go_on(manager: EventManager, turn: Turn, most: int, until: float) -> None:
    """The next piece of it, and its note. A cancelled one stays cancelled, and counts what its
    last piece did."""
    with db.translate():
        row = Operation.get_or_none((Operation.id == turn.id) & (Operation.state == "running"))
    if row is None:
        return
    piece = KINDS[row.kind].piece(Context(manager, most), row, until)
    _count(row, piece)
    now = time.time()
    same = Operation.id == row.id
    with db.writing():
        Operation.update(
            done=row.done,
            failed=row.failed,
            total=row.done + row.failed if piece.finished else row.total,
            cursor=row.cursor,
            error=None,
            updated_at=now,
        ).where(same).execute()
        if piece.finished:
            end = Operation.update(state="done", ended_at=now)
            end.where(same & (Operation.state == "running")).execute()


def fail(operation: int, why: str) -> None:
    """End it for good."""
    now = time.time()
    with db.writing():
        end = Operation.update(state="failed", error=why, updated_at=now, ended_at=now)
        end.where((Operation.id == operation) & (Operation.state == "running")).execute()


def hinder(operation: int, why: str) -> None:
    """Note what keeps it from going on now."""
    with db.writing():
        Operation.update(error=why).where(Operation.id == operation).execute()


def forget(before: float) -> None:
    """Delete some that ended before that."""
    with db.translate():
        old = Operation.select(Operation.id).where(Operation.ended_at < before).limit(500)
        ids = [row.id for row in old]
    if ids:
        with db.writing():
            Operation.delete().where(Operation.id.in_(ids)).execute()


# -- looking, cancelling ------------------------------------------------------------------------


def _mine(instances: Sequence[int] | None) -> Any:
    if instances is None:
        return Operation.id.is_null(False)
    return Operation.scope_instance_id.in_(list(instances))


def find(
    instances: Sequence[int] | None,
    *,
    state: str | None = None,
    before: int | None = None,
    limit: int = 100,
) -> list[Operation]:
    """Operations of these instances (None: all), newest first. `before`: a cursor, an id."""
    where = _mine(instances)
    if state is not None:
        where &= Operation.state == state
    if before is not None:
        where &= Operation.id < before
    with db.translate():
        query = Operation.select().where(where)
        return list(query.order_by(Operation.id.desc()).limit(limit))


def get(operation: int, instances: Sequence[int] | None = None) -> Operation:
    """One of these instances (None: of any). Raises `NotFound`."""
    with db.translate():
        row: Operation | None = Operation.get_or_none(
            _mine(instances) & (Operation.id == operation)
        )
    if row is None:
        raise NotFound(f"There is no operation {operation}.")
    return row


def cancel(operation: int, by: str, instances: Sequence[int] | None = None) -> Operation:
    """End it after the piece under way, half a second at most; what is done stays done.
    Raises `NotFound`, and `Conflict` where it ended already."""
    row = get(operation, instances)
    now = time.time()
    with db.writing():
        end = Operation.update(state="cancelled", updated_at=now, ended_at=now)
        changed = end.where((Operation.id == row.id) & (Operation.state == "running")).execute()
    if not changed:
        raise Conflict(f"Operation {operation} is not running: it is {row.state}.")
    auditlog.note(by, "operation.cancel", instance_of(row), operation=row.id, kind=row.kind)
    return get(operation)


def instance_of(operation: Operation) -> Instance | None:
    """The instance that it concerns; None: several, or one that is gone."""
    with db.translate():
        row: Instance | None = Instance.get_or_none(Instance.id == operation.scope_instance_id)
    return row
